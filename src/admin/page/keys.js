// The view of the keys: a table that the server filters, sorts and cuts into pages.

import { accountPath, call, page } from './api.js';
import { remember, restore } from './dialogs.js';
import { $, busy, button, make, named } from './elements.js';
import { findToken } from './find.js';
import { actsOf, isDead, showDetails, states } from './key_acts.js';
import { addKey } from './key_form.js';
import { Pager, position } from './pager.js';
import { revokeMany } from './revoke_many.js';
import { chip, restrictions } from './rights.js';
import { address, go, goOn, route } from './route.js';
import { actions, cell, head } from './rows.js';
import { isLoggedIn, isOver, may, showProblem } from './session.js';
import { DAY, ago, isSoon, time } from './times.js';

const FILTERS = ['role', 'kind', 'account', 'owner', 'createdBy', 'expiring', 'unused'];
const form = $('keys-filters');
const pager = new Pager($('keys-pager'), 'keys');
let loads = 0;
// The account of an id: a key of it has the account's rights.
const accounts = new Map();

// ---------------------------------------------------------------- what is asked for

// What the fields say, as the members of the view's address.
function members() {
  const text = (name) => form.elements[name].value.trim();
  return {
    query: text('query'), ended: form.elements.ended.checked ? '1' : '',
    ...Object.fromEntries(FILTERS.map((name) => [name, text(name)])),
    sort: text('sort'), size: route().members.size,
  };
}

function fillFields(wanted) {
  for (const name of ['query', 'sort', ...FILTERS]) {
    const field = form.elements[name];
    if (document.activeElement !== field || field.value.trim() !== (wanted[name] ?? '')) field.value = wanted[name] ?? '';
  }
  form.elements.ended.checked = wanted.ended === '1';
  const count = FILTERS.filter((name) => wanted[name]).length;
  $('filters-count').textContent = count === 0 ? '' : ` (${count})`;
  $('filters-clear').hidden = count === 0 && !wanted.query;
  if (count > 0 && $('filters').hidden) toggleFilters();
}

function asked(wanted) {
  const days = (text) => (text ? Number(text) * DAY : undefined);
  const { page: number, size } = position(wanted);
  return {
    query: wanted.query, role: wanted.role, kind: wanted.kind, account: wanted.account, owner: wanted.owner,
    createdBy: wanted.createdBy, expiringSeconds: days(wanted.expiring), unusedSeconds: days(wanted.unused),
    includeExpired: wanted.ended === '1' ? true : undefined, sort: wanted.sort || 'name', perpage: size, page: number,
  };
}

const isFiltered = (wanted) => Boolean(wanted.query) || FILTERS.some((name) => wanted[name]);

// ---------------------------------------------------------------- loading

export async function load() {
  const mine = ++loads;
  const wanted = route().members;
  fillFields(wanted);
  sortHeads(wanted.sort || 'name');
  const isOvertaken = () => mine !== loads || !isLoggedIn() || route().view !== 'keys';
  try {
    const { items, total } = await page('api/auth/keys', asked(wanted));
    await readAccounts(items);
    const ended = total === 0 && !isFiltered(wanted) && wanted.ended !== '1' ? await countEnded() : 0;
    // A response that a later one has overtaken is outdated.
    if (isOvertaken()) return;
    const { page: at, size } = position(wanted);
    // The last page may have gone meanwhile.
    if (items.length === 0 && total > 0 && at > 1) {
      goOn('keys', { ...wanted, page: Math.ceil(total / size) });
      return;
    }
    showProblem(null);
    draw(items, total, wanted, ended);
  } catch (denied) {
    if (isOvertaken() || isOver(denied)) return;
    const unknown = denied.problem?.('account');
    if (unknown) {
      showProblem(null);
      draw([], 0, wanted, 0);
      $('nothing').prepend(make('p', {}, unknown));
      return;
    }
    showProblem(denied.message);
    if (denied.status === 403) clear();
  }
}

// Whether there are keys that the list does not show because they are dead.
const countEnded = async () => (await page('api/auth/keys', { includeExpired: true, perpage: 1, page: 1 })).total;

async function readAccounts(keys) {
  const lacking = [...new Set(keys.map((key) => key.accountId).filter((id) => id !== undefined && !accounts.has(id)))];
  if (!may().accounts) return;
  await Promise.all(lacking.map(async (id) => {
    try {
      accounts.set(id, await call('GET', accountPath(id)));
    } catch (denied) {
      if (denied.status !== 404 && denied.status !== 403) throw denied;
    }
  }));
}

export function clear() {
  accounts.clear();
  $('rows').replaceChildren();
  $('keys-pager').replaceChildren();
  $('nothing').hidden = true;
  $('table').hidden = true;
}

// An account may have changed since its rights were shown.
async function update() {
  accounts.clear();
  await load();
}

// ---------------------------------------------------------------- drawing

function draw(keys, total, wanted, ended) {
  const isInside = $('rows').contains(document.activeElement);
  const focus = isInside ? remember() : null;
  $('rows').replaceChildren(...keys.map(row));
  $('table').hidden = keys.length === 0;
  $('nothing').hidden = keys.length !== 0;
  $('nothing').replaceChildren(...(keys.length === 0 ? nothing(wanted, ended) : []));
  pager.draw({ ...position(wanted), total, shown: keys.length });
  if (focus) restore(focus);
}

