// The dialog that shows a new key, this once.

import { entitle, open } from './dialogs.js';
import { $, copy } from './elements.js';

const dialog = $('created-dialog');
const fields = [$('created-key'), $('created-curl')];

export function showKey(title, created) {
  entitle(dialog, title, created.name);
  $('created-key').value = created.key;
  const url = new URL('api/auth/actor', document.baseURI);
  url.hash = '';
  $('created-curl').value = `curl -H 'Authorization: Bearer ${created.key}' ${url}`;
  $('copied').textContent = '';
  open(dialog, $('copy-key'));
}

$('copy-key').addEventListener('click', () => copy($('created-key'), $('copied'), 'Key'));
$('copy-curl').addEventListener('click', () => copy($('created-curl'), $('copied'), 'Command'));
for (const field of fields) field.addEventListener('focus', () => field.select());

// A key cannot be shown again, so only the button Done closes this dialog.
const stay = (event) => {
  event.preventDefault();
  $('copied').textContent = 'Press Done when you have copied the key.';
};
dialog.addEventListener('cancel', stay);
dialog.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stay(event);
});
$('created-done').addEventListener('click', () => dialog.close());
dialog.addEventListener('close', () => {
  for (const field of fields) field.value = '';
});
