// Who is logged in, what they may do, and the form of log-in.

import { call } from './api.js';
import { closeAll, setIsOver } from './dialogs.js';
import { $, busy, make, say } from './elements.js';
import { closeFloating } from './float.js';

let actor = null;
let began = () => {};
let ended = () => {};

export const isLoggedIn = () => actor !== null;
const ownName = () => String(actor?.name ?? actor?.id ?? 'somebody');

// What the caller may do, as the server says it.
export function may() {
  const permissions = actor?.permissions ?? {};
  const { maxSecondsToLive, latestExpiration, manages = 'none' } = permissions;
  // The longest life that they may give; null is without an end.
  const lives = [maxSecondsToLive, latestExpiration && Math.floor((Date.parse(latestExpiration) - Date.now()) / 1000)];
  const limits = lives.filter((seconds) => seconds !== undefined);
  const maxSeconds = limits.length === 0 ? null : Math.min(...limits);
  const changes = !permissions.readOnly && manages !== 'none';
  return {
    isReadOnly: Boolean(permissions.readOnly),
    // All keys, only the own ones, or none.
    manages,
    changes,
    adds: changes && (maxSeconds === null || maxSeconds > 0),
    revokesMany: changes && Boolean(permissions.bulk),
    ownsKeys: Boolean(permissions.ownKeys),
    audit: Boolean(permissions.audit),
    accounts: Boolean(permissions.accounts),
    roles: permissions.roles ?? [],
    policies: permissions.policies ?? [],
    members: permissions.actorMembers ?? [],
    maxSeconds,
    // The life that the configuration proposes.
    firstSeconds: permissions.defaultSecondsToLive ?? null,
  };
}

const form = $('login-form');

function showLogin(message) {
  actor = null;
  closeFloating();
  closeAll();
  ended();
  $('toast').replaceChildren();
  $('keys').hidden = true;
  $('login').hidden = false;
  document.title = 'Log in · API keys';
  say(form.querySelector('[data-error]'), message);
  $('login-password').value = '';
  void showOptions();
  ($('login-user').value === '' ? $('login-user') : $('login-password')).focus();
}

// The ways to log in.  Without an answer people log in with their password.
async function showOptions() {
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
  // Where nothing else is offered, the form stays: the server says why it cannot be used.
  $('login-passwords').hidden = !options.passwords && options.providers.length > 0;
}

// Shows the page of the person who owns the session of the browser.
async function enter() {
  actor = await call('GET', 'api/auth/actor');
  $('who').textContent = ownName();
  $('login').hidden = true;
  $('keys').hidden = false;
  await began();
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
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
    else showProblem(`You are still logged in: ${denied.message}`);
  }
}));

// The session ended: log in first.
export function isOver(denied) {
  if (denied.status !== 401) return false;
  // A new key that is still shown cannot be shown again, so the log-in waits for the next action.
  if ($('created-dialog').open) return true;
  showLogin('Your session has ended.  Log in again.');
  return true;
}

setIsOver(isOver);

// A problem with the view as a whole.  What is shown stays, and may be out of date.
export function showProblem(message) {
  $('problem-text').textContent = message ?? '';
  $('problem').hidden = !message;
}

// Begins the page: `onBegin` after a log-in, `onEnd` after a log-out.
export async function begin(onBegin, onEnd) {
  began = onBegin;
  ended = onEnd;
  try {
    await enter();
  } catch (denied) {
    showLogin(denied.status === 401 ? null : denied.message);
  }
}
