// The buttons below a list whose pages the server makes.

import { make } from './elements.js';

export const SIZES = [25, 50, 100];
export const SIZE = 50;

// `show(page, size)` is called for another page.
export class Pager {
  #nav;
  #show;

  constructor(nav, show) {
    this.#nav = nav;
    this.#show = show;
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
