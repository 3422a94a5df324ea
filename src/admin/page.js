// The page of the API keys.  All its data comes from the admin API of the same server.
// Data becomes text nodes and attributes, never markup.

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- the API

// What a server says that reads a copy of the key store.
const READ_ONLY = 'The key store is read only here';

// A response other than 200, or no response.
class Denied extends Error {
  constructor(status, message, details) {
    super(message);
    this.status = status;
    this.details = Array.isArray(details) ? details : [];
  }

  // The problem with a member of the request, as a sentence.
  problem(field) {
    const detail = this.details.find((one) => one.field === field);
    if (!detail) return null;
    if (this.status !== 400) return this.message;
    return `${detail.problem.charAt(0).toUpperCase()}${detail.problem.slice(1)}.`;
  }
}

// The whole response.  URLs are relative, so that the page also works below a path prefix.
async function request(method, path, body) {
  const init = { method, headers: { accept: 'application/json' }, cache: 'no-store', credentials: 'same-origin' };
  if (body !== undefined) {
    init.headers['content-type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch {
    throw new Denied(0, 'The server does not answer.  Try again.');
  }
  let reply = null;
  try {
    reply = await answer.json();
  } catch {
    // A proxy may answer with something other than JSON.
  }
  if (answer.ok && reply !== null) return { reply, headers: answer.headers };
  const message = reply?.message ?? `The server answers ${answer.status}.`;
  const advice = message === READ_ONLY ? '.  Log in and change keys at a server that writes to it.' : '';
  throw new Denied(answer.status, message + advice, reply?.details);
}

const call = async (method, path, body) => (await request(method, path, body)).reply;

const keyPath = (id, act = '') => `api/auth/keys/${encodeURIComponent(id)}${act}`;

// ---------------------------------------------------------------- time

const UNITS = { s: 1, m: 60, h: 3600, d: 86400, w: 604800, M: 2592000, y: 31536000 };
const SYNTAX = 'Write one whole number and one of s m h d w M y, such as 12h.';
// The last moment that a Date can hold.
const LAST_MOMENT = 8.64e15;
const WEEK = 604800;
// A key that expires within this time is highlighted.
const SOON = 3 * 86400;

const dates = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const exactDates = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'always' });

// `12h` in seconds; null for empty; an Error that says what to write instead.
function seconds(text) {
  const written = text.trim();
  if (written === '') return null;
  const parts = /^([0-9]+)([smhdwMy])$/.exec(written);
  if (!parts || /^0+$/.test(parts[1])) throw new Error(SYNTAX);
  const total = Number(parts[1]) * UNITS[parts[2]];
  if (Date.now() + total * 1000 > LAST_MOMENT) throw new Error('That is too long.  Leave it empty for no end.');
  return total;
}

// `in 3 days`, `2 minutes ago`: in the largest unit that fits, rounded.
function beside(moment) {
  const ahead = (moment - Date.now()) / 1000;
  const steps = [['second', 1, 60], ['minute', 60, 60], ['hour', 3600, 24], ['day', 86400, 30], ['month', 2629800, 12]];
  for (const [unit, length, limit] of steps) {
    const count = Math.round(ahead / length);
    if (Math.abs(count) < limit) {
      if (unit === 'second' && ahead <= 0 && count > -10) return 'just now';
      return relative.format(count, unit);
    }
  }
  return relative.format(Math.round(ahead / 31557600), 'year');
}

// ---------------------------------------------------------------- building

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A time in the reader's time zone, with the relative time beside it.
function time(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return [text];
  return [
    make('time', { datetime: text, title: exactDates.format(moment) }, dates.format(moment)), ' ',
    make('span', { class: 'beside' }, beside(moment)),
  ];
}

function say(element, message) {
  element.textContent = message ?? '';
  element.hidden = !message;
}

// Shows the problem with a field beside it.
function sayWrong(input, message) {
  say($(`${input.id}-error`), message);
  if (message) input.setAttribute('aria-invalid', 'true');
  else input.removeAttribute('aria-invalid');
}

let toastTimer;
// Shows for a moment what was done.
function toast(...parts) {
  clearTimeout(toastTimer);
  $('toast').replaceChildren(...parts);
  toastTimer = setTimeout(() => $('toast').replaceChildren(), 6000);
}

