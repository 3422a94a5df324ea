"""Measures what a key store that fails, or that says much at once, costs: Checks, traffic, CPU time and memory.

Started by run.sh, which builds what is measured.  PostgreSQL and Envoy are real, the server is our own binary.

- Checks: a load client sends Checks of a configured token straight to the server, and another one GETs to an Envoy
  that asks the server, both at a fixed rate, whether or not earlier ones were answered.  Meanwhile something happens to
  the store.  A window begins with that, and ends a moment after the server knows again what the store has.
- Reconnecting: bytes between server and PostgreSQL, counted by a relay between them, and CPU time of the server.
- Memory: what /proc/PID/status says.
- Replicas: as many servers at once, through the relay.

Whether a server knows what the store has, its gauge of held keys says: each event adds one key.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import capture
import keys
import measure
from keys import FEW, free_port, memory
from measure import (
    CLIENT_CORE,
    DIES_WITH_US,
    HERE,
    PATIENCE,
    SERVER_CORE,
    Failed,
    cpu_model,
    cpu_seconds,
    progress,
    tool_version,
    with_section,
)

# The server's cores with one worker and with two.  All else has cores of its own where there are enough of them.
SERVER_CORES = {1: SERVER_CORE, 2: f"{SERVER_CORE},{CLIENT_CORE}"}
OTHER_CORES = [str(core) for core in sorted(os.sched_getaffinity(0)) if core > int(CLIENT_CORE)] or [CLIENT_CORE]
CORES = {name: OTHER_CORES[number % len(OTHER_CORES)] for number, name in enumerate(("clients", "PostgreSQL", "Envoy"))}

PARTS = ("checks", "reconnect", "memory", "replicas")
WAYS = ("straight", "Envoy")
# The token that may list keys; it is no secret.
ADMIN = "eat_bench0AdminToken0000000000000000000000"
# Seconds that a window lasts at least, and that it goes on after the server is current again.
WINDOW, AFTER = 10, 3
# Seconds between two looks at a server's metrics.
POLL = 0.1
# Nothing more happens once so few bytes a server came from the store within so many seconds.
SETTLED_BYTES, SETTLED = 10_000, 2
# A copy of the filled database, which no server reads: what PostgreSQL and the machine alone do to a Check.
CONTROL = "control"
# Bytes that a replica may take for a key, at most, while it reads everything; and without any key.
MEMORY_A_KEY, MEMORY = 1200, 64 * 1024 * 1024


class Database:
    """A filled database, and how many keys it has by now."""

    def __init__(self, postgres, store):
        self.postgres = postgres
        self.store = store
        self.keys = store.keys
        self.name = store.url.rpartition("/")[2].partition("?")[0]

    def sql(self, *commands):
        return self.postgres.psql(self.name, *commands).stdout

    def another_key(self):
        """The statement that adds a key."""
        self.keys += 1
        return (
            "INSERT INTO api_keys (name, role, digest, created_at, created_by) "
            f"VALUES ('marker {self.keys}', 'Viewer', sha256('marker {self.keys}'), now(), 'admin')"
        )

    def stored(self, port=None):
        """The store with the keys that it has now, perhaps by way of another port."""
        url = self.store.url if port is None else self.store.url.replace(f":{self.postgres.port}/", f":{port}/")
        return dataclasses.replace(self.store, keys=self.keys, url=url)

    def end_connections(self):
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


def connections_ended(_, database):
    database.end_connections()
    database.sql(database.another_key())


def read_anew(_, database):
    """Nothing tells any more what changed: only reading everything does."""
    # At once and not with the COMMIT: the revision of this key is forgotten, too.
    add = f"SET CONSTRAINTS ALL IMMEDIATE; {database.another_key()}"
    forget = "DELETE FROM api_changes; UPDATE api_revision SET pruned = value, pruned_mark = mark"
    database.sql(f"BEGIN; {add}; {forget}; COMMIT")
    database.end_connections()


def update(database):
    """The statement that updates a fifth of the keys."""
    role = "CASE role WHEN 'Viewer' THEN 'Editor' ELSE 'Viewer' END"
    return f"UPDATE api_keys SET role = {role} WHERE id <= {database.store.keys // 5}"


def updated(_, database):
    database.sql(f"BEGIN; {update(database)}; {database.another_key()}; COMMIT")


def read_elsewhere(_, database):
    """What PostgreSQL does for a whole reading, in a database that no server of ours knows."""
    database.postgres.psql(CONTROL, r"\copy api_keys TO /dev/null")


def updated_elsewhere(_, database):
    """What PostgreSQL does for such an update, in a database that no server of ours knows."""
    database.postgres.psql(CONTROL, update(database))


def listed(server, database):
    found, _ = server.list_keys()
    if found != database.keys:
        raise Failed(f"{found} of {database.keys} keys were listed")


class Server(keys.Keys):
    """Our server over PostgreSQL, with a configured token and the admin listener."""

    def __init__(self, arguments, folder, workers=None):
        super().__init__(arguments, folder)
        self.workers = workers
        self.server_process = None

    def command(self, store, port):
        command = super().command(store, port)
        path = pathlib.Path(command[command.index("--config") + 1])
        self.admin = free_port()
        tokens = measure.configuration(1, port)["tokens"]
        tokens.append({"token": ADMIN, "actor": {"id": "admin of the bench", "role": "Admin"}})
        config = json.loads(path.read_text()) | {"tokens": tokens, "admin": {"listen": f"127.0.0.1:{self.admin}"}}
        path.write_text(json.dumps(config, indent=1))
        return command if self.workers is None else [*command, "--workers", str(self.workers)]

    @contextlib.contextmanager
    def started(self, store):
        """The server on all cores, not waited for."""
        self.probes = free_port()
        with self.process(self.command(store, free_port())) as process:
            self.server_process = process
            yield process

    def is_current(self, database):
        if self.server_process is not None and self.server_process.poll() is not None:
            raise Failed(f"a server ended by itself, with {self.server_process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return int(self.metrics()["envoy_auth_tokens_keys_held"]) == database.keys
        return False

    def list_keys(self):
        """Lists all keys, at no one's cost but the server's; gives how many they are, and in how many bytes."""

        def read():
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)
            connection.request("GET", "/api/auth/keys", headers={"authorization": f"Bearer {ADMIN}"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Failed(f"listing keys was answered with {answer.status}")
            found, length, end = 0, 0, b""
            while piece := answer.read(1 << 20):
                length += len(piece)
                piece = end + piece
                found += piece.count(b'"id":')
                end = piece[-4:]
            return found, length

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(read).result()


def until_current(servers, database):
    """Waits until every server has as many keys as the database."""
    deadline = time.monotonic() + PATIENCE
    behind = list(servers)
    while behind := [server for server in behind if not server.is_current(database)]:
        if time.monotonic() > deadline:
            raise Failed(f"{len(behind)} servers are not current after {PATIENCE} s")
        time.sleep(POLL)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one load client found, in microseconds where it is a time."""

    requests: int
    failed: int
    p50: float
    p99: float
    longest: float
    # How late the client itself was at most.
    late: float


