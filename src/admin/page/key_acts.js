// What can be done with a key, and the dialog that shows all of it.

import { call, keyPath } from './api.js';
import { ask, entitle, open } from './dialogs.js';
import { $, button, facts, make, named, say } from './elements.js';
import { changeKey } from './key_form.js';
import { revokeMany } from './revoke_many.js';
import { chip, memberTexts } from './rights.js';
import { askRotate } from './rotate.js';
import { address } from './route.js';
import { isOver, may, showProblem } from './session.js';
import { isPast, timeAndAgo } from './times.js';

export const isDead = (key) => Boolean(key.isRevoked) || isPast(key.expiration);

// Why a key is denied that is neither paused nor expired nor revoked, in few words.
const DENIED_IN_SHORT = {
  account_disabled: 'account disabled',
  account_gone: 'account gone',
  owner_gone: 'owner gone or disabled',
  held_back: 'revoked before a restore',
};

// The state of a key that is not simply live.
export function states(key) {
  const shown = [];
  if (key.isRevoked) shown.push(chip('Revoked', 'state'));
  else if (isPast(key.expiration)) shown.push(chip('Expired', 'state'));
  else if (key.isDisabled) shown.push(chip('Paused', 'state paused'));
  else if (key.denied) shown.push(chip(`Denied: ${DENIED_IN_SHORT[key.denied] ?? key.denied}`, 'state paused'));
  if (!isDead(key) && key.oldSecretUntil && !isPast(key.oldSecretUntil)) shown.push(chip('Two secrets', 'state two'));
  return shown;
}

// The actions that fit a key's state, as entries of a menu.  `update` brings the view up to date.
export function actsOf(key, update) {
  const acts = [{ label: 'Details', run: () => showDetails(key, update) }];
  if (!may().changes) return acts;
  const dead = isDead(key);
  acts.push({ label: dead ? 'Change description' : 'Change', run: () => changeKey(key, update) });
  if (!dead) {
    acts.push(key.isDisabled
      ? { label: 'Resume', run: () => askResume(key, update) }
      : { label: 'Pause', run: () => askPause(key, update) });
    if (!key.isDisabled) acts.push({ label: 'Rotate', run: () => askRotate(key, update) });
    acts.push({ label: 'Revoke', run: () => askRevoke(key, update), endsIt: true });
  }
  acts.push({ label: 'Delete', run: () => askDelete(key, update), endsIt: true });
  return acts;
}

function askPause(key, after) {
  ask({
    title: 'Pause', name: key.name, yes: 'Pause', isMild: true, after,
    text: 'The key is denied until it is resumed.  It keeps its name, its secret and its expiry.',
    run: async () => {
      await call('PATCH', keyPath(key.id), { disabled: true });
      return [named(key.name), ' is paused.'];
    },
  });
}

function askResume(key, after) {
  ask({
    title: 'Resume', name: key.name, yes: 'Resume', isMild: true, after,
    text: 'The key works again at once.',
    run: async () => {
      await call('PATCH', keyPath(key.id), { disabled: false });
      return [named(key.name), ' works again.'];
    },
  });
}

function askRevoke(key, after) {
  ask({
    title: 'Revoke', name: key.name, yes: 'Revoke', after,
    text: 'The key stops working at once, and this cannot be undone.  It stays in the list of expired and revoked keys.',
    run: async () => {
      await call('POST', keyPath(key.id, '/revoke'), {});
      return [named(key.name), ' is revoked.'];
    },
  });
}

function askDelete(key, after) {
  ask({
    title: 'Delete', name: key.name, yes: 'Delete', after,
    text: isDead(key)
      ? 'The key is removed from the list.'
      : 'The key stops working at once and is removed from the list.',
    run: async () => {
      await call('DELETE', keyPath(key.id));
      return [named(key.name), ' is deleted.'];
    },
  });
}

// ---------------------------------------------------------------- details

