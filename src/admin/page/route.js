// The address of what is shown: `#keys?role=Admin`.  The Back button works, and an address can be sent to a colleague.

let changed = () => {};

export function route() {
  const [view, search] = location.hash.slice(1).split('?');
  return { view, members: Object.fromEntries(new URLSearchParams(search ?? '')) };
}

export function address(view, members = {}) {
  const set = Object.entries(members).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return set.length === 0 ? `#${view}` : `#${view}?${new URLSearchParams(set)}`;
}

export function go(view, members) {
  history.pushState(null, '', address(view, members));
  changed();
}

// The same place, looked at in another way: no step of its own for the Back button.
export function goOn(view, members) {
  history.replaceState(null, '', address(view, members));
  changed();
}

export function onRoute(run) {
  changed = run;
  addEventListener('popstate', run);
}
