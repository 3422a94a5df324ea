// The pages of log-in and log-out.  Addresses are relative, so that they also work below a path prefix.
// Data becomes text nodes and attributes, never markup.

const $ = (id) => document.getElementById(id);

async function call(method, path, body) {
  const init = { method, headers: { accept: 'application/json' }, cache: 'no-store', credentials: 'same-origin' };
  if (body !== undefined) {
    init.headers['content-type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch {
    throw new Error('The server does not answer.  Try again.');
  }
  let reply = null;
  try {
    reply = await answer.json();
  } catch {
    // A proxy may answer with something other than JSON.
  }
  if (answer.ok && reply !== null) return reply;
  throw new Error(reply?.message ?? `The server answers ${answer.status}.`);
}

function say(message) {
  $('error').textContent = message ?? '';
  $('error').hidden = !message;
}

// Runs the action of a button, once at a time.
async function busy(button, work) {
  if (button.disabled) return;
  button.disabled = true;
  say(null);
  try {
    await work();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

// ---------------------------------------------------------------- log out

$('logout').addEventListener('click', () => busy($('logout'), async () => {
  const { redirect } = await call('POST', 'logout');
  if (redirect) {
    location.assign(redirect);
    return;
  }
  if ($('logged-out')) {
    $('logged-out').hidden = false;
    $('logout').hidden = true;
  } else {
    location.reload();
  }
}));

// ---------------------------------------------------------------- log in

let options = null;
const asked = new URLSearchParams(location.search).get('return_to');

function provider({ name, label }) {
  const link = document.createElement('a');
  link.className = 'button plain wide';
  link.textContent = `Log in with ${label}`;
  const query = asked === null ? '' : `?${new URLSearchParams({ return_to: asked })}`;
  link.setAttribute('href', `login/${encodeURIComponent(name)}${query}`);
  const item = document.createElement('li');
  item.append(link);
  return item;
}

// Where people go on to who do not come from an application.
const home = () => (options.isApplication ? '/' : './');

async function show() {
  const query = asked === null ? '' : `?${new URLSearchParams({ return_to: asked })}`;
  options = await call('GET', `login/options${query}`);
  const { returnTo } = options;
  if (returnTo) {
    $('destination-host').textContent = new URL(returnTo.address).host;
    $('destination').hidden = false;
  }
  const isLost = returnTo && !returnTo.receivesSession;
  if (isLost) {
    $('not-received').textContent = `${new URL(returnTo.address).host} cannot receive a session of this page.  ` +
      'Its administrator can put both under one domain (session.domain), or this page under the application (admin.login_hosts).';
    $('not-received').hidden = false;
  }
  const isLoggedIn = options.loggedIn !== undefined;
  $('logged-in').hidden = !isLoggedIn;
  if (isLoggedIn) {
    $('who').textContent = options.loggedIn;
    // People who come back from the application although they are logged in are not redirected to it again.
    const address = isLost ? null : returnTo?.address ?? home();
    $('go-on').hidden = address === null;
    if (address !== null) $('go-on').setAttribute('href', address);
  }
  $('login-form').hidden = isLoggedIn || !options.passwords;
  $('providers').replaceChildren(...options.providers.map(provider));
  $('providers').hidden = isLoggedIn || options.providers.length === 0;
  $('no-way').hidden = isLoggedIn || options.passwords || options.providers.length > 0;
  $('login').hidden = false;
  if (!$('login-form').hidden) $('login-user').focus();
}

$('login-form')?.addEventListener('submit', (event) => {
  event.preventDefault();
  const { user, password } = event.target;
  const missing = [user, password].find((field) => field.value === '');
  if (missing) {
    say(missing === user ? 'Enter your user name.' : 'Enter your password.');
    missing.focus();
    return;
  }
  busy(event.submitter ?? event.target.querySelector('button'), async () => {
    const body = { user: user.value, password: password.value };
    if (asked !== null) body.return_to = asked;
    try {
      const { redirect } = await call('POST', 'login', body);
      password.value = '';
      const isLost = options.returnTo && !options.returnTo.receivesSession;
      if (isLost) await show();
      else location.assign(redirect ?? home());
    } catch (error) {
      password.focus();
      password.select();
      throw error;
    }
  });
});

if ($('login')) {
  try {
    await show();
  } catch (error) {
    say(error.message);
    $('login').hidden = false;
  }
}