const account = ({ account: name }) => make('a', { href: address('accounts', { query: name }) }, named(name));
const owner = (key) => [named(key.owner), key.ownerSource ? ` (${key.ownerSource})` : ''];

function belonging(key) {
  if (key.account) return ['Service account ', account(key)];
  if (key.owner) return owner(key);
  return ['No owner'];
}

function roleOf(key) {
  if (key.role) return [chip(key.role)];
  return [key.account ? 'The role of its service account' : key.owner ? 'The role of its owner' : 'None'];
}

// Why a key is denied that is neither paused nor expired nor revoked.
const DENIED = {
  account_disabled: 'Its service account is disabled',
  account_gone: 'Its service account was deleted',
  owner_gone: 'Its owner was removed or disabled, or has not logged in for too long',
  held_back: 'It was revoked before the key store was restored',
};

// What there is to know of a key.  `holder` is the account whose rights it has.
export function factsOf(key, holder) {
  const rights = holder ?? key;
  const members = memberTexts(rights.actor);
  const by = (at, who) => (at ? [...timeAndAgo(at), ...(who ? [', by ', named(who)] : [])] : null);
  return facts([
    ['Role', holder?.role ? [chip(holder.role), ' from its service account'] : roleOf(key)],
    ['Valid', rights.policies
      ? rights.policies.length === 0 ? 'Under no policy' : `Only under ${rights.policies.join(', ')}`
      : 'Under every policy'],
    ['Members', members.length === 0 ? null : members.flatMap((text, index) => [...(index ? [make('br')] : []), named(text)])],
    ['Belongs to', belonging(key)],
    ['Created', by(key.created, key.createdBy)],
    ['Expires', key.expiration ? timeAndAgo(key.expiration) : [make('span', { class: 'never' }, 'No expiration date')]],
    ['Last used', key.lastUsedAt ? timeAndAgo(key.lastUsedAt) : 'Never'],
    ['Used', key.uses === undefined ? null : `${key.uses.toLocaleString('en')} ${key.uses === 1 ? 'time' : 'times'}`],
    ['Last address', key.lastAddress],
    ['Old secret', key.oldSecretUntil && !isPast(key.oldSecretUntil) ? ['Works until ', ...timeAndAgo(key.oldSecretUntil)] : null],
    ['Denied', key.denied ? DENIED[key.denied] ?? key.denied : null],
    ['Paused', key.isDisabled ? by(key.disabledAt) ?? 'Yes' : null],
    ['Revoked', by(key.revokedAt, key.revokedBy)],
    ['Id', String(key.id)],
  ]);
}

// The account of a key, for the rights that it gives; null where it cannot be read.
async function holderOf(key) {
  if (!key.accountId || !may().accounts) return null;
  try {
    return await call('GET', `api/serviceaccounts/${key.accountId}`);
  } catch {
    return null;
  }
}

export async function showDetails(known, update) {
  let key;
  let holder;
  try {
    key = await call('GET', keyPath(known.id));
    holder = await holderOf(key);
  } catch (denied) {
    if (!isOver(denied)) {
      await update();
      showProblem(denied.message);
    }
    return;
  }
  const dialog = $('details-dialog');
  entitle(dialog, '', key.name);
  dialog.querySelector('[data-state]').replaceChildren(...states(key));
  say($('details-description'), key.description);
  $('details-list').replaceChildren(...factsOf(key, holder));
  const [, ...acts] = actsOf(key, update);
  const buttons = acts.map(({ label, run, endsIt }) => button(label, run, endsIt ? { class: 'plain ends-it' } : {}));
  if (may().audit) buttons.push(make('a', { class: 'button plain', href: address('audit', { key: key.id }) }, 'History'));
  if (may().revokesMany) buttons.push(button('Revoke all keys of its creator', () => revokeMany(update, { createdBy: key.createdBy })));
  $('details-acts').replaceChildren(...buttons);
  open(dialog, dialog.querySelector('[data-close]'));
}
