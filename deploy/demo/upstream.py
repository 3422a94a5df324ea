#!/usr/bin/env python3
"""The application of the demo: answers every request with the headers that reached it.

    python3 deploy/demo/upstream.py [PORT]

Prints the port that it listens on; without one, a free one.
"""

import http.server
import json
import sys


class Show(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        # Envoy's own x-forwarded-* and x-request-id would only crowd the picture.
        noise = ("host", "user-agent", "accept", "x-forwarded-", "x-request-id", "x-envoy-")
        shown = {n.lower(): v for n, v in self.headers.items() if not n.lower().startswith(noise)}
        body = {"application": "you reached me", "path": self.path, "headers": shown}
        body = (json.dumps(body, indent=2) + "\n").encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Show) as server:
        print(server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