const named = (name) => make('bdi', {}, name);

// Runs the action of a button or a form, once at a time.
async function busy(button, work) {
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

// ---------------------------------------------------------------- log in and out

let actor = null;

function showLogin(message) {
  actor = null;
  keys = [];
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
  $('rows').replaceChildren();
  $('toast').replaceChildren();
  $('keys').hidden = true;
  $('login').hidden = false;
  say($('login-form').querySelector('[data-error]'), message);
  $('login-password').value = '';
  void showProviders();
  ($('login-user').value === '' ? $('login-user') : $('login-password')).focus();
}

// The buttons of providers.  Without an answer people log in with their password.
async function showProviders() {
  let options;
  try {
    options = await call('GET', 'login/options');
  } catch {
    return;
  }
  const link = ({ name, label }) =>
    make('a', { class: 'button plain wide', href: `login/${encodeURIComponent(name)}` }, `Log in with ${label}`);
  $('login-providers').replaceChildren(...options.providers.map((provider) => make('li', {}, link(provider))));
  $('login-providers').hidden = options.providers.length === 0;
}

async function enter() {
  actor = await call('GET', 'api/auth/actor');
  $('who').textContent = String(actor.name ?? actor.id ?? 'somebody');
  $('login').hidden = true;
  $('keys').hidden = false;
  await load();
}

$('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.target;
  const [user, password] = [form.user, form.password];
  const error = form.querySelector('[data-error]');
  const missing = [user, password].find((field) => field.value === '');
  if (missing) {
    say(error, missing === user ? 'Enter your user name.' : 'Enter your password.');
    missing.focus();
    return;
  }
  busy(event.submitter ?? form.querySelector('button'), async () => {
    say(error, null);
    try {
      await call('POST', 'login', { user: user.value, password: password.value });
      password.value = '';
      await enter();
      ($('tools').hidden ? $('logout') : $('search')).focus();
    } catch (denied) {
      say(error, denied.message);
      password.focus();
      password.select();
    }
  });
});

$('logout').addEventListener('click', () => busy($('logout'), async () => {
  try {
    const { redirect } = await call('POST', 'logout');
    if (redirect) location.assign(redirect);
    else showLogin(null);
  } catch (denied) {
    if (denied.status === 401) showLogin(null);
    else say($('list-error'), `You are still logged in: ${denied.message}`);
  }
}));

// The session ended: log in first.
function isOver(denied) {
  if (denied.status !== 401) return false;
  // A new key that is still shown cannot be shown again, so the log-in waits for the next action.
  if ($('created-dialog').open) return true;
  showLogin('Your session is over.  Log in again.');
  return true;
}

// ---------------------------------------------------------------- the table

let keys = [];
// The number of rows shown at first: more of them make the page slow.
const FIRST = 300;
let limit = FIRST;
let loads = 0;

const isDead = (key) => Boolean(key.isRevoked) || (key.expiration && Date.parse(key.expiration) <= Date.now());

// The most keys that the API gives at a time.
const PAGE = 1000;

// All keys, page by page.
async function list(query) {
  for (let attempt = 1; ; attempt += 1) {
    const listed = new Map();
    const totals = new Set();
    for (let page = 1, isLast = false; !isLast; page += 1) {
      const { reply, headers } = await request('GET', `api/auth/keys?perpage=${PAGE}&page=${page}${query}`);
      for (const key of reply) listed.set(key.id, key);
      totals.add(headers.get('x-total-count'));
      isLast = reply.length < PAGE;
    }
    // A key that came or went meanwhile moves others from one page to the next.
    if (totals.size === 1 || attempt === 3) return [...listed.values()];
  }
}

async function load() {
  const mine = ++loads;
  const query = $('show-expired').checked ? '&includeExpired=true' : '';
  try {
    const read = await list(query);
    // A response that a later one has overtaken is outdated.
    if (mine !== loads || actor === null) return;
    keys = read;
    $('tools').hidden = false;
    say($('list-error'), null);
  } catch (denied) {
    if (mine !== loads || isOver(denied)) return;
    // Without permission to list the keys the buttons are useless.
    $('tools').hidden = denied.status === 403;
    if (denied.status === 403) keys = [];
    say($('list-error'), denied.status === 403
      ? `${denied.message}: you may not manage API keys.`
      : denied.message);
  }
  render();
}

