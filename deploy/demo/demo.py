#!/usr/bin/env python3
"""`make demo`: a real Envoy lets a request with a token through and turns the others away.

    python3 deploy/demo/demo.py --binary target/debug/envoy-auth-tokens [--port 10000] [--once]

Starts an application that shows the headers it got (upstream.py), envoy-auth-tokens with
deploy/demo/config.yaml and a real Envoy with deploy/envoy.yaml on free ports, sends its requests
with curl, and leaves all of it running until Ctrl-C (with --once: ends it).  Exit code 1 when an
answer is not the expected one.
"""

import argparse
import contextlib
import errno
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds until something that does not start is said to be broken


class Broken(Exception):
    """The demo cannot go on; the text says why."""


class Process:
    """A child process whose lines are kept, and which dies with the demo."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.lines = []
        self.fresh = queue.Queue()
        try:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends the others in turn.
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Broken(f"{name} does not start: {error}") from None
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))
            self.fresh.put(self.lines[-1])
        self.fresh.put(None)

    def wait_for(self, what, find):
        """What `find` makes of the first line in which it finds something."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                said = "\n".join(self.lines[-20:])
                raise Broken(f"{self.name} ended or hung without {what}. It printed:\n{said}")
            found = find(line)
            if found is not None:
                return found

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def listening(listener):
    """Finds the line that says where this listener of ours is."""

    def find(line):
        try:
            entry = json.loads(line)
        except ValueError:
            return None
        fields = entry.get("fields", entry)
        if fields.get("message") == "listening" and fields.get("listener") == listener:
            return fields["address"].rsplit(":", 1)[1]
        return None

    return find


def replace(text, old, new):
    if text.count(old) != 1:
        raise Broken(f"deploy/envoy.yaml was to say {old!r} once.")
    return text.replace(old, new)


