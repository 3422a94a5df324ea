// The dialog that revokes all keys which fit, after showing which these are.

import { call } from './api.js';
import { open } from './dialogs.js';
import { $, busy, make, named, plural, say, sayProblems, sayWrong, toast } from './elements.js';
import { isOver } from './session.js';
import { DAY, ago, instant, time, zoneName } from './times.js';

// How many keys are shown: the count tells of the rest.
const SHOWN = 100;
const FIELDS = {
  createdBy: 'end-maker', createdSince: 'end-since', unusedForSeconds: 'end-unused',
  account: 'end-account', owner: 'end-owner', namePattern: 'end-pattern',
};

const form = $('end-form');
const error = form.querySelector('[data-error]');
let after = () => {};
// The criteria whose keys are shown; null when none are.
let previewed = null;

export function revokeMany(update, filled = {}) {
  after = update;
  form.reset();
  for (const [member, value] of Object.entries(filled)) {
    if (FIELDS[member] && value) $(FIELDS[member]).value = value;
  }
  $('end-since-hint').textContent = `In ${zoneName()}.`;
  forget();
  open($('end-dialog'), $('end-maker'));
}

// Other criteria: what is shown is not what would be revoked.
function forget() {
  previewed = null;
  say(error, null);
  for (const id of Object.values(FIELDS)) sayWrong($(id), null);
  $('end-found').hidden = $('end-yes').hidden = true;
  $('end-preview').hidden = false;
}

form.addEventListener('input', forget);

function problems() {
  const [since, unused] = [$('end-since'), $('end-unused').value.trim()];
  return [
    [since, since.validity.badInput || (since.value !== '' && instant(since.value) === null) ? 'Enter a date and a time.' : null],
    [$('end-unused'), unused !== '' && !/^[1-9][0-9]{0,4}$/.test(unused) ? 'Enter a number of days, such as 90.' : null],
  ];
}

function criteria() {
  const text = (id) => $(id).value.trim() || undefined;
  const days = text('end-unused');
  return {
    createdBy: text('end-maker'),
    createdSince: instant($('end-since').value) ?? undefined,
    unusedForSeconds: days === undefined ? undefined : Number(days) * DAY,
    account: text('end-account'),
    owner: text('end-owner'),
    namePattern: text('end-pattern'),
  };
}

function sayDenied(denied) {
  const pairs = Object.entries(FIELDS).map(([member, id]) => [$(id), denied.problem(member)]);
  if (!sayProblems(pairs)) say(error, denied.message);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (previewed !== null) return;
  say(error, null);
  if (sayProblems(problems())) return;
  const wanted = criteria();
  if (Object.values(wanted).every((value) => value === undefined)) {
    say(error, 'Fill in at least one field: without any, every key would be revoked.');
    $('end-maker').focus();
    return;
  }
  busy($('end-preview'), async () => {
    try {
      show(wanted, await call('POST', 'api/auth/keys/revoke', { ...wanted, dryRun: true }));
    } catch (denied) {
      if (!isOver(denied)) sayDenied(denied);
    }
  });
});

function show(wanted, keys) {
  previewed = wanted;
  $('end-count').textContent = keys.length === 0 ? 'No live key matches.' : `${plural(keys.length, 'key')} will be revoked:`;
  $('end-scroll').hidden = keys.length === 0;
  $('end-rows').replaceChildren(...keys.slice(0, SHOWN).map((key) => make('tr', {},
    make('th', { scope: 'row' }, named(key.name)),
    make('td', {}, key.role ?? 'Its owner’s'),
    make('td', {}, key.account || key.owner ? named(key.account ?? key.owner) : 'No owner'),
    make('td', {}, named(key.createdBy ?? '')),
    make('td', {}, time(key.created)),
    make('td', {}, key.lastUsedAt ? ago(key.lastUsedAt) : 'Never'))));
  $('end-more').textContent = keys.length > SHOWN ? `And ${plural(keys.length - SHOWN, 'more key')}, which match the same fields.` : '';
  $('end-found').hidden = false;
  $('end-preview').hidden = keys.length > 0;
  $('end-yes').hidden = keys.length === 0;
  $('end-yes').textContent = `Revoke ${plural(keys.length, 'key')}`;
  // Enter in a field revokes nothing: that takes the button itself.
  $('end-count').focus();
}

$('end-yes').addEventListener('click', () => busy($('end-yes'), async () => {
  try {
    const keys = await call('POST', 'api/auth/keys/revoke', { ...previewed, dryRun: false });
    await after();
    $('end-dialog').close();
    toast(keys.length === 1 ? '1 key is revoked.' : `${plural(keys.length, 'key')} are revoked.`);
  } catch (denied) {
    if (!isOver(denied)) sayDenied(denied);
  }
}));
