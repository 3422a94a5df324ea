// A provider of OpenID Connect on oidc-provider.  Its arguments are the folder with oidc-provider, and a file with
// {"port", "clients", "people", "claims_in_id_token"}.
//
// The people are {"ann": {"name": …, "groups": […]}}: whoever logs in needs a name among them, and no password.  A
// browser is asked once, until it is closed, and never for consent.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [folder, file] = process.argv.slice(2);
const settings = JSON.parse(readFileSync(file, 'utf8'));
const module = `${folder}/node_modules/oidc-provider/lib/index.js`;
const { default: Provider } = await import(pathToFileURL(module).href);

const jwk = (alg, type, options) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig' };
};
const keys = [
  jwk('RS256', 'rsa', { modulusLength: 2048 }),
  jwk('ES256', 'ec', { namedCurve: 'P-256' }),
  jwk('EdDSA', 'ed25519', {}),
  jwk('PS256', 'rsa', { modulusLength: 2048 }),
];

const standard = {
  email: ['email', 'email_verified'],
  profile: ['name', 'family_name', 'given_name', 'preferred_username', 'locale'],
};
const isStandard = (claim) => Object.values(standard).flat().includes(claim);
const all = new Set(Object.values(settings.people).flatMap((claims) => Object.keys(claims)));
// A scope of its own for each other claim: `groups` tells the groups.
const own = [...all].filter((claim) => claim !== 'sub' && !isStandard(claim)).map((claim) => [claim, [claim]]);

const escaped = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
const page = (uid, problem) => `<!doctype html><html lang="en"><title>Log in</title>
<h1>Log in</h1><p id="problem">${escaped(problem)}</p>
<form method="post" action="/interaction/${uid}">
<label>Name <input name="name" autofocus></label>
<button name="answer" value="log-in">Log in</button>
<button name="answer" value="deny">Deny</button>
</form></html>`;

const form = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return new URLSearchParams(Buffer.concat(parts).toString());
};

const server = createServer();
server.listen(settings.port, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: settings.clients,
    jwks: { keys },
    claims: { openid: ['sub'], ...standard, ...Object.fromEntries(own) },
    conformIdTokenClaims: !settings.claims_in_id_token,
    cookies: { keys: ['only for tests'] },
    features: { devInteractions: { enabled: false }, userinfo: { enabled: true } },
    pkce: { required: () => true },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, name) => {
      const claims = settings.people[name];
      return claims && { accountId: name, claims: () => ({ sub: name, ...claims }) };
    },
    // All that a client asks for is granted.
    loadExistingGrant: async (context) => {
      const { client, session, requestParamScopes } = context.oidc;
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope([...requestParamScopes].join(' '));
      await grant.save();
      return grant;
    },
    renderError: (context, out) => {
      context.type = 'text/plain';
      context.body = `${out.error}: ${out.error_description}`;
    },
  });
  const answer = provider.callback();
  server.on('request', async (request, response) => {
    const [, first, uid] = new URL(request.url, 'http://provider').pathname.split('/');
    if (first !== 'interaction') {
      answer(request, response);
      return;
    }
    const show = (problem) => {
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(page(uid, problem));
    };
    try {
      await provider.interactionDetails(request, response);
      if (request.method !== 'POST') {
        show('');
        return;
      }
      const given = await form(request);
      const name = given.get('name') ?? '';
      if (given.get('answer') === 'deny') {
        const denial = { error: 'access_denied', error_description: 'The person denied it' };
        await provider.interactionFinished(request, response, denial);
      } else if (Object.hasOwn(settings.people, name)) {
        // The cookie goes when the browser is closed.
        await provider.interactionFinished(request, response, { login: { accountId: name, remember: false } });
      } else {
        show('Nobody has this name.');
      }
    } catch (error) {
      response.statusCode = 400;
      response.end(`${error.name}: ${error.message}`);
    }
  });
  console.log(`listening on 127.0.0.1:${port}`);
});
