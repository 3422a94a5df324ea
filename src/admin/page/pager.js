// The buttons below a list whose pages the server makes.

import { make } from './elements.js';
import { go, route } from './route.js';

const SIZES = [25, 50, 100];
const SIZE = 50;

// Which page the members of an address ask for, and how many rows it has.
export function position({ page, size }) {
  return {
    page: Math.max(1, Math.trunc(Number(page)) || 1),
    size: SIZES.includes(Number(size)) ? Number(size) : SIZE,
  };
}

export class Pager {
  #nav;
  #view;

  constructor(nav, view) {
    this.#nav = nav;
    this.#view = view;
  }

  #show(page, size) {
    go(this.#view, { ...route().members, page: page === 1 ? '' : page, size: size === SIZE ? '' : size });
  }

  draw({ page, size, total, shown }) {
    const focused = this.#nav.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const last = Math.max(1, Math.ceil(total / size));
    const first = (page - 1) * size + 1;
    const number = (value) => value.toLocaleString('en');
    const count = shown === 0 ? '' : `${number(first)}–${number(first + shown - 1)} of ${number(total)}`;
    const turn = (label, to, isOff) => {
      const button = make('button', { type: 'button', class: 'plain', 'data-focus': label }, label);
      button.disabled = isOff;
      button.addEventListener('click', () => this.#show(to, size));
      return button;
    };
    const sizes = make('select', { 'aria-label': 'Rows on a page', 'data-focus': 'size' },
      ...SIZES.map((each) => make('option', { value: each }, `${each} on a page`)));
    sizes.value = String(size);
    sizes.addEventListener('change', () => this.#show(1, Number(sizes.value)));
    const turns = last === 1 ? [] : [
      turn('First', 1, page === 1), turn('Previous', page - 1, page === 1),
      turn('Next', page + 1, page >= last), turn('Last', last, page >= last),
    ];
    this.#nav.replaceChildren(
      make('p', { role: 'status' }, count),
      ...(total > SIZES[0] ? [make('div', { class: 'ends' }, sizes, ...turns)] : []),
    );
    // A button that cannot be pressed any more gives the focus to its neighbour.
    if (focused === null) return;
    const same = this.#nav.querySelector(`[data-focus="${focused}"]:not(:disabled)`);
    (same ?? this.#nav.querySelector('button:not(:disabled)'))?.focus();
  }
}