function found() {
  const wanted = $('search').value.trim().normalize('NFC').toLocaleLowerCase();
  if (wanted === '') return keys;
  return keys.filter((key) => key.name.normalize('NFC').toLocaleLowerCase().includes(wanted));
}

function render() {
  const focus = focused();
  const hits = found();
  const shown = hits.slice(0, limit);
  $('rows').replaceChildren(...shown.map(row));
  $('table').hidden = hits.length === 0;
  const search = $('search').value.trim();
  $('nothing').hidden = hits.length !== 0 || !$('list-error').hidden;
  $('nothing').replaceChildren(...(search === ''
    ? ['There are no keys yet.  Add the first one.']
    : ['No key has ', named(search), ' in its name.']));
  $('more').hidden = shown.length === hits.length;
  $('show-all').textContent = `Show all ${hits.length} keys`;
  const all = keys.length === 1 ? '1 key' : `${keys.length} keys`;
  $('count').textContent = keys.length === 0 ? '' : hits.length === keys.length ? all : `${hits.length} of ${all}`;
  restore(focus);
}

function row(key) {
  const dead = isDead(key);
  const name = make('td', { role: 'cell', class: 'is-name' }, make('bdi', { class: 'name', dir: 'auto' }, key.name));
  if (dead) name.append(' ', make('span', { class: 'state' }, key.isRevoked ? 'Revoked' : 'Expired'));
  const expires = make('td', { role: 'cell', 'data-label': 'Expires' }, make('div', {},
    ...(key.expiration ? time(key.expiration) : ['No expiration date'])));
  const left = key.expiration ? (Date.parse(key.expiration) - Date.now()) / 1000 : Infinity;
  if (!dead && left <= SOON) expires.classList.add('soon');
  const acts = make('div', { class: 'acts' });
  const act = (what, run) => {
    const button = make('button', { type: 'button', 'data-act': what }, what, make('span', { class: 'unseen' }, ' ', named(key.name)));
    button.addEventListener('click', () => run(key));
    if (run === askDelete || run === askRevoke) button.classList.add('ends-it');
    acts.append(button);
  };
  if (!dead) {
    act('Rotate', askRotate);
    act('Revoke', askRevoke);
  }
  act('Delete', askDelete);
  return make('tr', { role: 'row', 'data-id': key.id, ...(dead ? { class: 'dead' } : {}) },
    name,
    make('td', { role: 'cell', 'data-label': 'Role' }, make('div', {}, make('span', { class: 'role' }, key.role ?? ''))),
    expires,
    make('td', { role: 'cell', 'data-label': 'Last used' }, make('div', {}, ...lastUse(key))),
    make('td', { role: 'cell', class: 'is-acts' }, acts));
}

// Shows the relative time; the date is its title.
function lastUse(key) {
  if (!key.lastUsedAt) return [make('span', { class: 'quiet' }, 'Never')];
  const moment = new Date(key.lastUsedAt);
  return [make('time', { datetime: key.lastUsedAt, title: exactDates.format(moment) }, beside(moment))];
}

// The focused element of the table, which is focused again after rendering.
function focused() {
  const button = document.activeElement?.closest?.('#rows button');
  if (!button) return null;
  const at = button.closest('tr');
  return { id: at.dataset.id, act: button.dataset.act, index: [...$('rows').children].indexOf(at) };
}

function restore(focus) {
  if (!focus || document.querySelector('dialog[open]')) return;
  const rows = [...$('rows').children];
  const same = rows.find((candidate) => candidate.dataset.id === focus.id);
  const near = same ?? rows[Math.min(focus.index, rows.length - 1)];
  const button = near?.querySelector(`[data-act="${focus.act}"]`) ?? near?.querySelector('button') ?? $('add');
  button.focus();
}

$('search').addEventListener('input', () => {
  limit = FIRST;
  render();
});
$('show-all').addEventListener('click', () => {
  limit = Infinity;
  render();
  $('rows').children[FIRST]?.querySelector('button').focus();
});
$('show-expired').addEventListener('change', load);
$('refresh').addEventListener('click', () => busy($('refresh'), load));
document.addEventListener('visibilitychange', () => {
  if (actor && !document.hidden) load();
});
// Relative times change, and keys expire, while the page is open.
setInterval(() => {
  if (actor && !document.hidden && !document.querySelector('dialog[open]')) render();
}, 15000);

