// What a key or an account may do: how it is shown, and the fields in which it is chosen.

import { $, make, named, say } from './elements.js';
import { may } from './session.js';

const ROLES = ['Viewer', 'Editor', 'Admin'];
const rank = (role) => ROLES.indexOf(role);

// ---------------------------------------------------------------- members

// A member's value as it is written: text as it is, all else as JSON.
function write(value) {
  if (typeof value !== 'string') return JSON.stringify(value);
  return typeof read(value) === 'string' && read(value) === value ? value : JSON.stringify(value);
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function kindOf(text) {
  if (text.trim() === '') return '';
  const value = read(text);
  if (Array.isArray(value)) return `A list of ${value.length}`;
  if (value === null) return 'The value null';
  return { string: 'A text', number: 'A number', boolean: 'True or false', object: 'An object' }[typeof value];
}

export const memberTexts = (actor) => Object.entries(actor ?? {}).map(([name, value]) => `${name}: ${write(value)}`);

// What the rights are restricted to, in short.
export function restrictions({ policies, actor }) {
  const parts = [];
  if (policies) parts.push(policies.length === 0 ? 'under no policy' : `under ${policies.join(', ')}`);
  parts.push(...memberTexts(actor));
  return parts.join(' · ');
}

export const chip = (text, kind = 'role') => make('span', { class: kind }, text);

// ---------------------------------------------------------------- fields

// The fields of role, policies and members of a form.
export class RightsFields {
  #box;
  #prefix;
  #changed;
  #before = {};

  // `changed` is called when the choice changes.
  constructor(box, prefix, changed) {
    this.#box = box;
    this.#prefix = prefix;
    this.#changed = changed;
    box.addEventListener('input', () => this.#update());
  }

  #id(name) {
    return `${this.#prefix}-${name}`;
  }

  // Fills the fields with what a key or an account has.  With `wholeRole` the role may be left out.
  fill({ role, policies, actor } = {}, { wholeRole = false } = {}) {
    this.#before = { role: role ?? '', policies: policies ?? null, actor: actor ?? {} };
    const { roles, policies: known, members } = may();
    const offered = ROLES.filter((each) => roles.includes(each) || each === role);
    const select = make('select', { id: this.#id('role'), 'aria-describedby': `${this.#id('role')}-error` },
      ...(wholeRole ? [make('option', { value: '' }, 'Always my own role')] : []),
      ...offered.map((each) => make('option', {}, each)));
    select.value = role ?? (wholeRole ? '' : offered[0] ?? '');
    const parts = [this.#field('role', 'Role', select)];
    const names = [...new Set([...known, ...(policies ?? [])])];
    if (names.length > 0) parts.push(this.#policies(names, known, policies));
    const memberNames = [...new Set([...members, ...Object.keys(actor ?? {})])];
    if (memberNames.length > 0) parts.push(this.#members(memberNames, actor ?? {}));
    this.#box.replaceChildren(...parts);
    this.#update();
  }

  #field(name, label, input) {
    return make('div', { class: 'field' },
      make('label', { for: this.#id(name) }, label), input,
      make('p', { id: `${this.#id(name)}-error`, class: 'wrong', role: 'alert', hidden: '' }));
  }

  #policies(names, known, policies) {
    const radio = (value, label) => {
      const input = make('input', { type: 'radio', name: this.#id('where'), id: this.#id(`where-${value}`), value });
      input.checked = (policies !== undefined) === (value === 'some');
      return make('label', { class: 'check', for: input.id }, input, label);
    };
    const boxes = names.map((name, index) => {
      const input = make('input', { type: 'checkbox', id: this.#id(`policy-${index}`), value: name, 'data-policy': '' });
      input.checked = policies?.includes(name) ?? false;
      return make('label', { class: 'check', for: input.id }, input, named(name),
        ...(known.includes(name) ? [] : [make('span', { class: 'quiet' }, ' (not one of yours)')]));
    });
    return make('fieldset', { class: 'choice', id: this.#id('policies'), tabindex: '-1' },
      make('legend', {}, 'Valid'),
      radio('all', 'Under every policy'), radio('some', 'Only under these policies'),
      make('div', { class: 'boxes', id: this.#id('boxes') }, ...boxes),
      make('p', { id: `${this.#id('policies')}-error`, class: 'wrong', role: 'alert', hidden: '' }));
  }

  #members(names, actor) {
    const rows = names.map((name, index) => {
      const id = this.#id(`member-${index}`);
      const input = make('input', {
        id, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', dir: 'auto', 'data-member': name,
        'aria-describedby': `${id}-kind`,
      });
      input.value = name in actor ? write(actor[name]) : '';
      return make('div', { class: 'field' }, make('label', { for: id }, named(name)), input,
        make('p', { id: `${id}-kind`, class: 'hint' }));
    });
    return make('fieldset', { class: 'choice', id: this.#id('actor'), tabindex: '-1' },
      make('legend', {}, 'Members of its actor ', make('span', { class: 'optional' }, 'optional: a text, or JSON')),
      ...rows,
      make('p', { id: `${this.#id('actor')}-error`, class: 'wrong', role: 'alert', hidden: '' }));
  }

  #update() {
    const boxes = $(this.#id('boxes'));
    if (boxes) boxes.hidden = !$(this.#id('where-some')).checked;
    for (const input of this.#box.querySelectorAll('[data-member]')) {
      $(`${input.id}-kind`).textContent = kindOf(input.value);
    }
    for (const wrong of this.#box.querySelectorAll('.wrong')) say(wrong, null);
    this.#changed();
  }

  // What is chosen.
  value() {
    const some = $(this.#id('where-some'));
    const checked = [...this.#box.querySelectorAll('[data-policy]:checked')].map((box) => box.value);
    const written = [...this.#box.querySelectorAll('[data-member]')].filter((input) => input.value.trim() !== '');
    return {
      role: $(this.#id('role')).value,
      policies: some?.checked ? checked : null,
      actor: Object.fromEntries(written.map((input) => [input.dataset.member, read(input.value)])),
    };
  }

  // What differs from what was filled in, as members of a PATCH.
  changes() {
    const [before, after] = [this.#before, this.value()];
    const isSame = (name) => JSON.stringify(before[name]) === JSON.stringify(after[name]);
    const changed = Object.fromEntries(['role', 'policies', 'actor'].filter((name) => !isSame(name)).map((name) => [name, after[name]]));
    if (changed.actor && Object.keys(changed.actor).length === 0) changed.actor = null;
    if (changed.role === '') delete changed.role;
    return changed;
  }

  // Whether the choice may do something that what was filled in may not.
  isStronger() {
    const [before, after] = [this.#before, this.value()];
    const isWider = before.policies !== null && (after.policies === null || after.policies.some((name) => !before.policies.includes(name)));
    const gains = Object.entries(after.actor).some(([name, value]) => JSON.stringify(before.actor[name]) !== JSON.stringify(value));
    return rank(after.role) > rank(before.role) || isWider || gains;
  }

  // Shows what the server says of these fields.  True when there was something.
  sayDenied(denied) {
    let isShown = false;
    for (const [member, id] of [['role', 'role'], ['policies', 'policies'], ['actor', 'actor']]) {
      const [problem, at] = [denied.problem(member), $(`${this.#id(id)}-error`)];
      if (!problem || !at) continue;
      say(at, problem);
      if (!isShown) $(this.#id(id)).focus();
      isShown = true;
    }
    return isShown;
  }
}
