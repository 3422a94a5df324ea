// The view of the service accounts.

import { accountPath, call, page, query } from './api.js';
import { ask, entitle, open, remember, restore } from './dialogs.js';
import { $, busy, button, facts, make, named, plural, say, sayProblems, sayWrong, toast } from './elements.js';
import { showDetails, states as statesOfKey } from './key_acts.js';
import { addKey, descriptionProblem, nameProblem } from './key_form.js';
import { Pager, position } from './pager.js';
import { RightsFields, chip, memberTexts, restrictions } from './rights.js';
import { address, go, goOn, route } from './route.js';
import { actions, cell, head } from './rows.js';
import { isLoggedIn, isOver, may, showProblem } from './session.js';
import { time, timeAndAgo, ago, isPast } from './times.js';

const filters = $('accounts-filters');
const pager = new Pager($('accounts-pager'), 'accounts');
let loads = 0;

// ---------------------------------------------------------------- the table

export async function load() {
  const mine = ++loads;
  const wanted = route().members;
  const search = $('accounts-search');
  if (search.value.trim() !== (wanted.query ?? '')) search.value = wanted.query ?? '';
  const isOvertaken = () => mine !== loads || !isLoggedIn() || route().view !== 'accounts';
  const { page: at, size } = position(wanted);
  try {
    const found = await call('GET', `api/serviceaccounts/search${query({ query: wanted.query, perpage: size, page: at })}`);
    if (isOvertaken()) return;
    if (found.serviceAccounts.length === 0 && found.totalCount > 0 && at > 1) {
      goOn('accounts', { ...wanted, page: Math.ceil(found.totalCount / size) });
      return;
    }
    showProblem(null);
    draw(found.serviceAccounts, found.totalCount, wanted);
  } catch (denied) {
    if (isOvertaken() || isOver(denied)) return;
    showProblem(denied.message);
  }
}

function draw(accounts, total, wanted) {
  const focus = $('account-rows').contains(document.activeElement) ? remember() : null;
  $('account-rows').replaceChildren(...accounts.map(row));
  $('accounts-table').hidden = accounts.length === 0;
  $('no-accounts').hidden = accounts.length !== 0;
  $('no-accounts').replaceChildren(...(wanted.query
    ? [make('p', {}, 'No service account has ', named(wanted.query), ' in its name.'), button('Clear the search', () => go('accounts'))]
    : [make('p', {}, may().changes ? 'There are no service accounts yet.  Add the first one.' : 'There are no service accounts yet.')]));
  pager.draw({ ...position(wanted), total, shown: accounts.length });
  if (focus) restore(focus);
}

function row(account) {
  const keys = make('a', { href: address('keys', { account: account.name }), 'data-focus': 'keys' }, plural(account.tokens ?? 0, 'key'));
  return make('tr', { role: 'row', 'data-id': account.id, ...(account.isDisabled ? { class: 'dead' } : {}) },
    head(account.name, account.description, states(account), () => showAccount(account)),
    cell('Rights', account.role ? [chip(account.role)] : [], [restrictions(account)]),
    cell('Keys', [keys], []),
    cell('Created', [time(account.createdAt)], account.createdBy ? ['by ', named(account.createdBy)] : []),
    actions(account.name, () => actsOf(account)));
}

const states = ({ isDisabled }) => (isDisabled ? [chip('Disabled', 'state paused')] : []);

export function clear() {
  $('account-rows').replaceChildren();
  $('accounts-pager').replaceChildren();
  $('no-accounts').hidden = true;
}

// ---------------------------------------------------------------- actions

function actsOf(account) {
  const acts = [
    { label: 'Details', run: () => showAccount(account) },
    { label: 'Show its keys', run: () => go('keys', { account: account.name }) },
  ];
  if (!may().changes) return acts;
  if (!account.isDisabled && may().adds) acts.push({ label: 'Add key', run: () => addKey(load, account.name) });
  acts.push(
    { label: 'Change', run: () => changeAccount(account) },
    account.isDisabled ? { label: 'Enable', run: () => askEnable(account) } : { label: 'Disable', run: () => askDisable(account) },
    { label: 'Delete', run: () => askDelete(account), endsIt: true },
  );
  return acts;
}

const set = async (account, isDisabled, done) => {
  await call('PATCH', accountPath(account.id), { isDisabled });
  return [named(account.name), done];
};

function askDisable(account) {
  ask({
    title: 'Disable', name: account.name, yes: 'Disable', isMild: true, after: load,
    text: 'All its keys are denied until the account is enabled again.',
    run: () => set(account, true, ' is disabled.'),
  });
}

function askEnable(account) {
  ask({
    title: 'Enable', name: account.name, yes: 'Enable', isMild: true, after: load,
    text: 'All its keys work again at once.',
    run: () => set(account, false, ' works again.'),
  });
}

function askDelete(account) {
  const count = account.tokens ?? 0;
  ask({
    title: 'Delete', name: account.name, yes: 'Delete', after: load,
    text: count === 0 ? 'It has no keys.  Its name cannot be used again.'
      : `${plural(count, 'key')} ${count === 1 ? 'stops' : 'stop'} working at once, and this cannot be undone.  The name of the account cannot be used again.`,
    run: async () => {
      await call('DELETE', accountPath(account.id));
      return [named(account.name), ' is deleted.'];
    },
  });
}

// ---------------------------------------------------------------- details

const KEYS_SHOWN = 20;