// ---------------------------------------------------------------- dialogs

let returnTo = null;

function open(dialog) {
  returnTo = focused();
  dialog.showModal();
}

for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('close', () => {
    if (actor === null || document.querySelector('dialog[open]')) return;
    if (returnTo) restore(returnTo);
    else $('add').focus();
  });
  for (const button of dialog.querySelectorAll('[data-close]')) {
    button.addEventListener('click', () => dialog.close());
  }
}

// Shows the time that the field's duration leads to, or the problem with it.
function preview(input, words) {
  const hint = $(`${input.id}-hint`);
  try {
    const total = seconds(input.value);
    sayWrong(input, null);
    hint.replaceChildren(...words(total));
  } catch {
    // Unfinished input is no error yet: it is checked when the field loses the focus.
    hint.replaceChildren();
  }
}

function judge(input, greatest = Infinity, complaint = '') {
  try {
    const total = seconds(input.value);
    if (total !== null && total > greatest) throw new Error(complaint);
    sayWrong(input, null);
    return { total };
  } catch (wrong) {
    $(`${input.id}-hint`).replaceChildren();
    sayWrong(input, wrong.message);
    return null;
  }
}

const inTime = (total) => time(new Date(Date.now() + total * 1000).toISOString());

// ---------------------------------------------------------------- add

const MAX_NAME_LENGTH = 190;
const NAMES = `A name is 1 to ${MAX_NAME_LENGTH} printable characters.`;
const addForm = $('add-form');
const lives = (total) => (total === null ? ['No expiration date'] : ['Expires ', ...inTime(total)]);

$('add').addEventListener('click', () => {
  addForm.reset();
  for (const input of [$('add-name'), $('add-ttl')]) sayWrong(input, null);
  say(addForm.querySelector('[data-error]'), null);
  preview($('add-ttl'), lives);
  open($('add-dialog'));
  $('add-name').focus();
});

$('add-name').addEventListener('input', () => sayWrong($('add-name'), null));
$('add-ttl').addEventListener('input', () => preview($('add-ttl'), lives));
$('add-ttl').addEventListener('change', () => judge($('add-ttl')));

addForm.addEventListener('submit', (event) => {
  event.preventDefault();
  const [name, role, ttl] = [$('add-name'), $('add-role'), $('add-ttl')];
  const error = addForm.querySelector('[data-error]');
  say(error, null);
  const life = judge(ttl);
  const length = [...name.value.trim()].length;
  const misnamed = length === 0 ? 'Give the key a name.' : length > MAX_NAME_LENGTH ? NAMES : null;
  sayWrong(name, misnamed);
  if (misnamed || !life) {
    (misnamed ? name : ttl).focus();
    return;
  }
  busy(event.submitter ?? addForm.querySelector('.primary'), async () => {
    try {
      const body = { name: name.value.trim(), role: role.value };
      if (life.total !== null) body.secondsToLive = life.total;
      const created = await call('POST', 'api/auth/keys', body);
      showKey('Created', created);
      await load();
    } catch (denied) {
      if (isOver(denied)) return;
      const [misspelled, mistimed] = [denied.problem('name'), denied.problem('secondsToLive')];
      if (mistimed) {
        $('add-ttl-hint').replaceChildren();
        sayWrong(ttl, mistimed);
        ttl.focus();
      } else if (misspelled) {
        sayWrong(name, misspelled);
        name.focus();
      } else {
        say(error, denied.message);
      }
    }
  });
});

// ---------------------------------------------------------------- the key, this once

function showKey(title, created) {
  const dialog = $('created-dialog');
  dialog.querySelector('[data-title]').textContent = title;
  dialog.querySelector('[data-name]').textContent = created.name;
  $('created-key').value = created.key;
  const url = new URL('api/auth/actor', document.baseURI);
  url.hash = '';
  $('created-curl').value = `curl -H 'Authorization: Bearer ${created.key}' ${url}`;
  $('copied').textContent = '';
  const row = returnTo;
  dialog.showModal();
  for (const other of [$('add-dialog'), $('rotate-dialog')]) if (other.open) other.close();
  returnTo = row;
  $('copy-key').focus();
}

