// An application on Express, whose folder is the first argument.  What only administrators may see says so.
//
// Express itself takes /Admin/ for /admin.  The second reading is that of careless code behind it: a path is decoded,
// loses its parameters and its empty segments, and ends where a query or a fragment begins.

import { createRequire } from 'node:module';

const express = createRequire(`${process.argv[2]}/`)('express');
const secret = 'for administrators only';
const app = express();
app.set('trust proxy', true);

// A virtual host, found as URLs are read.
app.use((request, response, next) => {
  let host = request.host;
  try {
    host = new URL(`http://${host}`).hostname;
  } catch {
    // No host that Node knows.
  }
  if (host.replace(/\.+$/, '') === 'admin.example') response.send(secret);
  else next();
});

// Another method than the request's own, as forms and old clients ask for one.
app.use((request, response, next) => {
  const asked = request.query._method ?? request.get('x-http-method-override');
  if (request.method === 'POST' && asked) request.method = String(asked).toUpperCase();
  next();
});
app.delete('/things', (request, response) => response.send(secret));

// What a server of WebDAV does: the target is written to.
app.move('/files', (request, response) => {
  response.send((request.get('destination') ?? '').includes('/admin') ? secret : 'moved');
});

app.all('/admin', (request, response) => response.send(secret));
app.use((request, response) => {
  let path = request.path;
  try {
    path = decodeURIComponent(path);
  } catch {
    // It stays as it is.
  }
  path = path.replace(/[?#].*$/, '').replaceAll('\\', '/').replace(/;[^/]*/g, '').replace(/\/+/g, '/');
  const parts = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '.' && part !== '') parts.push(part);
  }
  response.send(parts[0]?.toLowerCase() === 'admin' ? secret : `${request.method} for everybody`);
});

const server = app.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
