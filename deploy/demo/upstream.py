#!/usr/bin/env python3
"""The application of the demo: answers every request with the headers that reached it.

    python3 deploy/demo/upstream.py [PORT]

Prints the port that it listens on; without one, a free one.
"""

import http.server
import sys


class Show(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        # Envoy's own x-forwarded-* and x-request-id would only crowd the picture.
        noise = ("host", "user-agent", "accept", "x-forwarded-", "x-request-id", "x-envoy-")
        lines = ["you reached the application", f"{self.command} {self.path}"]
        for name, value in self.headers.items():
            if not name.lower().startswith(noise):
                lines.append(f"{name.lower()}: {value}")
        body = ("\n".join(lines) + "\n").encode("utf-8", "replace")
        self.send_response(200)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Show)
    except OSError as error:
        sys.exit(f"error: cannot listen on 127.0.0.1:{port}: {error.strerror}: choose another port")
    with server:
        print(server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
