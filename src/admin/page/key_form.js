// The dialog that adds or changes a key.

import { call, keyPath, query } from './api.js';
import { showKey } from './created.js';
import { entitle, open } from './dialogs.js';
import { $, busy, make, named, say, sayProblems, sayWrong, toast } from './elements.js';
import { RightsFields } from './rights.js';
import { isOver, may } from './session.js';
import { DAY, isPast, length, seconds, timeAndAgo } from './times.js';

const MAX_NAME_LENGTH = 190;
const MAX_DESCRIPTION_LENGTH = 500;
const LIVES = [7, 30, 90];
const FIRST_LIFE = 90;

const form = $('key-form');
const dialog = $('key-dialog');
const part = (name) => form.querySelector(`[data-part="${name}"]`);
const inputs = [...form.querySelectorAll('[id$="-error"]')].map((error) => $(error.id.slice(0, -'-error'.length)));
const rights = new RightsFields($('key-rights'), 'key', warn);
// The key that is changed; null when one is added.
let key = null;
let after = () => {};

// ---------------------------------------------------------------- opening

function openForm(title, name, yes) {
  form.reset();
  for (const input of inputs) sayWrong(input, null);
  say(form.querySelector('[data-error]'), null);
  entitle(dialog, title, name);
  form.querySelector('[data-yes]').textContent = yes;
}

// Adds a key: of this account where one is named.
export function addKey(update, account) {
  [key, after] = [null, update];
  openForm('Add a key', undefined, 'Add key');
  for (const name of ['name', 'owner', 'life']) part(name).hidden = false;
  // Who manages their own keys alone has no choice, nor has who cannot own one.
  const { manages, ownsKeys, accounts } = may();
  const owner = $('key-owner');
  const offered = { none: manages === 'all', account: manages === 'all' && accounts, me: manages === 'own' || ownsKeys };
  for (const option of owner.options) option.hidden = option.disabled = !offered[option.value];
  owner.value = account ? 'account' : manages === 'own' ? 'me' : 'none';
  part('owner').hidden = Object.values(offered).filter(Boolean).length < 2;
  $('key-account').value = account ?? '';
  if (offered.account) void offerAccounts();
  offerLives(false);
  rights.fill({}, { wholeRole: owner.value === 'me' });
  showParts();
  open(dialog, $('key-name'));
}

export function changeKey(chosen, update) {
  [key, after] = [chosen, update];
  openForm('Change', key.name, 'Save');
  const isDead = key.isRevoked || isPast(key.expiration);
  // Of a dead key only the description can be changed.
  for (const name of ['name', 'life']) part(name).hidden = Boolean(isDead);
  for (const name of ['owner', 'account']) part(name).hidden = true;
  $('key-name').value = key.name;
  $('key-description').value = key.description ?? '';
  part('rights').hidden = Boolean(isDead || key.account);
  offerLives(true);
  rights.fill(key, { wholeRole: Boolean(key.owner) && !key.role });
  showParts();
  open(dialog, isDead ? $('key-description') : $('key-name'));
}

async function offerAccounts() {
  try {
    const { serviceAccounts } = await call('GET', `api/serviceaccounts/search${query({ perpage: 200, page: 1 })}`);
    $('key-accounts').replaceChildren(...serviceAccounts.map(({ name }) => make('option', { value: name })));
  } catch {
    // The name can be written all the same.
  }
}

// The lives to choose from: within the maximum, at first the one that the configuration proposes, and never only where it
// is allowed.
function offerLives(isChange) {
  const { maxSeconds, firstSeconds } = may();
  const isAllowed = (seconds) => seconds !== null && (maxSeconds === null || seconds <= maxSeconds);
  const lives = LIVES.map((days) => days * DAY).filter(isAllowed);
  for (const seconds of [firstSeconds, maxSeconds]) {
    if (isAllowed(seconds) && !lives.includes(seconds)) lives.push(seconds);
  }
  const limit = (seconds) => (seconds === maxSeconds ? ', the longest here' : '');
  const options = lives.sort((one, other) => one - other).map((seconds) => [seconds, `In ${length(seconds)}${limit(seconds)}`]);
  options.push(['custom', 'After another time…']);
  if (maxSeconds === null) options.push(['never', 'Never']);
  if (isChange) options.unshift(['', 'As now']);
  const life = $('key-life');
  life.replaceChildren(...options.map(([value, label]) => make('option', { value }, label)));
  // A configuration that proposes none is one that proposes no end.
  const first = firstSeconds === null && maxSeconds === null ? 'never' : [firstSeconds, FIRST_LIFE * DAY].find(isAllowed) ?? maxSeconds;
  life.value = isChange ? '' : String(first);
}

// ---------------------------------------------------------------- what depends on what is chosen

function showParts() {
  if (key === null) {
    const owner = $('key-owner').value;
    part('account').hidden = owner !== 'account';
    part('rights').hidden = owner === 'account';
    $('key-owner-hint').textContent = owner === 'account' ? 'It has the rights of the account.' : '';
  }
  part('custom').hidden = part('life').hidden || $('key-life').value !== 'custom';
  previewLife();
  warn();
}

