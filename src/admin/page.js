// The page of the API keys.  All its data comes from the admin API of the same server.
// Data becomes text nodes and attributes, never markup.

import * as accounts from './page/accounts.js';
import * as audit from './page/audit.js';
import { closeAll, setFallback } from './page/dialogs.js';
import { $, make } from './page/elements.js';
import { closeFloating } from './page/float.js';
import * as keys from './page/keys.js';
import { goOn, onRoute, route } from './page/route.js';
import { begin, isLoggedIn, may, showProblem } from './page/session.js';
import { offerZones, refresh } from './page/times.js';

const VIEWS = { keys, accounts, audit };
const isOffered = { keys: () => may().manages !== 'none', accounts: () => may().accounts, audit: () => may().audit };

let shown = null;

// Shows the view that the address names, or the first one that the caller may see.
async function showView() {
  if (!isLoggedIn()) return;
  closeFloating();
  const { view: wanted } = route();
  const views = Object.keys(VIEWS).filter((view) => isOffered[view]());
  for (const link of document.querySelectorAll('#views [data-view]')) {
    link.hidden = !views.includes(link.dataset.view);
    if (link.dataset.view === wanted) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  $('views').hidden = views.length < 2;
  $('read-only').hidden = !may().isReadOnly;
  $('no-rights').hidden = views.length > 0;
  if (views.length === 0) {
    $('no-rights').replaceChildren(make('h1', {}, 'You may not manage API keys'),
      make('p', {}, 'You are logged in, but neither admin.allow nor admin.self_service admits you.'));
    return;
  }
  if (!views.includes(wanted)) {
    goOn(views[0]);
    return;
  }
  for (const view of Object.keys(VIEWS)) $(`${view}-view`).hidden = view !== wanted;
  if (shown !== wanted) {
    showProblem(null);
    closeAll();
    if (shown !== null) VIEWS[shown].clear();
    shown = wanted;
    scrollTo(0, 0);
  }
  document.title = `${$(`${wanted}-title`).textContent} · API keys`;
  await VIEWS[wanted].show();
}

function forget() {
  shown = null;
  showProblem(null);
  for (const [name, view] of Object.entries(VIEWS)) {
    view.clear();
    $(`${name}-view`).hidden = true;
  }
}

async function came() {
  await showView();
  const first = { keys: 'search', accounts: 'accounts-search', audit: 'audit-from' }[shown] ?? 'logout';
  $(first).focus();
}

const reload = () => (shown === null || !isLoggedIn() ? undefined : VIEWS[shown].load());

onRoute(() => {
  // A step back leaves a dialog that belongs to what was shown.  A new key that is still shown stays.
  if (!$('created-dialog').open) closeAll();
  void showView();
});
setFallback(() => ({ keys: $('add').hidden ? $('search') : $('add'), accounts: $('add-account'), audit: $('audit-from') }[shown]));
offerZones($('zone'), reload);
$('try-again').addEventListener('click', reload);
$('skip').addEventListener('click', (event) => {
  event.preventDefault();
  $('main').focus();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !document.querySelector('dialog[open]')) void reload();
});
// Relative times change while the page is open.
setInterval(refresh, 15000);

await begin(came, forget);
