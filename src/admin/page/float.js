// What floats over the page: the menu of a row, and tooltips.

import { $, make } from './elements.js';

const GAP = 6;

// Puts a popover below its anchor, or above it where the space below is too small, and within the window.
function place(popover, anchor) {
  const at = anchor.getBoundingClientRect();
  const { width, height } = popover.getBoundingClientRect();
  const isBelow = at.bottom + GAP + height <= innerHeight || at.top < height + GAP;
  const isRtl = getComputedStyle(anchor).direction === 'rtl';
  const left = popover.classList.contains('menu') !== isRtl ? at.right - width : at.left;
  popover.style.top = `${isBelow ? at.bottom + GAP : at.top - GAP - height}px`;
  popover.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
}

// ---------------------------------------------------------------- the menu of a row

const menu = $('menu');
let opener = null;

// Opens the menu at a button, with entries `{ label, run, endsIt }`.
export function openMenu(button, label, entries) {
  menu.setAttribute('aria-label', label);
  menu.replaceChildren(...entries.map(({ label: text, run, endsIt }) => {
    const item = make('button', { type: 'button', role: 'menuitem', tabindex: '-1', ...(endsIt ? { class: 'ends-it' } : {}) }, text);
    item.addEventListener('click', () => {
      // The focus is back at the row before the action remembers where it was.
      closeMenu();
      run();
    });
    return item;
  }));
  opener = button;
  menu.showPopover();
  place(menu, button);
  menu.firstElementChild.focus();
}

function closeMenu() {
  if (!menu.matches(':popover-open')) return;
  const back = opener;
  menu.hidePopover();
  if (back?.isConnected) back.focus();
}

menu.addEventListener('toggle', (event) => {
  opener?.setAttribute('aria-expanded', String(event.newState === 'open'));
  if (event.newState === 'closed') opener = null;
});

menu.addEventListener('keydown', (event) => {
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) items[to % items.length].focus();
  else if (event.key === 'Tab' || event.key === 'Escape') closeMenu();
  else return;
  event.preventDefault();
});

addEventListener('resize', closeMenu);
addEventListener('scroll', closeMenu, { passive: true });

// ---------------------------------------------------------------- tooltips

// As WCAG 1.4.13 wants them: shown while the mouse is over the button or the tip or the button has the focus, until
// Escape.
let shownTip = null;

function hideTip() {
  shownTip?.tip.hidePopover();
  shownTip = null;
}

for (const button of document.querySelectorAll('.help')) {
  const tip = $(button.getAttribute('aria-describedby'));
  let leaving;
  const show = () => {
    clearTimeout(leaving);
    if (shownTip?.tip === tip) return;
    hideTip();
    tip.showPopover();
    place(tip, button);
    shownTip = { tip };
  };
  const leave = () => {
    // Time for the mouse to go from the button to the tip.
    leaving = setTimeout(() => {
      if (shownTip?.tip === tip && document.activeElement !== button) hideTip();
    }, 200);
  };
  for (const element of [button, tip]) {
    element.addEventListener('pointerenter', show);
    element.addEventListener('pointerleave', leave);
  }
  button.addEventListener('focus', show);
  button.addEventListener('click', show);
  button.addEventListener('blur', hideTip);
}

// Escape closes the tooltip alone, not the dialog that it is in.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || shownTip === null) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  hideTip();
}, { capture: true });

export function closeFloating() {
  hideTip();
  closeMenu();
}
