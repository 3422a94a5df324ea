// Parts of the rows of a list.

import { make, named } from './elements.js';
import { openMenu } from './float.js';

// A cell of two lines.  Where a row is a card, the cell says itself what it is.
export function cell(title, first, second, attributes = {}) {
  return make('td', { role: 'cell', 'data-cell': title, ...attributes },
    make('span', { class: 'cell-label' }, title),
    make('div', { class: 'two' }, make('div', {}, ...first), make('div', { class: 'second' }, ...second)));
}

// The head of a row: a name that opens the details, its state, and a description.
export function head(name, description, states, showDetails) {
  const button = make('button', { type: 'button', class: 'link', 'data-focus': 'name', 'aria-haspopup': 'dialog' }, named(name));
  button.addEventListener('click', showDetails);
  return make('th', { role: 'rowheader', scope: 'row' },
    make('div', { class: 'title' }, button, ...states),
    ...(description ? [make('div', { class: 'second description', dir: 'auto' }, description)] : []));
}

// The cell with the menu of a row.
export function actions(name, acts) {
  const button = make('button', {
    type: 'button', class: 'dots', 'data-focus': 'menu', 'aria-haspopup': 'menu', 'aria-expanded': 'false',
  }, make('span', { 'aria-hidden': 'true' }, '⋯'), make('span', { class: 'unseen' }, 'Actions for ', named(name)));
  button.addEventListener('click', () => openMenu(button, `Actions for ${name}`, acts()));
  return make('td', { role: 'cell', class: 'is-acts' }, button);
}
