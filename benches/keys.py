"""Measures what many stored keys cost: loading them, holding them, and checking one of them.

Started by run.sh, which builds what is measured.  Each store is filled behind the server's back, ten keys and
then a million; the server that reads it is our own binary as it is.

- Loading: from the start of the process until /metrics says that the store was read; all cores.
- Memory: what /proc/PID/status says a moment later, and the most that it was on the way.
- Checks: one after the other on one connection, server on core 0 and client on core 1, the time of each from
  its first byte to its answer's last; instructions by callgrind, as measure.py counts them.
"""

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import pwd
import random
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import capture
import measure
from measure import (
    CLIENT_CORE,
    DIES_WITH_US,
    HERE,
    MISS,
    PATIENCE,
    SERVER_CORE,
    Case,
    Failed,
    cpu_model,
    progress,
    tool_version,
    with_section,
)

FEW = 10


@dataclasses.dataclass(frozen=True)
class Store:
    """A filled store."""

    kind: str
    keys: int
    url: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What loading it took."""

    seconds: float
    resident: int
    peak: int


def free_port():
    """A port that nobody listens on, below those that the system gives to connections: none of these takes it first."""
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in GIVEN_PORTS:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                GIVEN_PORTS.add(port)
                return port


GIVEN_PORTS = set()


def rows(keys):
    """Keys as people have them: a name, a role, most with an expiry.  One of them is the load client's."""
    far = int(time.time()) + 365 * 24 * 3600
    for number in range(keys):
        token = capture.KNOWN if number == keys // 2 else f"token {number}"
        digest = hashlib.sha256(token.encode()).digest()
        yield f"service account {number}", "Editor", digest, far - 10**7, "admin", far if number % 4 else None


def memory(process):
    """The bytes that are resident, and the most that were."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return tuple(int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024 for name in ("VmRSS", "VmHWM"))


class Keys(measure.Bench):
    """Runs our server over a store."""

    def command(self, store, port):
        base = measure.configuration(1, port)
        parts = ("ext_authz", "policies", "routes", "default")
        config = {part: base[part] for part in parts} | {
            "probes": {"listen": f"127.0.0.1:{self.probes}"},
            "keys": {"store": store.url},
        }
        path = self.folder / f"{port}.json"
        path.write_text(json.dumps(config, indent=1))
        serve = [self.arguments.ours, "serve", "--config", str(path), "--drain", "0s"]
        return [*serve, "--log-format", "json", "--log-decisions", "none"]

    @contextlib.contextmanager
    def running(self, store, prefix=()):
        self.probes = free_port()
        with super().running(store, prefix) as (process, port):
            self.wait_for_keys(process, store)
            yield process, port

    def wait_for_keys(self, process, store):
        """Until the store was read: before that its lag is not a number."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Failed(f"the server over {store.kind} ended")
            with contextlib.suppress(OSError):
                metrics = self.metrics()
                if metrics["envoy_auth_tokens_keys_store_lag_seconds"] != "NaN":
                    held = int(metrics["envoy_auth_tokens_keys_held"])
                    if held != store.keys:
                        raise Failed(f"{store.kind} has {store.keys} keys, and {held} are held")
                    return
            time.sleep(0.01)
        raise Failed(f"{store.kind} was not read within {PATIENCE} s")

    def metrics(self):
        """What /metrics says, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.probes}/metrics", timeout=PATIENCE) as answer:
            return dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")

    def loaded(self, store):
        """Starts it over the store, on all cores, and reads what that took."""
        self.probes = free_port()
        begun = time.monotonic()
        with self.process(self.command(store, free_port())) as process:
            self.wait_for_keys(process, store)
            seconds = time.monotonic() - begun
            # What was needed for reading alone is given back in a moment.
            time.sleep(3)
            return Loaded(seconds, *memory(process))

    def latency(self, case, port):
        """Microseconds that half of all Checks, and 99 of 100, stay below."""
        command = ["taskset", "-c", CLIENT_CORE, self.arguments.load, f"127.0.0.1:{port}", str(HERE / case.request)]
        command += ["-n", str(self.arguments.requests), "--expect", str(case.expect), "-c", "1", "-m", "1"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if run.returncode != 0:
            raise Failed(f"the load client failed at {case.name!r}: {run.stderr.strip()}")
        return [float(value) for value in re.findall(r"p\d+ ([\d.]+) µs", run.stdout)]


def fill_sqlite(bench, folder, keys):
    if sqlite3.sqlite_version_info < (3, 37):
        raise Failed(f"Python's SQLite is {sqlite3.sqlite_version}: filling a store needs 3.37")
    path = folder / f"keys-{keys}.db"
    store = Store("SQLite", 0, f"sqlite:{path}")
    with bench.running(store):
        pass
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        sql = "INSERT INTO api_keys (name, role, digest, created_at, created_by, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(sql, rows(keys))
    return dataclasses.replace(store, keys=keys)


class Postgres:
    """A server of our own, on a loopback port, for as long as this is entered."""

    def __init__(self, folder):
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        found = shutil.which("postgres") and pathlib.Path(shutil.which("postgres")).parent
        self.programs = versions[-1] if versions else found
        if not self.programs:
            raise Failed("PostgreSQL is missing: install it (Debian and Ubuntu: apt install postgresql).")
        # What the server is started under.
        self.prefix = []
        self.folder = folder / "postgres"
        self.folder.mkdir()
        self.port = free_port()
        # It refuses to run as root.
        self.user = {}
        if os.getuid() == 0:
            name = next(name for name in ("postgres", "nobody") if name in {user.pw_name for user in pwd.getpwall()})
            self.user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
            shutil.chown(self.folder, name)
            folder.chmod(0o711)

    def __enter__(self):
        initdb = [self.programs / "initdb", "-D", self.folder / "data", "-U", "bench", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self.user)
        self.start()
        return self

    def start(self):
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        settings |= {"fsync": "off", "max_wal_size": "4GB"}
        command = [*DIES_WITH_US, *self.prefix, self.programs / "postgres", "-D", self.folder / "data"]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder.parent / "postgres.log", "a") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self.user)
        deadline = time.monotonic() + PATIENCE
        while self.psql("postgres", "SELECT 1", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed("PostgreSQL did not start")
            time.sleep(0.1)

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(measure.STOPPING)

    def psql(self, database, *commands, check=True, input=None):
        command = [self.programs / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "bench", "-d", database]
        command += ["--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1"]
        command += [part for sql in commands for part in ("-c", sql)]
        return subprocess.run(command, check=check, capture_output=True, text=True, input=input)

    def fill(self, bench, keys):
        database = f"keys_{keys}"
        self.psql("postgres", f"CREATE DATABASE {database}")
        store = Store("PostgreSQL", 0, f"postgres://bench@127.0.0.1:{self.port}/{database}?sslmode=disable")
        with bench.running(store):
            pass
        instant = lambda second: r"\N" if second is None else f"{datetime.datetime.fromtimestamp(second, datetime.timezone.utc):%FT%TZ}"
        lines = (
            "\t".join((name, role, rf"\\x{digest.hex()}", instant(created), by, instant(expires)))
            for name, role, digest, created, by, expires in rows(keys)
        )
        copy = "COPY api_keys (name, role, digest, created_at, created_by, expires_at) FROM STDIN"
        self.psql(database, copy, input="\n".join(lines) + "\n")
        self.psql(database, "VACUUM ANALYZE")
        return dataclasses.replace(store, keys=keys)


RESULTS = """## A million keys

