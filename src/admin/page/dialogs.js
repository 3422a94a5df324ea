// Dialogs: where the focus comes from and goes back to, and the one that asks before something ends.

import { $, busy, named, say, toast } from './elements.js';

// The element that has the focus, by something that outlives a list that is redrawn.
let returnTo = null;
let fallback = () => null;

// What gets the focus when the element that had it is gone.
export function setFallback(find) {
  fallback = find;
}

export function remember() {
  const element = document.activeElement;
  const row = element?.closest?.('tbody tr');
  const rows = row && [...row.parentElement.children];
  returnTo = { element, body: row?.parentElement, id: row?.dataset.id, index: rows?.indexOf(row), name: element?.dataset?.focus };
  return returnTo;
}

export function restore(place = returnTo) {
  if (!place || document.querySelector('dialog[open]')) return;
  if (place.element?.isConnected && place.element.checkVisibility()) {
    place.element.focus();
    return;
  }
  const rows = place.body ? [...place.body.children] : [];
  const row = rows.find((candidate) => candidate.dataset.id === place.id) ?? rows[Math.min(place.index, rows.length - 1)];
  const element = row?.querySelector(`[data-focus="${place.name}"]`) ?? row?.querySelector('button') ?? fallback();
  element?.focus();
}

export function open(dialog, focus) {
  // An action of one dialog opens another: the focus goes back to where the first came from.
  const before = document.querySelector('dialog[open]');
  if (before) {
    const place = returnTo;
    before.close();
    returnTo = place;
  } else {
    remember();
  }
  dialog.showModal();
  focus?.focus();
}

export function closeAll() {
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
}

for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('close', () => {
    if (!$('keys').hidden) restore();
  });
  for (const button of dialog.querySelectorAll('[data-close]')) {
    button.addEventListener('click', () => dialog.close());
  }
}

// Writes the title of a dialog: a sentence, and a name that is text.
export function entitle(dialog, title, name) {
  const words = dialog.querySelector('h2 [data-title]');
  if (words) words.textContent = title;
  const written = dialog.querySelector('h2 [data-name]');
  written.replaceChildren(...(name === undefined ? [] : named(name).childNodes));
}

// ---------------------------------------------------------------- asking

const confirmForm = $('confirm-form');
let asked = null;

// Asks before `run`, which gives what the page then says was done.  `after` brings the view up to date.
export function ask({ title, name, text, yes, isMild, run, after }) {
  entitle($('confirm-dialog'), title, name);
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  $('confirm-yes').className = isMild ? 'primary' : 'danger';
  say(confirmForm.querySelector('[data-error]'), null);
  asked = { run, after };
  open($('confirm-dialog'), confirmForm.querySelector('[data-close]'));
}

let isOver = () => false;

// How a session that is over is told from other denials.
export function setIsOver(decide) {
  isOver = decide;
}

confirmForm.addEventListener('submit', (event) => {
  event.preventDefault();
  const error = confirmForm.querySelector('[data-error]');
  busy($('confirm-yes'), async () => {
    say(error, null);
    let notice;
    try {
      notice = await asked.run();
    } catch (denied) {
      if (isOver(denied)) return;
      // Another person changed it meanwhile: the list will show it.
      if (denied.status !== 404) {
        say(error, denied.message);
        return;
      }
      notice = [denied.message];
    }
    await asked.after();
    $('confirm-dialog').close();
    toast(...notice);
  });
});
