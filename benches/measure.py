"""Runs each server in turn under the load client; prints one table and writes RESULTS.md.

Started by run.sh, which builds what is compared.  Servers are pinned to core 0, the client to core 1.

CPU per Check is what /proc/PID/stat says of the server process, user and system together, over the
number of requests.  Instructions per Check are callgrind's counts of two runs of the client, their
difference over the difference of the numbers of requests: what connecting takes falls out, and
starting is not counted at all.
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
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import capture

HERE = pathlib.Path(__file__).resolve().parent
SERVER_CORE, CLIENT_CORE = "0", "1"
# Seconds that a server may take to start, and a client to end; under callgrind both are many times slower.
PATIENCE = 600
# Seconds that a server may take to end.
STOPPING = 30
# In front of a command: it ends with us, even where we are killed.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
UNAUTHENTICATED = 16


@dataclasses.dataclass(frozen=True)
class Server:
    """A process: ours with this many tokens and this decision log, or the allow-all one."""

    tokens: int | None
    log_decisions: str = "denied"


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    server: Server
    request: str = "check_request.bin"
    expect: int = 0
    # The row that is 1 in this row's ratio.
    base: str = "allow-all"


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round found of a case."""

    # Microseconds of CPU per Check, and how many of them in the kernel.
    micros: float
    kernel: float
    # The server's share of its core.
    busy: float


ALLOW_ALL = Server(tokens=None)
OURS = Server(tokens=1000)
MISS = {"request": "check_request_miss.bin", "expect": UNAUTHENTICATED}
RAW = {"request": "check_request_raw.bin", "base": "allow-all, raw headers"}

CASES = [
    Case("allow-all", ALLOW_ALL),
    Case("allow-all, raw headers", ALLOW_ALL, **RAW),
    Case("allowed", OURS),
    Case("allowed, raw headers", OURS, **RAW),
    Case("denied, logged", OURS, **MISS),
    Case("denied, not logged", Server(tokens=1000, log_decisions="none"), **MISS),
    Case("allowed, 10 tokens", Server(tokens=10)),
    Case("allowed, 100,000 tokens", Server(tokens=100_000)),
    Case("denied, not logged, 100,000 tokens", Server(tokens=100_000, log_decisions="none"), **MISS),
]