// The seconds to live that are chosen: null is never, undefined as now.  An Error says what to write instead.
function life() {
  const { value } = $('key-life');
  if (value === '' || part('life').hidden) return undefined;
  if (value === 'never') return null;
  if (value !== 'custom') return Number(value);
  const total = seconds($('key-ttl').value);
  if (total === null) throw new Error('Write a time to live, such as 12h.');
  const { maxSeconds } = may();
  if (maxSeconds !== null && total > maxSeconds) throw new Error(`${length(maxSeconds)} at most.`);
  return total;
}

const lifeInput = () => ($('key-life').value === 'custom' ? $('key-ttl') : $('key-life'));

// Says when the key will end.
function previewLife() {
  for (const input of [$('key-life'), $('key-ttl')]) {
    sayWrong(input, null);
    $(`${input.id}-hint`).replaceChildren();
  }
  let total;
  try {
    total = life();
  } catch {
    // Unfinished input is no error yet: it is checked when the field loses the focus.
    return;
  }
  const hint = $(`${lifeInput().id}-hint`);
  hint.classList.toggle('never', total === null);
  if (total === null) hint.append('The key works until it is revoked, for everyone who has it.');
  else if (total !== undefined) hint.append('Expires ', ...timeAndAgo(new Date(Date.now() + total * 1000).toISOString()));
  else if (key?.expiration) hint.append('Expires ', ...timeAndAgo(key.expiration));
  else if (key) hint.append('No expiration date');
}

// Says who may know the secret of a key, before that secret can do more.
function warn() {
  const isStronger = key !== null && !part('rights').hidden && rights.isStronger();
  say($('key-stronger'), isStronger
    ? `Everyone who has this key gets more rights: ${key.createdBy}, who created it, and everyone who got it later.  `
      + 'Rotate it if you are not sure who has it.'
    : null);
}

$('key-owner').addEventListener('change', () => {
  rights.fill({}, { wholeRole: $('key-owner').value === 'me' });
  showParts();
});
$('key-life').addEventListener('change', () => {
  showParts();
  if ($('key-life').value === 'custom') $('key-ttl').focus();
});
$('key-ttl').addEventListener('input', previewLife);
$('key-ttl').addEventListener('change', () => sayProblems([[$('key-ttl'), lifeProblem()]]));
for (const input of [$('key-name'), $('key-description'), $('key-account')]) {
  input.addEventListener('input', () => sayWrong(input, null));
}

function lifeProblem() {
  try {
    life();
    return null;
  } catch (wrong) {
    return wrong.message;
  }
}

// ---------------------------------------------------------------- sending

const size = (text) => [...text].length;

export function nameProblem(name, what) {
  if (name === '') return `Give the ${what} a name.`;
  if (size(name) > MAX_NAME_LENGTH) return `A name is 1 to ${MAX_NAME_LENGTH} printable characters, and this one has ${size(name)}.`;
  return null;
}

export function descriptionProblem(description) {
  if (size(description) <= MAX_DESCRIPTION_LENGTH) return null;
  return `A description has at most ${MAX_DESCRIPTION_LENGTH} characters, and this one has ${size(description)}.`;
}

function body() {
  const [name, description] = [$('key-name').value.trim(), $('key-description').value.trim()];
  const total = life();
  if (key === null) {
    const owner = $('key-owner').value;
    const { role, policies, actor } = rights.value();
    const own = owner === 'account' ? { account: $('key-account').value.trim() } : {
      ...(role === '' ? {} : { role }),
      ...(policies === null ? {} : { policies }),
      ...(Object.keys(actor).length === 0 ? {} : { actor }),
      ...(owner === 'me' ? { owner: 'me' } : {}),
    };
    return { name, ...own, ...(total ? { secondsToLive: total } : {}), ...(description === '' ? {} : { description }) };
  }
  return {
    ...(name === key.name || part('name').hidden ? {} : { name }),
    ...(description === (key.description ?? '') ? {} : { description: description === '' ? null : description }),
    ...(part('rights').hidden ? {} : rights.changes()),
    ...(total === undefined ? {} : { secondsToLive: total }),
  };
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const error = form.querySelector('[data-error]');
  say(error, null);
  const account = $('key-account');
  const wrong = sayProblems([
    [$('key-name'), nameProblem($('key-name').value.trim(), 'key')],
    [$('key-description'), descriptionProblem($('key-description').value.trim())],
    [account, account.value.trim() === '' ? 'Enter the name of a service account.' : null],
    [lifeInput(), lifeProblem()],
  ]);
  if (wrong) return;
  busy(event.submitter ?? form.querySelector('[data-yes]'), async () => {
    try {
      if (key === null) {
        showKey('Created', await call('POST', 'api/auth/keys', body()));
        await after();
        return;
      }
      const changed = await call('PATCH', keyPath(key.id), body());
      await after();
      dialog.close();
      toast(named(changed.name), ' is changed.');
    } catch (denied) {
      if (isOver(denied)) return;
      const isShown = sayProblems([
        [$('key-name'), denied.problem('name')],
        [$('key-description'), denied.problem('description')],
        [$('key-owner'), denied.problem('owner')],
        [account, denied.problem('account')],
        [lifeInput(), denied.problem('secondsToLive')],
      ]);
      const isRight = !part('rights').hidden && rights.sayDenied(denied);
      if (!isShown && !isRight) say(error, denied.message);
    }
  });
});