async function showAccount(known) {
  let account;
  let keys;
  try {
    account = { ...known, ...await call('GET', accountPath(known.id)) };
    keys = await page('api/auth/keys', { account: account.name, includeExpired: true, sort: '-created', perpage: KEYS_SHOWN, page: 1 });
  } catch (denied) {
    if (!isOver(denied)) {
      await load();
      showProblem(denied.message);
    }
    return;
  }
  const dialog = $('account-details-dialog');
  entitle(dialog, '', account.name);
  dialog.querySelector('[data-state]').replaceChildren(...states(account));
  say($('account-details-description'), account.description);
  const members = memberTexts(account.actor);
  $('account-details-list').replaceChildren(...facts([
    ['Role', account.role ? [chip(account.role)] : null],
    ['Valid', account.policies
      ? account.policies.length === 0 ? 'Under no policy' : `Only under ${account.policies.join(', ')}`
      : 'Under every policy'],
    ['Members', members.length === 0 ? null : members.flatMap((text, index) => [...(index ? [make('br')] : []), named(text)])],
    ['Created', [...timeAndAgo(account.createdAt), ...(account.createdBy ? [', by ', named(account.createdBy)] : [])]],
    ['Id', String(account.id)],
  ]));
  $('account-keys').replaceChildren(...keys.items.map((key) => {
    const open = make('button', { type: 'button', class: 'link' }, named(key.name));
    open.addEventListener('click', () => showDetails(key, load));
    return make('li', {}, make('div', { class: 'title' }, open, ...statesOfKey(key)), make('div', { class: 'second' },
      ...(key.expiration ? [isPast(key.expiration) ? 'expired ' : 'expires ', ago(key.expiration)] : ['no expiration date']), ' · ',
      ...(key.lastUsedAt ? ['last used ', ago(key.lastUsedAt)] : ['never used'])));
  }));
  $('account-keys-more').replaceChildren(...(keys.total === 0 ? ['It has no keys.'] : keys.total <= KEYS_SHOWN ? [] : [
    make('a', { href: address('keys', { account: account.name, ended: '1' }) }, `Show all ${keys.total.toLocaleString('en')} keys`)]));
  const [, ...acts] = actsOf(account);
  $('account-details-acts').replaceChildren(
    ...acts.map(({ label, run, endsIt }) => button(label, () => {
      // What goes to another view leaves the dialog; what opens another dialog takes its place.
      if (label === 'Show its keys') dialog.close();
      run();
    }, endsIt ? { class: 'plain ends-it' } : {})),
    ...(may().audit ? [make('a', { class: 'button plain', href: address('audit', { account: account.name }) }, 'History')] : []));
  open(dialog, dialog.querySelector('[data-close]'));
}

// ---------------------------------------------------------------- add and change

const form = $('account-form');
const dialog = $('account-dialog');
const rights = new RightsFields($('account-rights'), 'account', warn);
let changed = null;

function openForm(account, title, yes, focus) {
  changed = account;
  form.reset();
  for (const input of [$('account-name'), $('account-description')]) sayWrong(input, null);
  say(form.querySelector('[data-error]'), null);
  entitle(dialog, title, account?.name);
  form.querySelector('[data-yes]').textContent = yes;
  $('account-name').value = account?.name ?? '';
  $('account-description').value = account?.description ?? '';
  rights.fill(account ?? {});
  warn();
  open(dialog, focus);
}

const addAccount = () => openForm(null, 'Add a service account', 'Add service account', $('account-name'));
const changeAccount = (account) => openForm(account, 'Change', 'Save', $('account-name'));

function warn() {
  const isStronger = changed !== null && rights.isStronger();
  say($('account-stronger'), isStronger
    ? `Everyone who has one of its keys gets more rights.  It has ${plural(changed.tokens ?? 0, 'key')}.`
    : null);
}

for (const input of [$('account-name'), $('account-description')]) input.addEventListener('input', () => sayWrong(input, null));

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const error = form.querySelector('[data-error]');
  say(error, null);
  const [name, description] = [$('account-name').value.trim(), $('account-description').value.trim()];
  const wrong = sayProblems([[$('account-name'), nameProblem(name, 'account')], [$('account-description'), descriptionProblem(description)]]);
  if (wrong) return;
  busy(event.submitter ?? form.querySelector('[data-yes]'), async () => {
    try {
      if (changed === null) {
        const { role, policies, actor } = rights.value();
        await call('POST', 'api/serviceaccounts', {
          name, role, ...(description === '' ? {} : { description }),
          ...(policies === null ? {} : { policies }), ...(Object.keys(actor).length === 0 ? {} : { actor }),
        });
      } else {
        await call('PATCH', accountPath(changed.id), {
          ...(name === changed.name ? {} : { name }),
          ...(description === (changed.description ?? '') ? {} : { description: description === '' ? null : description }),
          ...rights.changes(),
        });
      }
      await load();
      dialog.close();
      toast(named(name), changed === null ? ' is added.' : ' is changed.');
    } catch (denied) {
      if (isOver(denied)) return;
      const isShown = sayProblems([[$('account-name'), denied.problem('name')], [$('account-description'), denied.problem('description')]]);
      const isRight = rights.sayDenied(denied);
      if (!isShown && !isRight) say(error, denied.message);
    }
  });
});

// ---------------------------------------------------------------- the view

let typing;
filters.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    if (route().view === 'accounts' && isLoggedIn()) goOn('accounts', { query: $('accounts-search').value.trim() });
  }, 200);
});
filters.addEventListener('submit', (event) => event.preventDefault());
$('accounts-refresh').addEventListener('click', () => busy($('accounts-refresh'), load));
$('add-account').addEventListener('click', addAccount);

export function show() {
  $('add-account').hidden = !may().changes;
  return load();
}