async function copy(field, what) {
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
  $('copied').textContent = copied ? `${what} copied.` : 'Press Ctrl+C to copy what is selected.';
}

$('copy-key').addEventListener('click', () => copy($('created-key'), 'Key'));
$('copy-curl').addEventListener('click', () => copy($('created-curl'), 'Command'));
for (const field of [$('created-key'), $('created-curl')]) field.addEventListener('focus', () => field.select());

// A key cannot be shown again, so only the button Done closes this dialog.
const stay = (event) => {
  event.preventDefault();
  $('copied').textContent = 'Press Done when you have copied the key.';
};
$('created-dialog').addEventListener('cancel', stay);
$('created-dialog').addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stay(event);
});
$('created-done').addEventListener('click', () => $('created-dialog').close());
$('created-dialog').addEventListener('close', () => {
  for (const field of [$('created-key'), $('created-curl')]) field.value = '';
});

// ---------------------------------------------------------------- rotate, revoke, delete

let chosen = null;

const overlaps = (total) => (total === null
  ? ['The old secret stops at once.']
  : ['The old secret works until ', ...inTime(total)]);
const judgeOverlap = () => judge($('rotate-overlap'), WEEK, 'Seven days at most.');

function askRotate(key) {
  chosen = key;
  const form = $('rotate-form');
  form.reset();
  form.querySelector('[data-name]').textContent = key.name;
  say(form.querySelector('[data-error]'), null);
  sayWrong($('rotate-overlap'), null);
  preview($('rotate-overlap'), overlaps);
  open($('rotate-dialog'));
  $('rotate-overlap').focus();
}

$('rotate-overlap').addEventListener('input', () => preview($('rotate-overlap'), overlaps));
$('rotate-overlap').addEventListener('change', judgeOverlap);

$('rotate-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.target;
  const overlap = judgeOverlap();
  if (!overlap) {
    $('rotate-overlap').focus();
    return;
  }
  busy(event.submitter ?? form.querySelector('.primary'), async () => {
    const error = form.querySelector('[data-error]');
    say(error, null);
    try {
      const body = overlap.total === null ? {} : { overlapSeconds: overlap.total };
      showKey('New secret for', await call('POST', keyPath(chosen.id, '/rotate'), body));
      await load();
    } catch (denied) {
      if (isOver(denied)) return;
      const mistimed = denied.problem('overlapSeconds');
      if (mistimed) sayWrong($('rotate-overlap'), mistimed);
      else say(error, denied.message);
    }
  });
});

let confirmed = null;

function ask(key, title, text, yes, run) {
  const form = $('confirm-form');
  form.querySelector('[data-title]').textContent = title;
  form.querySelector('[data-name]').textContent = key.name;
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  say(form.querySelector('[data-error]'), null);
  confirmed = run;
  open($('confirm-dialog'));
}

function askRevoke(key) {
  ask(key, 'Revoke', 'It stops working at once, for good.  It stays in the list of expired and revoked keys.', 'Revoke', async () => {
    await call('POST', keyPath(key.id, '/revoke'), {});
    return [named(key.name), ' is revoked.'];
  });
}

function askDelete(key) {
  const text = isDead(key)
    ? 'Nothing of it remains in the list.'
    : 'It stops working at once, and nothing of it remains in the list.';
  ask(key, 'Delete', text, 'Delete', async () => {
    await call('DELETE', keyPath(key.id));
    return [named(key.name), ' is deleted.'];
  });
}

$('confirm-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const error = event.target.querySelector('[data-error]');
  busy($('confirm-yes'), async () => {
    say(error, null);
    let notice;
    try {
      notice = await confirmed();
    } catch (denied) {
      if (isOver(denied)) return;
      // Somebody else changed the key meanwhile: the list will show it.
      if (denied.status !== 404) {
        say(error, denied.message);
        return;
      }
      notice = [denied.message];
    }
    const focus = returnTo;
    await load();
    $('confirm-dialog').close();
    toast(...notice);
    restore(focus);
  });
});

// ---------------------------------------------------------------- begin

const zone = dates.resolvedOptions().timeZone;
$('zone').textContent = zone ? `Times are ${zone.replaceAll('_', ' ')}.` : '';

try {
  await enter();
} catch (denied) {
  showLogin(denied.status === 401 ? null : denied.message);
}