def configuration(tokens, port):
    """A configuration as people have: routes, named policies, actors with a few members."""
    digest = lambda token: hashlib.sha256(token.encode()).hexdigest()
    others = [
        {"sha256": digest(f"another token {n}"), "actor": {"id": f"bot-{n}", "role": "Viewer"}}
        for n in range(1, tokens)
    ]
    actor = {"id": "bench", "name": "Benchmark", "role": "Editor", "groups": ["finance", "audit"]}
    known = {"name": "bench", "sha256": digest(capture.KNOWN), "actor": actor}
    # In the middle: neither the first nor the last that a scan would come to.
    others.insert(len(others) // 2, known)
    return {
        "ext_authz": {"listen": f"127.0.0.1:{port}"},
        "probes": {"listen": "127.0.0.1:0"},
        "tokens": others,
        "policies": {"read": {"allow": {"role": ["Viewer", "Editor", "Admin"]}}},
        "routes": [
            {"path_prefix": "/public", "allow": True},
            {"path_prefix": "/admin", "allow": {"role": ["Admin"]}},
            {"path_prefix": "/fixtures", "methods": ["GET"], "policy": "read"},
        ],
        "default": {},
    }


class Failed(Exception):
    """The comparison cannot be made; the text says why."""


class Bench:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = pathlib.Path(folder)

    @contextlib.contextmanager
    def running(self, server, prefix=()):
        """A server on core 0, perhaps under a tool; gives the process and its port."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["taskset", "-c", SERVER_CORE, *prefix, *self.command(server, port)]
        with self.process(command) as process:
            self.wait(process, port, command)
            yield process, port

    @contextlib.contextmanager
    def process(self, command):
        """A process for as long as this is entered."""
        process = subprocess.Popen(
            [*DIES_WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOPPING)
            except BaseException:
                process.kill()
                process.wait()
                raise

    def command(self, server, port):
        if server.tokens is None:
            return [self.arguments.allow_all, f"127.0.0.1:{port}"]
        config = self.folder / f"{port}.json"
        config.write_text(json.dumps(configuration(server.tokens, port), indent=1))
        serve = [self.arguments.ours, "serve", "--config", str(config), "--drain", "0s", "--workers", "1"]
        return [*serve, "--log-format", "json", "--log-decisions", server.log_decisions]

    def wait(self, process, port, command):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Failed(f"a server did not start: {' '.join(command)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            time.sleep(0.02)
        raise Failed(f"a server took longer than {PATIENCE} s to start: {' '.join(command)}")

    def load(self, case, port, requests):
        """Sends requests from core 1; gives requests per second."""
        command = ["taskset", "-c", CLIENT_CORE, self.arguments.load, f"127.0.0.1:{port}"]
        command += [str(HERE / case.request), "-n", str(requests), "--expect", str(case.expect)]
        command += ["-c", str(self.arguments.connections), "-m", str(self.arguments.in_flight)]
        command += ["--seconds", str(PATIENCE)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE + 30)
        if run.returncode != 0:
            raise Failed(f"the load client failed at {case.name!r}: {run.stderr.strip()}")
        return float(run.stdout.split()[0])

    def rounds(self):
        """Per case what each round found."""
        found = {case.name: [] for case in CASES}
        requests = self.arguments.requests
        with contextlib.ExitStack() as stack:
            servers = {case.server: None for case in CASES}
            for server in servers:
                servers[server] = stack.enter_context(self.running(server))
            for case in CASES:
                self.load(case, servers[case.server][1], max(requests // 5, 1))
            for number in range(1, self.arguments.rounds + 1):
                for case in CASES:
                    process, port = servers[case.server]
                    user, system = cpu_seconds(process.pid)
                    per_second = self.load(case, port, requests)
                    user_after, system_after = cpu_seconds(process.pid)
                    user, system = user_after - user, system_after - system
                    micros = (user + system) / requests * 1e6
                    busy = (user + system) * per_second / requests
                    found[case.name].append(Round(micros, system / requests * 1e6, busy))
                    progress(f"round {number}: {case.name}: {micros:.2f} µs, {per_second:.0f}/s")
        return found

    def instructions(self):
        """Per case the instructions per Check."""
        return {case.name: self.count(case) for case in CASES}

    def count(self, case):
        few, many = self.arguments.few, self.arguments.many
        out = self.folder / "callgrind.out"
        prefix = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        prefix += [f"--callgrind-out-file={out}", f"--log-file={self.folder / 'callgrind.log'}"]
        with self.running(case.server, prefix) as (process, port):
            wait_until_idle(process.pid)
            control_callgrind(process.pid, "--instr=on")
            counts = []
            for number, requests in enumerate((few, many), start=1):
                self.load(case, port, requests)
                # Writes what was counted since the last time, and begins again at 0.
                control_callgrind(process.pid, "--dump")
                counts.append(total(out.with_name(f"{out.name}.{number}")))
        per_check = (counts[1] - counts[0]) / (many - few)
        progress(f"callgrind: {case.name}: {per_check:.0f} instructions")
        return per_check


def wait_until_idle(pid):
    """Waits for what a server does once after its start, such as looking through a million keys for old ones."""
    deadline = time.monotonic() + PATIENCE
    while True:
        before = sum(cpu_seconds(pid))
        time.sleep(2)
        if sum(cpu_seconds(pid)) - before < 0.2:
            return
        if time.monotonic() > deadline:
            raise Failed("the server does not come to rest")


def control_callgrind(pid, *options):
    run = subprocess.run(["callgrind_control", *options, str(pid)], capture_output=True, text=True)
    if run.returncode != 0 or "OK" not in run.stdout:
        raise Failed(f"callgrind cannot be controlled: {run.stdout.strip()} {run.stderr.strip()}")


def total(dump):
    """The instructions of one callgrind dump."""
    counted = re.search(r"^totals: (\d+)", dump.read_text(errors="replace"), re.MULTILINE)
    if not counted:
        raise Failed("callgrind counted nothing")
    return int(counted[1])


def cpu_seconds(pid):
    """User and system time of a process and its threads (proc(5), fields 14 and 15)."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    ticks = os.sysconf("SC_CLK_TCK")
    return int(user) / ticks, int(system) / ticks


def progress(text):
    print(text, file=sys.stderr, flush=True)


def table(found, counts):
    heads = ["", "µs CPU per Check", "lowest to highest", "of it kernel", "ratio"]
    rows = [[*heads, "instructions per Check", "ratio", "core busy"]]
    median = lambda name, member: statistics.median(getattr(one, member) for one in found[name])
    for case in CASES:
        name = case.name
        micros = [one.micros for one in found[name]]
        rows.append(
            [
                name,
                f"{median(name, 'micros'):.2f}",
                f"{min(micros):.2f} to {max(micros):.2f}",
                f"{median(name, 'kernel'):.2f}",
                f"{median(name, 'micros') / median(case.base, 'micros'):.2f}",
                f"{counts[name]:,.0f}",
                f"{counts[name] / counts[case.base]:.2f}",
                f"{median(name, 'busy'):.0%}",
            ]
        )
    first, *others = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        " | ".join([row[0].ljust(first), *[cell.rjust(width) for cell, width in zip(row[1:], others)]])
        for row in rows
    ]
    lines.insert(1, " | ".join(["-" * first, *["-" * (width - 1) + ":" for width in others]]))
    return "\n".join(f"| {line} |" for line in lines)