class Client:
    """A load client that sends at a fixed rate while it is told to."""

    def __init__(self, arguments, address, request):
        command = [*DIES_WITH_US, *arguments.realtime, "taskset", "-c", CORES["clients"], arguments.load]
        command += [f"127.0.0.1:{address}", *request, "-c", "4", "--rate", str(arguments.rate)]
        command += ["-n", "10000000", "--seconds", str(PATIENCE)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __enter__(self):
        if self.process.stdout.readline() != "ready\n":
            raise Failed(f"the load client failed: {self.process.stderr.read().strip()}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def begin(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self):
        self.process.stdin.close()
        # communicate() would close it again.
        self.process.stdin = None

    def answers(self):
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        number = r"([\d.]+|NaN)"
        pattern = rf"(\d+) requests, (\d+) failed, p50 {number} µs, p99 {number} µs, longest {number} µs, sent {number} µs"
        found = re.match(pattern, stdout)
        if not found:
            raise Failed(f"the load client failed: {stderr.strip()}")
        if stderr:
            progress(stderr.strip())
        requests, failed, *times = found.groups()
        return Answers(int(requests), int(failed), *map(float, times))


@dataclasses.dataclass(frozen=True)
class Window:
    """What was found while something happened to the store."""

    # Seconds until the server knew again what the store has; none where nothing happened.
    current: float | None
    # Per way of asking.
    answers: dict[str, Answers]
    # The share of all cores that processes had which are not ours, and the host of a virtual machine.
    others: float


@contextlib.contextmanager
def pinned(postgres):
    """PostgreSQL has its core, and we and all that is started meanwhile that of the clients."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(CORES["clients"])})
    postgres.stop()
    postgres.prefix = ["taskset", "-c", CORES["PostgreSQL"]]
    postgres.start()
    yield
    os.sched_setaffinity(0, ours)
    postgres.stop()
    postgres.prefix = []
    postgres.start()


def checks(arguments, folder, database):
    """Per number of workers and event what the clients found."""
    events = {
        "quiet": None,
        "connections ended": connections_ended,
        "connections ended, all read anew": read_anew,
        f"{database.store.keys // 5:,} keys updated": updated,
        "all keys listed": listed,
        "all keys read elsewhere": read_elsewhere,
        f"{database.store.keys // 5:,} keys updated elsewhere": updated_elsewhere,
        "quiet, again": None,
    }
    database.postgres.psql("postgres", f"CREATE DATABASE {CONTROL} TEMPLATE {database.name}")
    found = {}
    for workers in arguments.workers:
        server = Server(arguments, folder, workers)
        with server.running(database.stored(), ("taskset", "-c", SERVER_CORES[workers])) as (_, port), capture.envoy(
            port, raw=False, prefix=[*DIES_WITH_US, "taskset", "-c", CORES["Envoy"]]
        ) as envoy:
            ways = dict(zip(WAYS, [(port, [str(HERE / "check_request.bin")]), (envoy, ["--token", capture.KNOWN])]))
            for name, event in events.items():
                database.sql("VACUUM ANALYZE api_keys", "CHECKPOINT")
                time.sleep(SETTLED)
                window = one_window(arguments, server, database, ways, event)
                found[workers, name] = window
                progress(f"{workers} workers, {name}: {window}")
    return found


def cpu_of_others():
    """Seconds of CPU time that went to others than us and our descendants."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, used = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            # proc(5): the parent, and the times with those of children that ended.
            parents[int(path.parent.name)], used[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    us = os.getpid()

    def is_ours(process):
        while process != us and process in parents:
            process = parents[process]
        return process == us

    ours = sum(ticks_used for process, ticks_used in used.items() if is_ours(process))
    # Not what /proc/stat calls busy: that is sampled, and misses what runs between two samples.
    idle, waiting = map(int, pathlib.Path("/proc/stat").read_text().split()[4:6])
    return time.monotonic() * os.cpu_count() - (idle + waiting + ours) / ticks


def one_window(arguments, server, database, ways, event):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(arguments, *way)) for way in ways.values()]
        for client in clients:
            client.begin()
        others, begun = cpu_of_others(), time.monotonic()
        current = None
        if event:
            event(server, database)
            until_current([server], database)
            current = time.monotonic() - begun
        # The metrics are read while nothing happens, too: they cost the same in every window.
        while time.monotonic() - begun < max(WINDOW, (current or 0) + AFTER):
            server.metrics()
            time.sleep(POLL)
        for client in clients:
            client.end()
        answers = [client.answers() for client in clients]
        others = max(cpu_of_others() - others, 0) / (time.monotonic() - begun) / os.cpu_count()
        return Window(current, dict(zip(ways, answers)), others)


class Relay:
    """Stands between servers and PostgreSQL, and counts connections and what passes."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.lock = threading.Lock()
        self.received = self.sent = self.open = self.peak = 0

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # Wakes whoever accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.carry, args=(self.listener.accept()[0],), daemon=True).start()

    def carry(self, client):
        # Whoever comes while PostgreSQL is away finds a closed connection.
        with client, contextlib.suppress(OSError), socket.create_connection(self.target) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.open += 1
                self.peak = max(self.peak, self.open)
            back = threading.Thread(target=self.move, args=(server, client, "received"), daemon=True)
            back.start()
            self.move(client, server, "sent")
            back.join()
            with self.lock:
                self.open -= 1

    def move(self, source, sink, counter):
        """Passes on until the end of what comes, without bringing it here."""
        out, into = os.pipe()
        try:
            with contextlib.suppress(OSError):
                while moved := os.splice(source.fileno(), into, 1 << 20):
                    with self.lock:
                        setattr(self, counter, getattr(self, counter) + moved)
                    while moved:
                        moved -= os.splice(out, sink.fileno(), moved)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        finally:
            os.close(out)
            os.close(into)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What servers took from the store and the machine."""

    seconds: float
    received: int
    sent: int
    cpu: float
    # Connections at most.
    peak: int
    # Seconds until all were current, where that was waited for.
    current: float | None = None


@contextlib.contextmanager
def cost(relay, processes, found):
    """Appends to `found` what was taken meanwhile, until nothing more happens."""
    cpu = lambda: sum(sum(cpu_seconds(process.pid)) for process in processes)
    with relay.lock:
        relay.peak = relay.open
    begun, received, sent, used = time.monotonic(), relay.received, relay.sent, cpu()
    marks = {}
    yield marks
    deadline = time.monotonic() + PATIENCE
    while True:
        before = relay.received
        time.sleep(SETTLED)
        if relay.received - before < SETTLED_BYTES * len(processes):
            break
        if time.monotonic() > deadline:
            raise Failed("the servers go on reading for ever")
    found.append(
        Cost(
            time.monotonic() - begun,
            relay.received - received,
            relay.sent - sent,
            cpu() - used,
            relay.peak,
            marks.get("current"),
        )
    )


def reconnecting(arguments, folder, database):
    """What a server takes while nothing happens, when its connections end, and when it must read everything."""
    found = []
    server = Server(arguments, folder)
    with Relay(database.postgres.port) as relay, server.running(
        database.stored(relay.port), ("taskset", "-c", SERVER_CORES[2])
    ) as (process, _):
        time.sleep(AFTER)
        for event in (lambda: None, database.end_connections, lambda: read_anew(server, database)):
            with cost(relay, [process], found):
                event()
                time.sleep(WINDOW)
            until_current([server], database)
            # It follows again, whatever it did.
            database.sql(database.another_key())
            until_current([server], database)
            time.sleep(SETTLED)
            progress(f"reconnecting: {found[-1]}")
    return found


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes."""

    few: keys.Loaded
    many: keys.Loaded
    before_list: int
    peak_of_list: int
    after_list: int
    length_of_list: int


def memories(arguments, folder, few, database):
    server = Server(arguments, folder)
    loaded = [server.loaded(store) for store in (few, database.stored())]
    with server.started(database.stored()) as process:
        server.wait_for_keys(process, database.stored())
        time.sleep(AFTER)
        before, _ = memory(process)
        # The peak begins anew (proc(5), clear_refs).
        pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        found, length = server.list_keys()
        if found != database.keys:
            raise Failed(f"{found} of {database.keys} keys were listed")
        _, peak = memory(process)
        time.sleep(AFTER)
        after, _ = memory(process)
    result = Memory(*loaded, before, peak, after, length)
    progress(f"memory: {result}")
    return result


def replicas(arguments, folder, database):
    """What as many servers take that start at once, and that lose the store at once."""
    needed = arguments.replicas * (database.keys * MEMORY_A_KEY + MEMORY)
    available = int(re.search(r"^MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)[1]) * 1024
    if needed > available:
        raise Failed(
            f"{arguments.replicas} replicas of {database.keys:,} keys may need {needed >> 20} MiB, and {available >> 20} MiB "
            "are free: choose fewer --replicas or --keys"
        )

    found = {}
    processes = []
    servers = [Server(arguments, folder) for _ in range(arguments.replicas)]

    def measured(name, event):
        costs = []
        with cost(relay, processes, costs) as marks:
            begun = time.monotonic()
            # An event may say that it is over later: the time that PostgreSQL is away is not ours.
            begun = event() or begun
            until_current(servers, database)
            marks["current"] = time.monotonic() - begun
        found[name] = costs[0]
        progress(f"{arguments.replicas} replicas, {name}: {costs[0]}")

    with Relay(database.postgres.port) as relay, contextlib.ExitStack() as stack:

        def start():
            store = database.stored(relay.port)
            processes.extend(stack.enter_context(server.started(store)) for server in servers)

        def restart():
            database.postgres.stop()
            database.postgres.start()
            back = time.monotonic()
            database.sql(database.another_key())
            return back

        measured("started", start)
        measured("connections ended", lambda: connections_ended(None, database))
        measured("PostgreSQL restarted", restart)
        measured("connections ended, all read anew", lambda: read_anew(None, database))
    return found


def table(head, rows):
    """A Markdown table; the first column is text."""
    columns = list(zip(head, *rows))
    widths = [max(map(len, column)) for column in columns]
    line = lambda cells: "| " + " | ".join(f(cell, width) for f, cell, width in zip(adjust, cells, widths)) + " |"
    adjust = [str.ljust if column[0] in TEXTS else str.rjust for column in columns]
    rule = ["-" * width if one is str.ljust else "-" * (width - 1) + ":" for one, width in zip(adjust, widths)]
    return "\n".join(line(cells) for cells in [head, rule, *rows])


# Columns whose cells are words.
TEXTS = {"", "asked", "meanwhile"}

CHECKS_TEXT = """\
Checks of a configured token, {rate} a second straight to the server and as many GETs by way of an Envoy 1.40, which waits
200 ms for an answer, as it does by default, and denies then: that counts as failed.  A request's time begins when the
client sends it, whether or not earlier ones were answered.  "Current after" is when the server knew of a change that came
with or after the event; a row's requests are those since its event, for {window} s at least and until {after} s after that.
"Elsewhere" is the same work of PostgreSQL in a database that our server does not read: such a row tells what the machine
does to a Check, and not what the server does.
The server runs on core {one} with one worker and on cores {two} with two; {cores}.  Where they share cores, two workers
wait for PostgreSQL and Envoy now and then, which they would not in production.  The clients run {priority} and were
{late:.0f} ms late at most.  "Others" is the share of all cores that went to processes which are no part of this, and to other
virtual machines: where it is more than a few per cent, a row tells of those.
"""

RECONNECT_TEXT = """\
One server on cores {two} and no Check, {keys:,} keys; more than while nothing happens, which is {idle_bytes:,.0f} B and
{idle_cpu:.1f} ms of CPU time a second.  Bytes are the payload between the server and PostgreSQL.
"""

MEMORY_TEXT = """\
"A key" is what the process has more than one that holds {few} keys, over the number of keys.  The list of {keys:,} keys has
{length:,.0f} MB.
"""

REPLICAS_TEXT = """\
{replicas} servers of {keys:,} keys on all cores, which PostgreSQL and the relay that counts share.  The time is that of the
last of them; it begins with the event, and for a restart when PostgreSQL answers again.
"""


def with_text(table, text, **values):
    """A table, and the text below it in lines of the usual length."""
    return f"{table}\n\n{textwrap.fill(text.format(**values), 120)}\n"


def shown_checks(arguments, found):
    micros = lambda value: f"{value / 1000:,.2f} ms"

    def row(workers, way, name):
        window = found[workers, name]
        answers, quiet = window.answers[way], found[workers, "quiet"].answers[way]
        current = "" if window.current is None else f"{window.current:.1f} s"
        counts = [f"{answers.requests:,}", f"{answers.failed:,}"]
        times = [micros(answers.p50), micros(answers.p99), f"{answers.p99 / quiet.p99:.2f}", micros(answers.longest)]
        return [str(workers), way, name, current, *counts, *times, f"{window.others:.0%}"]

    head = ["workers", "asked", "meanwhile", "current after", "requests", "failed", "p50", "p99", "over quiet", "longest"]
    return with_text(
        table([*head, "others"], [row(workers, way, name) for way in WAYS for workers, name in found]),
        CHECKS_TEXT,
        rate=arguments.rate,
        late=max(answers.late for window in found.values() for answers in window.answers.values()) / 1000,
        window=WINDOW,
        after=AFTER,
        one=SERVER_CORES[1],
        two=SERVER_CORES[2].replace(",", " and "),
        cores=", ".join(f"{name} on {core}" for name, core in CORES.items()),
        priority="at a realtime priority" if arguments.realtime else "at the priority of the others",
    )


def shown_reconnecting(found, database):
    idle, *others = found
    bytes_a_second, cpu_a_second = (idle.received + idle.sent) / idle.seconds, idle.cpu / idle.seconds
    rows = [
        [
            name,
            f"{one.received - idle.received / idle.seconds * one.seconds:,.0f} B",
            f"{one.sent - idle.sent / idle.seconds * one.seconds:,.0f} B",
            f"{one.cpu - cpu_a_second * one.seconds:.2f} s",
            str(one.peak),
        ]
        for name, one in zip(("connections ended, nothing changed", "connections ended, all read anew"), others)
    ]
    return with_text(
        table(["", "received", "sent", "CPU time", "connections at most"], rows),
        RECONNECT_TEXT,
        two=SERVER_CORES[2].replace(",", " and "),
        keys=database.store.keys,
        idle_bytes=bytes_a_second,
        idle_cpu=cpu_a_second * 1000,
    )


def shown_memory(found, database):
    mebibytes = lambda value: f"{value / (1 << 20):,.0f} MiB"
    a_key = lambda value: f"{value / database.store.keys:,.0f} B"
    few, many = found.few, found.many
    rows = [
        [f"holding {FEW} keys", mebibytes(few.resident), ""],
        [f"holding {database.store.keys:,} keys", mebibytes(many.resident), a_key(many.resident - few.resident)],
        ["at most while reading them", mebibytes(many.peak), a_key(many.peak - few.resident)],
        ["at most while listing them", mebibytes(found.peak_of_list), a_key(found.peak_of_list - few.resident)],
        [f"{AFTER} s after listing them", mebibytes(found.after_list), a_key(found.after_list - few.resident)],
    ]
    return with_text(
        table(["", "resident", "a key"], rows),
        MEMORY_TEXT,
        few=FEW,
        keys=database.store.keys,
        length=found.length_of_list / 1e6,
    )


def shown_replicas(arguments, found, database):
    rows = [
        [
            name,
            f"{one.current:.1f} s",
            f"{one.received / 1e6:,.2f} MB",
            f"{one.sent / 1e6:,.2f} MB",
            f"{one.cpu:.1f} s",
            str(one.peak),
        ]
        for name, one in found.items()
    ]
    return with_text(
        table(["", "all current after", "received", "sent", "CPU time of all", "connections at most"], rows),
        REPLICAS_TEXT,
        replicas=arguments.replicas,
        keys=database.store.keys,
    )


RESULTS = """\
## The key store at its worst

Written by `make bench-store`, which also makes it anew.  PostgreSQL and Envoy are real.

- Date: {date}; commit: {commit}
- Machine: {cores} cores, {model}, Linux {kernel}; load average {before} before, {after} after
- {postgres}; {keys:,} stored keys
"""


def main():
    parser = argparse.ArgumentParser(description="Measures what a key store costs that fails, or says much at once.")
    for name in ("--ours", "--load"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=int, default=1_000_000, help="stored keys (default 1000000)")
    parser.add_argument("--replicas", type=int, default=10, help="servers at once (default 10)")
    parser.add_argument("--rate", type=int, default=500, help="requests a second and client (default 500)")
    parser.add_argument("--workers", type=int, action="append", choices=(1, 2), help="only with so many workers")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given again")
    parser.add_argument("--minutes", type=int, default=45, help="when to give up (default 45)")
    parser.add_argument(
        "--output", type=pathlib.Path, help="where to write the results (RESULTS.md for all of 1000000 keys; none for less)"
    )
    arguments = parser.parse_args()
    arguments.requests = 0
    parts = arguments.part or PARTS
    whole = arguments.keys >= 1_000_000 and set(parts) == set(PARTS) and not arguments.workers
    output = arguments.output or (HERE / "RESULTS.md" if whole else None)
    arguments.workers = arguments.workers or [1, 2]
    # The client shall never wait for a core that another process has, which would look like a server that waits.
    realtime = ["chrt", "--fifo", "1"]
    allowed = subprocess.run([*realtime, "true"], capture_output=True).returncode == 0
    arguments.realtime = realtime if allowed else []

    def give_up(*_):
        raise Failed(f"unfinished after {arguments.minutes} minutes")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(arguments.minutes * 60)
    before = os.getloadavg()[0]
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with keys.Postgres(folder) as postgres:
            few, many = [postgres.fill(Server(arguments, folder), count) for count in (FEW, arguments.keys)]
            database = Database(postgres, many)
            progress(f"{arguments.keys:,} keys are stored")
            if "memory" in parts:
                sections.append(shown_memory(memories(arguments, folder, few, database), database))
            if "checks" in parts:
                with pinned(postgres):
                    sections.insert(0, shown_checks(arguments, checks(arguments, folder, database)))
            if "reconnect" in parts:
                sections.append(shown_reconnecting(reconnecting(arguments, folder, database), database))
            if "replicas" in parts:
                sections.append(shown_replicas(arguments, replicas(arguments, folder, database), database))
            version = tool_version(postgres.programs / "postgres", "--version")
    head = RESULTS.format(
        date=datetime.date.today().isoformat(),
        commit=tool_version("git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"),
        cores=os.cpu_count(),
        model=cpu_model(),
        kernel=platform.release(),
        before=f"{before:.1f}",
        after=f"{os.getloadavg()[0]:.1f}",
        postgres=version,
        keys=arguments.keys,
    )
    section = "\n".join([head, *sections])
    print(section)
    if output:
        output.write_text(with_section(output.read_text() if output.exists() else "", section).lstrip("\n"))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"error: {failed}")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"error: {failed}: {failed.stderr}")
