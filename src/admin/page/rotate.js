// The dialog that gives a key a new secret.

import { call, keyPath } from './api.js';
import { showKey } from './created.js';
import { entitle, open } from './dialogs.js';
import { $, busy, say, sayWrong } from './elements.js';
import { isOver } from './session.js';
import { WEEK, seconds, timeAndAgo } from './times.js';

const form = $('rotate-form');
const [choice, custom] = [$('rotate-overlap'), $('rotate-custom')];
const customPart = form.querySelector('[data-part="custom"]');
let key = null;
let after = () => {};

export function askRotate(chosen, update) {
  [key, after] = [chosen, update];
  form.reset();
  entitle($('rotate-dialog'), '', key.name);
  say(form.querySelector('[data-error]'), null);
  say($('rotate-third'), key.oldSecretUntil && Date.parse(key.oldSecretUntil) > Date.now()
    ? 'The secret before this one still works.  It stops working now, because a key can have only one old secret.' : null);
  preview();
  open($('rotate-dialog'), choice);
}

// How long the old secret works on, or null with the problem told at its field.
function overlap() {
  if (choice.value !== 'custom') return Number(choice.value);
  try {
    const total = seconds(custom.value);
    if (total === null) throw new Error('Enter how long the old secret works, or choose that it stops at once.');
    if (total > WEEK) throw new Error('At most 7 days.');
    return total;
  } catch (wrong) {
    $('rotate-custom-hint').replaceChildren();
    sayWrong(custom, wrong.message);
    return null;
  }
}

// Says what happens to the old secret, before it does.
function preview() {
  const isCustom = choice.value === 'custom';
  customPart.hidden = !isCustom;
  for (const input of [choice, custom]) sayWrong(input, null);
  for (const input of [choice, custom]) $(`${input.id}-hint`).replaceChildren();
  let total;
  try {
    total = isCustom ? seconds(custom.value) : Number(choice.value);
  } catch {
    // Unfinished input is no error yet.
    return;
  }
  const hint = $(isCustom ? 'rotate-custom-hint' : 'rotate-overlap-hint');
  if (total === null) return;
  if (total === 0) {
    hint.replaceChildren('Requests with the old secret are denied from now on.');
    return;
  }
  const until = Date.now() + total * 1000;
  const ends = key.expiration && Date.parse(key.expiration) < until;
  hint.replaceChildren('The old secret works until ', ...timeAndAgo(ends ? key.expiration : new Date(until).toISOString()),
    ends ? ', when the key expires.' : '.');
}

choice.addEventListener('change', () => {
  preview();
  if (choice.value === 'custom') custom.focus();
});
custom.addEventListener('input', preview);
custom.addEventListener('change', overlap);

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const total = overlap();
  if (total === null) {
    custom.focus();
    return;
  }
  const error = form.querySelector('[data-error]');
  busy(event.submitter ?? form.querySelector('.primary'), async () => {
    say(error, null);
    try {
      const body = total === 0 ? {} : { overlapSeconds: total };
      showKey('New secret for', await call('POST', keyPath(key.id, '/rotate'), body));
      await after();
    } catch (denied) {
      if (isOver(denied)) return;
      const problem = denied.problem('overlapSeconds');
      if (problem) sayWrong(choice.value === 'custom' ? custom : choice, problem);
      else say(error, denied.message);
    }
  });
});