Written by `make bench-keys`, which also makes it anew.

- Date: {date}; commit: {commit}
- Machine: {cores} cores, {model}, Linux {kernel}; load average {before} before, {after} after
- {rounds} starts over each store; {requests:,} Checks in turn; callgrind at {few:,} and {many:,} requests

| store, {keys:,} keys | start to read, median | lowest to highest | of it for {small} keys | resident a key | at most a key |
| ------------------- | ------------------: | ----------------: | -------------------: | -------------: | ------------: |
{loading}

"A key" is what the process has more than one that holds {small} keys, over the number of keys; "at most" is the
peak while everything is read at once.

| Check of one key after the other | p50 | p99 | instructions |
| -------------------------------- | --: | --: | -----------: |
{checks}

A miss is a token that nobody knows: denied, and not logged.  The instructions include what following the store
takes meanwhile, twice a second.
"""


def main():
    parser = argparse.ArgumentParser(description="Measures loading, holding and checking a million stored keys.")
    for name in ("--ours", "--load"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=int, default=1_000_000, help="stored keys (default 1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="starts over each store (default 3)")
    parser.add_argument("--requests", type=int, default=50_000, help="Checks a row (default 50000)")
    parser.add_argument("--few", type=int, default=2_000, help="fewer requests under callgrind (default 2000)")
    parser.add_argument("--many", type=int, default=12_000, help="more of them (default 12000)")
    parser.add_argument("--output", default=HERE / "RESULTS.md", type=pathlib.Path, help="where to write the results")
    arguments = parser.parse_args()
    arguments.connections, arguments.in_flight = 8, 32
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    before = os.getloadavg()[0]
    loading, checks = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        bench = Keys(arguments, folder)
        with Postgres(folder) as postgres:
            for few, many in [
                [fill_sqlite(bench, folder, keys) for keys in (FEW, arguments.keys)],
                [postgres.fill(bench, keys) for keys in (FEW, arguments.keys)],
            ]:
                small = [bench.loaded(few) for _ in range(arguments.rounds)]
                large = [bench.loaded(many) for _ in range(arguments.rounds)]
                median = lambda found, member: statistics.median(getattr(one, member) for one in found)
                a_key = lambda member: (median(large, member) - median(small, member)) / arguments.keys
                seconds = [one.seconds for one in large]
                loading.append(
                    f"| {many.kind} | {median(large, 'seconds'):.2f} s | {min(seconds):.2f} to {max(seconds):.2f} s "
                    f"| {median(small, 'seconds'):.2f} s | {a_key('resident'):.0f} B | {a_key('peak'):.0f} B |"
                )
                progress(loading[-1])
        for keys in (FEW, arguments.keys):
            store = Store("SQLite", keys, f"sqlite:{folder / f'keys-{keys}.db'}")
            for case in (Case(f"known, of {keys:,}", store), Case(f"unknown, beside {keys:,}", store, **MISS)):
                with bench.running(store, ()) as (_, port):
                    p50, p99 = bench.latency(case, port)
                instructions = bench.count(case)
                checks.append(f"| {case.name} | {p50:.1f} µs | {p99:.1f} µs | {instructions:,.0f} |")
                progress(checks[-1])
    section = RESULTS.format(
        date=datetime.date.today().isoformat(),
        commit=tool_version("git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"),
        cores=os.cpu_count(),
        model=cpu_model(),
        kernel=platform.release(),
        before=f"{before:.1f}",
        after=f"{os.getloadavg()[0]:.1f}",
        loading="\n".join(loading),
        checks="\n".join(checks),
        small=FEW,
        **{name: getattr(arguments, name) for name in ("keys", "rounds", "requests", "few", "many")},
    )
    print(section)
    arguments.output.write_text(with_section(arguments.output.read_text(), section))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"error: {failed}")
