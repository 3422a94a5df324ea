// Calls of the admin API of the same server.

// What a server says that only reads the key store.
const READ_ONLY = 'The key store is read only here';

// What the page says in place of messages that are Grafana's.
const IN_WORDS = new Map([
  [READ_ONLY, `${READ_ONLY}.  Log in and change keys at a server that writes to it.`],
  ['api_key Quota reached', 'The limit of stored keys is reached.  Delete keys that are not needed, or raise keys.max.'],
  ['API key name already exists', 'Another live key of the same owner has this name.'],
]);

// A response other than 2xx, or no response.
class Denied extends Error {
  constructor(status, message, details) {
    const all = Array.isArray(details) ? details : [];
    // The right that the caller lacks.
    const caller = all.find((one) => one.field === 'caller');
    super(IN_WORDS.get(message) ?? (caller ? `${message}: ${caller.problem}.` : message));
    this.status = status;
    this.details = all;
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
    throw new Denied(0, 'The server does not answer.');
  }
  let reply = null;
  try {
    reply = await answer.json();
  } catch {
    // A proxy may answer with something other than JSON.
  }
  if (answer.ok && reply !== null) return { reply, headers: answer.headers };
  throw new Denied(answer.status, reply?.message ?? `The server answers ${answer.status}.`, reply?.details);
}

export const call = async (method, path, body) => (await request(method, path, body)).reply;

// A query string of the members that have a value.
export function query(members) {
  const set = Object.entries(members).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return set.length === 0 ? '' : `?${new URLSearchParams(set)}`;
}

export const keyPath = (id, act = '') => `api/auth/keys/${encodeURIComponent(id)}${act}`;
export const accountPath = (id, act = '') => `api/serviceaccounts/${encodeURIComponent(id)}${act}`;

// One page of a list whose length is in `X-Total-Count`.
export async function page(path, members) {
  const { reply, headers } = await request('GET', `${path}${query(members)}`);
  return { items: reply, total: Number(headers.get('x-total-count') ?? reply.length) };
}
