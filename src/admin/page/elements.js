// Building elements.  Data becomes text nodes and attributes, never markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Blanks that a reader cannot tell from one space: several, and those of other widths.
const UNUSUAL_BLANKS = /( {2,}|[\p{Zs}--[ ]]+)/v;

// A name as it was written.  Unusual blanks are marked, so that names which differ in blanks look different.
export function named(name) {
  const parts = String(name).split(UNUSUAL_BLANKS);
  return make('bdi', { class: 'name', dir: 'auto' },
    ...parts.map((part, index) => (index % 2 ? make('span', { class: 'blanks' }, part) : part)));
}

export function say(element, message) {
  element.textContent = message ?? '';
  element.hidden = !message;
}

// Shows the problem with a field next to it.
export function sayWrong(input, message) {
  say($(`${input.id}-error`), message);
  if (message) input.setAttribute('aria-invalid', 'true');
  else input.removeAttribute('aria-invalid');
}

// Shows problems at their fields, given as pairs; the first such field gets the focus.  False when there are none.
export function sayProblems(pairs) {
  const wrong = pairs.filter(([input, message]) => message && !input.closest('[hidden]'));
  for (const [input, message] of wrong) sayWrong(input, message);
  wrong[0]?.[0].focus();
  return wrong.length > 0;
}

let toastTimer;
// Shows for a moment what was done.
export function toast(...parts) {
  clearTimeout(toastTimer);
  $('toast').replaceChildren(...parts);
  toastTimer = setTimeout(() => $('toast').replaceChildren(), 6000);
}

// Runs the action of a button or a form, once at a time.
export async function busy(button, work) {
  if (button.disabled) return;
  const hadFocus = document.activeElement === button;
  button.disabled = true;
  try {
    await work();
  } finally {
    button.disabled = false;
    // A disabled button loses the keyboard focus.
    if (hadFocus && document.activeElement === document.body) button.focus();
  }
}

export function button(label, run, attributes = {}) {
  const element = make('button', { type: 'button', class: 'plain', ...attributes }, label);
  element.addEventListener('click', () => run(element));
  return element;
}

// Pairs of a term and what it is, for a list of facts; those without a value are left out.
export function facts(pairs) {
  return pairs.filter(([, value]) => value !== undefined && value !== null && value !== '').map(([term, value]) =>
    make('div', {}, make('dt', {}, term), make('dd', {}, ...(Array.isArray(value) ? value : [value]))));
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString('en')} ${count === 1 ? one : many}`;

// Copies the text of a field, and says so in an element.
export async function copy(field, told, what) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    // Only a secure context has the Clipboard API; elsewhere execCommand may still work.
    const before = document.activeElement;
    field.select();
    copied = document.execCommand('copy');
    if (copied) before?.focus();
  }
  told.textContent = copied ? `${what} copied.` : 'Press Ctrl+C to copy the selected text.';
}