// Why the table is empty, and what to do about it.
function nothing(wanted, ended) {
  const clearAll = () => {
    go('keys', { ended: wanted.ended, sort: wanted.sort });
    $('search').focus();
  };
  if (isFiltered(wanted)) {
    const isSearch = wanted.query && FILTERS.every((name) => !wanted[name]);
    return [
      make('p', {}, ...(isSearch ? ['No key has ', named(wanted.query), ' in its name.'] : ['No key matches all filters.'])),
      button('Clear all filters', clearAll),
    ];
  }
  if (ended > 0) {
    return [
      make('p', {}, `There is no live key.  ${ended === 1 ? 'One has expired or was' : `${ended.toLocaleString('en')} have expired or were`} revoked.`),
      button('Show expired and revoked', () => {
        go('keys', { ...wanted, ended: '1' });
        $('show-expired').focus();
      }),
    ];
  }
  return [make('p', {}, may().adds ? 'There are no keys yet.  Add the first one.' : 'There are no keys yet.')];
}

function row(key) {
  const dead = isDead(key);
  return make('tr', { role: 'row', 'data-id': key.id, ...(dead ? { class: 'dead' } : {}) },
    head(key.name, key.description, states(key), () => showDetails(key, update)),
    cell('Rights', ...rights(key)),
    cell('Belongs to', ...belongs(key)),
    cell('Created', [time(key.created)], key.createdBy ? ['by ', named(key.createdBy)] : []),
    cell('Expires', ...expires(key), !dead && isSoon(key.expiration) ? { class: 'soon' } : {}),
    cell('Last used', ...lastUse(key)),
    actions(key.name, () => actsOf(key, update)));
}

function rights(key) {
  const holder = accounts.get(key.accountId);
  const role = key.role ?? holder?.role;
  const shown = role ? chip(role) : make('span', { class: 'quiet' }, key.owner ? 'Its owner’s' : key.account ? 'Its account’s' : 'None');
  return [[shown], [restrictions(holder ?? key)]];
}

function belongs(key) {
  if (key.account) {
    const link = make('a', { href: address('accounts', { query: key.account }), 'data-focus': 'account' }, named(key.account));
    return [[link], ['service account']];
  }
  if (key.owner) return [[named(key.owner)], [key.ownerSource && key.ownerSource !== 'config' ? `person of ${key.ownerSource}` : 'person']];
  return [[make('span', { class: 'quiet' }, 'No owner')], []];
}

function expires(key) {
  if (!key.expiration) return [[make('span', { class: 'never' }, 'No expiration date')], []];
  return [[time(key.expiration)], [ago(key.expiration)]];
}

function lastUse(key) {
  if (!key.lastUsedAt) return [[make('span', { class: 'quiet' }, 'Never')], []];
  const uses = key.uses === undefined ? [] : [`${key.uses.toLocaleString('en')} ${key.uses === 1 ? 'use' : 'uses'}`];
  const from = key.lastAddress ? [make('span', { class: 'address' }, `from ${key.lastAddress}`)] : [];
  return [[ago(key.lastUsedAt)], [...uses, ' ', ...from]];
}

// ---------------------------------------------------------------- sorting

for (const column of document.querySelectorAll('#table th[data-sort]')) {
  const [text, name] = [column.textContent, column.dataset.sort];
  const sort = make('button', { type: 'button', class: 'sort' }, text, make('span', { class: 'arrow', 'aria-hidden': 'true' }));
  sort.addEventListener('click', () => {
    const now = route().members.sort || 'name';
    const next = now === name ? `-${name}` : name;
    go('keys', { ...members(), sort: next === 'name' ? '' : next });
  });
  column.replaceChildren(sort);
}

function sortHeads(sort) {
  for (const column of document.querySelectorAll('#table th[data-sort]')) {
    const direction = { [column.dataset.sort]: 'ascending', [`-${column.dataset.sort}`]: 'descending' }[sort];
    if (direction) column.setAttribute('aria-sort', direction);
    else column.removeAttribute('aria-sort');
  }
}

// ---------------------------------------------------------------- fields and buttons

function toggleFilters() {
  const toggle = $('filters-toggle');
  const isOpen = toggle.getAttribute('aria-expanded') !== 'true';
  toggle.setAttribute('aria-expanded', String(isOpen));
  $('filters').hidden = !isOpen;
}

let typing;
form.addEventListener('input', (event) => {
  clearTimeout(typing);
  // A list that is fetched for every letter would flicker.
  const isText = event.target.matches('input:not([type="checkbox"])');
  typing = setTimeout(() => {
    if (route().view === 'keys' && isLoggedIn()) goOn('keys', members());
  }, isText ? 200 : 0);
});
form.addEventListener('submit', (event) => {
  event.preventDefault();
  clearTimeout(typing);
  goOn('keys', members());
});
$('filters-toggle').addEventListener('click', toggleFilters);
$('filters-clear').addEventListener('click', () => {
  go('keys', { ended: members().ended, sort: members().sort });
  $('search').focus();
});
$('refresh').addEventListener('click', () => busy($('refresh'), update));
$('add').addEventListener('click', () => addKey(update, members().account));
$('find').addEventListener('click', () => findToken(update));
$('end-many').addEventListener('click', () => {
  const { createdBy, account, owner } = members();
  revokeMany(update, { createdBy, account, owner });
});

// Shows the view as far as the caller may use it.
export function show() {
  const { manages, adds, revokesMany } = may();
  $('keys-title').textContent = manages === 'own' ? 'Your keys' : 'Keys';
  for (const part of form.querySelectorAll('[data-others]')) part.hidden = manages === 'own';
  $('add').hidden = !adds;
  $('end-many').hidden = !revokesMany;
  return load();
}
