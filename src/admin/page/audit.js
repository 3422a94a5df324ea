// The view of the audit: who changed what, when, from where.

import { page } from './api.js';
import { $, busy, button, make, named, sayProblems, sayWrong } from './elements.js';
import { Pager, position } from './pager.js';
import { address, go, goOn, route } from './route.js';
import { cell } from './rows.js';
import { isLoggedIn, isOver, showProblem } from './session.js';
import { instant, localText, ago, time } from './times.js';

const FILTERS = ['actor', 'key', 'account'];
const TIMES = ['from', 'to'];
const form = $('audit-filters');
const pager = new Pager($('audit-pager'), 'audit');
let loads = 0;

// What the fields say.  Times are in the address as moments, which mean the same to a colleague elsewhere.
function members() {
  const text = (name) => form.elements[name].value.trim();
  return {
    ...Object.fromEntries(TIMES.map((name) => [name, instant(text(name)) ?? ''])),
    ...Object.fromEntries(FILTERS.map((name) => [name, text(name)])),
    size: route().members.size,
  };
}

function fillFields(wanted) {
  for (const name of FILTERS) {
    if (form.elements[name].value.trim() !== (wanted[name] ?? '')) form.elements[name].value = wanted[name] ?? '';
  }
  for (const name of TIMES) {
    const field = form.elements[name];
    // A date that is only half written has no value yet, and must not be taken away.
    if (document.activeElement !== field) field.value = wanted[name] ? localText(wanted[name]) : '';
  }
  $('audit-clear').hidden = [...FILTERS, ...TIMES].every((name) => !wanted[name]);
}

export async function load() {
  const mine = ++loads;
  const wanted = route().members;
  fillFields(wanted);
  const isOvertaken = () => mine !== loads || !isLoggedIn() || route().view !== 'audit';
  const { page: at, size } = position(wanted);
  const { from, to, actor, key, account } = wanted;
  try {
    const { items, total } = await page('api/auth/audit', { from, to, actor, key, account, perpage: size, page: at });
    if (isOvertaken()) return;
    if (items.length === 0 && total > 0 && at > 1) {
      goOn('audit', { ...wanted, page: Math.ceil(total / size) });
      return;
    }
    showProblem(null);
    for (const name of TIMES) sayWrong(form.elements[name], null);
    draw(items, total, wanted);
  } catch (denied) {
    if (isOvertaken() || isOver(denied)) return;
    const isShown = sayProblems(TIMES.map((name) => [form.elements[name], denied.problem(name)]));
    if (!isShown) showProblem(denied.message);
  }
}

function draw(rows, total, wanted) {
  $('audit-rows').replaceChildren(...rows.map(row));
  $('audit-table').hidden = rows.length === 0;
  $('no-audit').hidden = rows.length !== 0;
  const isFiltered = [...FILTERS, ...TIMES].some((name) => wanted[name]);
  $('no-audit').replaceChildren(...(isFiltered
    ? [make('p', {}, 'Nothing matches all filters.'), button('Clear all filters', () => go('audit'))]
    : [make('p', {}, 'Nothing has been changed yet.')]));
  pager.draw({ ...position(wanted), total, shown: rows.length });
}

// A name that shows all that is known of it when it is clicked on.
const link = (name, view, wanted) => make('a', { href: address(view, wanted) }, named(name));

// What the entry counts.
function counted({ action, count }) {
  const some = (one) => `${count.toLocaleString('en')} ${one}${count === 1 ? '' : 's'}`;
  if (count === undefined) return '';
  if (action === 'service account deleted') return `, and ${some('key')} with it`;
  if (action === 'sessions ended') return `: ${some('log-in')}`;
  return count > 1 ? ` ${some('time')}` : '';
}

function row(entry) {
  const isDenied = entry.status !== undefined && entry.status >= 400;
  const count = counted(entry);
  const why = [entry.reason, entry.status].filter(Boolean).join(', ');
  return make('tr', { role: 'row', 'data-id': entry.id, ...(isDenied ? { class: 'denied' } : {}) },
    make('th', { role: 'rowheader', scope: 'row' }, make('div', {}, `${entry.action}${count}`),
      ...(isDenied ? [make('div', { class: 'second' }, why)] : [])),
    cell('When', [time(entry.at)], [ago(entry.at)]),
    cell('Who', entry.by ? [link(entry.by, 'audit', { actor: entry.by })] : [make('span', { class: 'quiet' }, 'The server')],
      [[entry.credentialKind ? `by ${entry.credentialKind}` : '', entry.address ? `from ${entry.address}` : ''].filter(Boolean).join(' ')]),
    cell('On what', ...subject(entry)),
    make('td', { role: 'cell', class: 'is-change', 'data-cell': 'Change' }, make('span', { class: 'cell-label' }, 'Change'),
      make('ul', { class: 'changes' }, ...changes(entry).map((parts) => make('li', {}, ...parts)))));
}

function subject(entry) {
  if (entry.keyName !== undefined || entry.keyId !== undefined) {
    const name = entry.keyName ?? String(entry.keyId);
    const second = entry.accountName ? ['of ', link(entry.accountName, 'audit', { account: entry.accountName })] : ['key'];
    return [[link(name, 'audit', { key: entry.keyId ?? name })], second];
  }
  if (entry.accountName) return [[link(entry.accountName, 'audit', { account: entry.accountName })], ['service account']];
  if (entry.user) return [[named(entry.user)], [entry.source ?? '']];
  return [[], []];
}

const shown = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

// What differs between before and after.
function changes({ before, after }) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const differing = names.filter((name) => JSON.stringify(before?.[name]) !== JSON.stringify(after?.[name]));
  return differing.map((name) => {
    const [old, now] = [before?.[name], after?.[name]];
    const isNone = (value) => value === undefined || value === null;
    if (isNone(old)) return [`${name}: `, named(shown(now))];
    if (isNone(now)) return [`${name}: `, make('del', {}, named(shown(old)))];
    return [`${name}: `, make('del', {}, named(shown(old))), ' → ', make('ins', {}, named(shown(now)))];
  });
}

export function clear() {
  $('audit-rows').replaceChildren();
  $('audit-pager').replaceChildren();
  $('no-audit').hidden = true;
}

let typing;
form.addEventListener('input', (event) => {
  clearTimeout(typing);
  if (event.target.validity.badInput) return;
  typing = setTimeout(() => {
    if (route().view === 'audit' && isLoggedIn()) goOn('audit', members());
  }, 300);
});
form.addEventListener('submit', (event) => {
  event.preventDefault();
  clearTimeout(typing);
  goOn('audit', members());
});
$('audit-clear').addEventListener('click', () => {
  go('audit');
  form.elements.from.focus();
});
$('audit-refresh').addEventListener('click', () => busy($('audit-refresh'), load));

export const show = load;