def with_section(text, section):
    """The results with this section in place of an older one of the same heading, or at their end."""
    heading = section.partition("\n")[0]
    before, found, after = text.partition(f"\n{heading}\n")
    _, other, rest = after.partition("\n## ")
    return before.rstrip("\n") + "\n\n" + section.rstrip("\n") + "\n" + other + rest


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def tool_version(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]


RESULTS = """\
# What a Check costs

Written by `make bench`, which also makes it anew; `benches/README.md` says what is compared and how.
Figures in microseconds differ from machine to machine and hour to hour: the ratios are what counts.

- Date: {date}
- Machine: {cores} cores, {model}, Linux {kernel}; load average {before} before the rounds, {after} after
- Tools: {rustc}; {valgrind}
- {rounds} rounds of {requests:,} requests a row, the rows in turn, {connections} connections with
  {in_flight} requests in flight each; server on core {server_core}, client on core {client_core}
- Instructions: callgrind at {few:,} and {many:,} requests

{table}

A ratio is that to the allow-all server given the same encoding of headers.  "Denied" is an unknown
token; "logged" writes each denial as a line of JSON to /dev/null.  Without a number of tokens it is 1,000.
The kernel's part is system calls, mostly writing and reading; callgrind does not count it.
"Core busy" is the server's share of its core: far below 100 % the client was the bottleneck, and a
server that waits wakes up more often per Check.
callgrind runs no SHA extensions: it counts a SHA-256 in plain instructions that a CPU which has them
does not execute.
"""


def main():
    parser = argparse.ArgumentParser(description="Measures what a Check costs, beside a server that does nothing.")
    for name in ("--ours", "--allow-all", "--load"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--requests", type=int, default=100_000, help="requests per row and round (default 100000)")
    parser.add_argument("-c", dest="connections", type=int, default=8, help="connections (default 8)")
    parser.add_argument("-m", dest="in_flight", type=int, default=32, help="requests in flight on each (default 32)")
    parser.add_argument("--few", type=int, default=2_000, help="fewer requests under callgrind (default 2000)")
    parser.add_argument("--many", type=int, default=12_000, help="more of them (default 12000)")
    parser.add_argument("--output", default=HERE / "RESULTS.md", type=pathlib.Path, help="where to write the results")
    arguments = parser.parse_args()
    # Ends as Ctrl-C does, so that no server outlives this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, folder)
        before = os.getloadavg()[0]
        found = bench.rounds()
        after = os.getloadavg()[0]
        shown = table(found, bench.instructions())
    print(shown)
    results = RESULTS.format(
        date=datetime.date.today().isoformat(),
        cores=os.cpu_count(),
        model=cpu_model(),
        kernel=platform.release(),
        before=f"{before:.1f}",
        after=f"{after:.1f}",
        rustc=tool_version("rustc", "--version"),
        valgrind=tool_version("valgrind", "--version"),
        server_core=SERVER_CORE,
        client_core=CLIENT_CORE,
        table=shown,
        **{name: getattr(arguments, name) for name in ("rounds", "requests", "connections", "in_flight", "few", "many")},
    )
    # What `make bench-keys` and `make bench-store` wrote stays.
    text = arguments.output.read_text() if arguments.output.exists() else ""
    _, heading, others = text.partition("\n## ")
    arguments.output.write_text(results + heading + others)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"error: {failed}")