def port_for(wanted):
    """A port for Envoy: the wanted one, or a free one where none was asked for."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                why = "is in use by another program"
            else:
                why = f"cannot be had: {error.strerror}"
            raise Broken(
                f"Port {wanted} {why}. Choose another one, make demo PORT=10100, "
                "or any free one, make demo PORT=0."
            ) from None
        return probe.getsockname()[1]


def fetch_envoy():
    """The real Envoy; fetch.py says in a sentence what is missing."""
    script = ROOT / "tests" / "tools" / "fetch.py"
    run = subprocess.run([sys.executable, str(script), "envoy"], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        raise Broken("Without Envoy there is no demo.")
    return run.stdout.strip().removeprefix("envoy=")


def wait_until_ready(envoy, admin):
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"http://{admin}/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        if envoy.child.poll() is not None or time.monotonic() > deadline:
            said = "\n".join(envoy.lines[-20:])
            raise Broken(f"Envoy does not get ready. It printed:\n{said}")
        time.sleep(0.02)


def say(text=""):
    print(text, flush=True)


def play(title, command, token, expected, environment):
    """Prints a command and its answer, and tells whether the answer is the expected one."""
    say(f"── {title}")
    say(f"$ {command}")
    run = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    answer = run.stdout.replace("\r", "").rstrip("\n")
    say(answer.replace(token, "$BOT_TOKEN"))
    missing = [part for part in expected["has"] if part not in answer]
    extra = [part for part in expected["lacks"] if part in answer.lower()]
    if run.returncode != 0 or missing or extra:
        say(f"✗ not as told: missing {missing}, unexpected {extra}, curl's exit code {run.returncode}")
        return False
    say(f"✓ {expected['means']}")
    say()
    return True


def scenario(url, token, environment):
    path = "/:memory:/show_version.json?_shape=array"
    show = "curl -sS -w '\\n[HTTP %{http_code}]\\n' -L"
    bearer = "-H \"Authorization: Bearer $BOT_TOKEN\""
    actor = 'x-actor: {"bot_id":"my-bot"}'
    return [
        play(
            "with the token",
            f"{show} {bearer} '{url}{path}'",
            token,
            {
                "has": ["[HTTP 200]", "you reached", actor],
                "lacks": ["authorization:"],
                "means": "passed: the application knows the actor and never saw the token",
            },
            environment,
        ),
        play(
            "without a token",
            f"{show} '{url}{path}'",
            token,
            {
                "has": ["[HTTP 401]", '"error": "unauthorized"'],
                "lacks": ["you reached"],
                "means": "denied: the application never heard of it",
            },
            environment,
        ),
        play(
            "with a wrong token",
            f"{show} -H 'Authorization: Bearer not-the-token' '{url}{path}'",
            token,
            {
                "has": ["[HTTP 401]", '"error": "invalid_token"', "Invalid API key"],
                "lacks": ["you reached"],
                "means": "denied, and told why",
            },
            environment,
        ),
        play(
            "with the token and a forged actor",
            f"{show} {bearer} -H 'x-actor: {{\"bot_id\":\"root\"}}' -H 'x-actor-id: root' '{url}{path}'",
            token,
            {
                "has": ["[HTTP 200]", "you reached", actor],
                "lacks": ["root", "authorization:"],
                "means": "passed as who it is: what the client claimed is gone",
            },
            environment,
        ),
        play(
            "with a forged actor alone",
            f"{show} -H 'x-actor: {{\"bot_id\":\"root\"}}' '{url}{path}'",
            token,
            {
                "has": ["[HTTP 401]"],
                "lacks": ["you reached"],
                "means": "denied: a claim is no token",
            },
            environment,
        ),
    ]


def demo(arguments, processes):
    if shutil.which("curl") is None:
        raise Broken("The demo needs curl: install it (Debian and Ubuntu: apt install curl).")
    if not pathlib.Path(arguments.binary).is_file():
        raise Broken(f"There is no {arguments.binary}: build it with `cargo build`.")
    port = port_for(arguments.port)
    token = os.environ.get("BOT_TOKEN") or "this-is-the-bots-secret-token"
    environment = dict(os.environ, BOT_TOKEN=token)
    envoy_binary = fetch_envoy()

    def start(name, command):
        processes.append(Process(name, command, environment))
        return processes[-1]

    upstream = start("The application", [sys.executable, str(ROOT / "deploy/demo/upstream.py")])
    upstream_port = upstream.wait_for("its port", lambda line: line if line.isdigit() else None)

    config = str(ROOT / "deploy/demo/config.yaml")
    serve = [arguments.binary, "serve", "--config", config, "--log-format", "json", "--drain", "0s"]
    ours = start("envoy-auth-tokens", serve)
    ext_authz_port = ours.wait_for("saying where it listens", listening("ext_authz"))

    folder = processes.folder
    admin_file = pathlib.Path(folder) / "admin"
    text = (ROOT / "deploy" / "envoy.yaml").read_text()
    text = replace(text, "port_value: 10000", f"port_value: {port}")
    text = replace(text, "port_value: 8080", f"port_value: {upstream_port}")
    text = replace(text, "port_value: 9191", f"port_value: {ext_authz_port}")
    text += "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n"
    envoy_config = pathlib.Path(folder) / "envoy.yaml"
    envoy_config.write_text(text)
    envoy = start(
        "Envoy",
        [envoy_binary, "-c", str(envoy_config), "--concurrency", "1", "--disable-hot-restart"]
        + ["-l", "warning", "--component-log-level", "admin:info"]
        + ["--admin-address-path", str(admin_file)],
    )
    marker = "admin address: "
    admin = envoy.wait_for(
        "saying where its admin listens",
        lambda line: line.split(marker, 1)[1].strip() if marker in line else None,
    )
    wait_until_ready(envoy, admin)

    url = f"http://127.0.0.1:{port}"
    say()
    say(f"client ─▶ Envoy {url} ─▶ application 127.0.0.1:{upstream_port}")
    say(f"            └─ ext_authz ─▶ envoy-auth-tokens 127.0.0.1:{ext_authz_port} (deploy/demo/config.yaml)")
    say()
    if os.environ.get("BOT_TOKEN"):
        say("BOT_TOKEN is yours, from the environment.")
    else:
        say(f"$ export BOT_TOKEN={token}")
    say()
    right = all(scenario(url, token, environment))
    if not right:
        raise Broken("An answer was not the expected one.")
    if arguments.once:
        say("All answers are the expected ones.")
        return
    say("All of it keeps running for you to try; Ctrl-C ends it.")
    while True:
        for process in processes:
            if process.child.poll() is not None:
                said = "\n".join(process.lines[-20:])
                raise Broken(f"{process.name} ended by itself. It printed:\n{said}")
        time.sleep(0.5)


class Processes(list):
    """Everything that was started, with a folder for its files; all of it goes at the end."""

    folder = None

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="envoy-auth-tokens-demo-")
        return self

    def __exit__(self, *_):
        for process in reversed(self):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description="sends requests through a real Envoy")
    parser.add_argument("--binary", required=True, help="the envoy-auth-tokens to show")
    parser.add_argument("--port", type=int, default=10000, help="Envoy's port; 0 for a free one")
    parser.add_argument("--once", action="store_true", help="end after the last answer")
    arguments = parser.parse_args()
    # Whoever ends the demo politely must not leave its children behind.
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    try:
        with Processes() as processes:
            demo(arguments, processes)
    except Broken as broken:
        print(f"error: {broken}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nEnded.")
        return 130 if arguments.once else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
