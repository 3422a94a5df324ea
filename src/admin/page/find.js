// The dialog that says whose a token is.  The token itself is never sent.

import { call } from './api.js';
import { open } from './dialogs.js';
import { $, button, busy, copy, named, say, sayWrong } from './elements.js';
import { actsOf, factsOf, states } from './key_acts.js';
import { revokeMany } from './revoke_many.js';
import { isOver, may } from './session.js';

const DIGEST = /^[0-9a-f]{64}$/i;
// It reads the token from the terminal, so that no history of a shell keeps it.
const COMMAND = "read -rs TOKEN && printf %s \"$TOKEN\" | sha256sum";
// Only a secure context has Web Crypto.
const canDigest = () => globalThis.crypto?.subtle !== undefined;

const form = $('find-form');
const input = $('find-token');
const error = form.querySelector('[data-error]');
let after = () => {};

export function findToken(update) {
  after = update;
  form.reset();
  $('find-command').value = COMMAND;
  $('find-copied').textContent = '';
  $('find-how').hidden = !canDigest();
  $('find-insecure').hidden = canDigest();
  $('find-label').textContent = canDigest() ? 'Token, or its SHA-256 digest' : 'SHA-256 digest of the token';
  forget();
  open($('find-dialog'), input);
}

function forget() {
  say(error, null);
  sayWrong(input, null);
  $('find-result').hidden = $('find-acts').hidden = true;
}

input.addEventListener('input', forget);
$('copy-find-command').addEventListener('click', () => copy($('find-command'), $('find-copied'), 'Command'));
// A token that was looked for is not left on the page.
$('find-dialog').addEventListener('close', () => {
  input.value = '';
});

async function digest(text) {
  if (DIGEST.test(text)) return text.toLowerCase();
  const bytes = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  forget();
  // What sha256sum prints has the name of a file behind it, and what a log shows may have a scheme before it.
  const text = input.value.trim().replace(/^([0-9a-f]{64})\s+-$/i, '$1').replace(/^bearer\s+/i, '');
  if (text === '') sayWrong(input, canDigest() ? 'Paste the token.' : 'Paste the digest.');
  else if (!canDigest() && !DIGEST.test(text)) sayWrong(input, 'A SHA-256 digest is 64 digits of 0 to 9 and a to f.');
  if (input.hasAttribute('aria-invalid')) {
    input.focus();
    return;
  }
  busy(event.submitter ?? form.querySelector('.primary'), async () => {
    try {
      const { key, secret } = await call('POST', 'api/auth/keys/find', { sha256: await digest(text) });
      show(key, secret);
    } catch (denied) {
      if (isOver(denied)) return;
      if (denied.status === 404) sayWrong(input, 'No key of this store has this token.');
      else sayWrong(input, denied.problem('sha256') ?? denied.message);
      input.focus();
    }
  });
});

function show(key, secret) {
  $('find-found').replaceChildren('It is ', named(key.name), ' ', ...states(key));
  if (secret === 'replaced') $('find-found').append(' (an old secret, which a rotation replaced)');
  $('find-facts').replaceChildren(...factsOf(key));
  const [, ...acts] = actsOf(key, after);
  const wanted = acts.filter(({ label }) => ['Revoke', 'Pause', 'Rotate'].includes(label));
  const buttons = wanted.map(({ label, run, endsIt }) => button(label, run, endsIt ? { class: 'plain ends-it' } : {}));
  if (may().revokesMany) buttons.push(button('Revoke all keys of its creator', () => revokeMany(after, { createdBy: key.createdBy })));
  $('find-acts').replaceChildren(...buttons);
  $('find-result').hidden = false;
  $('find-acts').hidden = buttons.length === 0;
}
