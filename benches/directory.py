"""Measures what guesses at the passwords of a directory cost: Checks of tokens, log-ins, and the directory itself.

Started by run.sh, which builds what is measured.  The directory is a real OpenLDAP, the server our own binary.

- Checks: a load client sends Checks of a configured token at a fixed rate, whether or not earlier ones were answered.
- Log-ins: once a second a person of the directory logs in at the admin listener whose password is not remembered.
- Guesses: another load client sends Checks with passwords that are wrong, at a fixed rate: at names of nobody, at one
  person, and at all of them in turn.
- The directory: searches and binds of people, by its own log.
"""

import argparse
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
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import capture
import measure
from keys import free_port
from measure import (
    DIES_WITH_US,
    HERE,
    PATIENCE,
    STOPPING,
    Failed,
    cpu_model,
    progress,
    tool_version,
    with_section,
)
from store import CORES, SERVER_CORES, Answers, Client, cpu_of_others, table, with_text

SUFFIX = "dc=example,dc=org"
# Those at whom is guessed, and those who log in.
GUESSED, ADMINS = 200, 400
READER = f"cn=reader,{SUFFIX}"
# It is no secret.
READER_PASSWORD = "password-of-the-reader"
# Who guesses: the name for each guess, and how many names there are; none while nobody does.
GUESSES = {
    "nothing": None,
    "guesses at names of nobody": ("stranger#", None),
    "guesses at one person": ("person0", None),
    f"guesses at {GUESSED} people": ("person#", GUESSED),
    "nothing, again": None,
}
# What may reach the directory from Checks, by spec: questions a second, and wrong passwords a minute.
QUESTIONS, WRONG = 20, 30
# Seconds before a window, in which what the one before has counted runs out.
PAUSE = 60


class Slapd:
    """An OpenLDAP of our own, on a loopback port, for as long as this is entered."""

    def __init__(self, folder):
        told = subprocess.run([sys.executable, capture.FETCH, "slapd"], check=True, capture_output=True, text=True)
        self.program = pathlib.Path(re.search(r"^slapd=(.*)$", told.stdout, re.MULTILINE)[1])
        self.folder = folder / "slapd"
        (self.folder / "db").mkdir(parents=True)
        self.port = free_port()
        self.log = self.folder / "log"

    def __enter__(self):
        home = self.program.parent
        schemas = "".join(f"include {home}/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
        config = self.folder / "slapd.conf"
        config.write_text(
            f"{schemas}modulepath {home}/modules\nmoduleload back_mdb\npidfile {self.folder}/pid\n"
            f"database mdb\nsuffix {SUFFIX}\ndirectory {self.folder}/db\ndbnosync\nindex objectClass,uid eq\n"
            "access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by * none\n"
        )
        entries = [
            f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n",
            f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\n"
            f"userPassword: {READER_PASSWORD}\n",
        ]
        for number in range(GUESSED + ADMINS):
            entries.append(
                f"dn: uid=person{number},{SUFFIX}\nobjectClass: inetOrgPerson\nuid: person{number}\ncn: Person {number}\n"
                f"sn: Person\nuserPassword: password-of-{number}\n"
            )
        ldif = self.folder / "people.ldif"
        ldif.write_text("\n".join(entries))
        load = [self.program, "-T", "add", "-q", "-f", config, "-l", ldif]
        subprocess.run(load, check=True, capture_output=True, text=True)
        command = [*DIES_WITH_US, "taskset", "-c", CORES["PostgreSQL"], self.program]
        command += ["-d", "stats", "-f", config, "-h", f"ldap://127.0.0.1:{self.port}"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(STOPPING)

    def asked(self):
        """How often it was asked so far: searches, and binds of people."""
        log = self.log.read_text(errors="replace")
        binds = re.findall(r" BIND dn=\"uid=[^\"]*\" method=128$", log, re.MULTILINE)
        return log.count(" SRCH base="), len(binds)


class Server(measure.Bench):
    """Our server with a configured token, the admin listener and a directory."""

    def command(self, slapd, port):
        self.admin = free_port()
        config = measure.configuration(1, port) | {
            "keys": {"store": f"sqlite:{self.folder / 'keys.db'}"},
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "ldap": {
                "url": f"ldap://127.0.0.1:{slapd.port}",
                "bind_dn": READER,
                "bind_password": READER_PASSWORD,
                "search_base": SUFFIX,
                "search_filter": "(uid=%s)",
                "roles": [{"group": "*", "role": "Viewer"}],
            },
        }
        path = self.folder / f"{port}.json"
        path.write_text(json.dumps(config, indent=1))
        serve = [self.arguments.ours, "serve", "--config", str(path), "--drain", "0s"]
        return [*serve, "--workers", str(self.arguments.workers), "--log-format", "json", "--log-decisions", "denied"]

    @contextlib.contextmanager
    def running(self, slapd):
        port = free_port()
        command = ["taskset", "-c", SERVER_CORES[2], *self.command(slapd, port)]
        with self.process(command) as process:
            self.wait(process, port, command)
            self.wait(process, self.admin, command)
            yield port

    def log_in(self, number):
        """Seconds that a log-in took of the person of this number."""
        body = json.dumps({"user": f"person{number}", "password": f"password-of-{number}"})
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)
        connection.request("POST", "/login", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise Failed(f"the log-in of person{number} was answered with {answer.status}")
        return time.monotonic() - begun


@dataclasses.dataclass(frozen=True)
class Window:
    """What was found while somebody guessed."""

    seconds: float
    checks: Answers
    guesses: Answers | None
    # Seconds, of each.
    log_ins: list[float]
    # Of the directory, from Checks alone.
    searches: int
    binds: int
    others: float


class Administrators(threading.Thread):
    """Log in once a second, each for the first time."""

    def __init__(self, server, people):
        super().__init__(daemon=True)
        self.server, self.people = server, people
        self.is_over = threading.Event()
        self.took, self.failed = [], None

    def run(self):
        while not self.is_over.wait(1):
            try:
                self.took.append(self.server.log_in(next(self.people)))
            except (Failed, OSError, http.client.HTTPException) as failed:
                self.failed = failed
                return


def one_window(arguments, server, port, slapd, people, guess):
    request = str(HERE / "check_request.bin")
    clients = [Client(arguments, port, [request])]
    if guess:
        name, names = guess
        options = [request, "--guess", name, *([] if names is None else ["--names", str(names)])]
        faster = argparse.Namespace(**vars(arguments) | {"rate": arguments.guesses, "realtime": []})
        clients.append(Client(faster, port, options))
    administrators = Administrators(server, people)
    with contextlib.ExitStack() as stack:
        # The clients ask once before they are told to go on.
        searches, binds = slapd.asked()
        for client in clients:
            stack.enter_context(client)
        others, begun = cpu_of_others(), time.monotonic()
        for client in clients:
            client.begin()
        administrators.start()
        time.sleep(arguments.seconds)
        administrators.is_over.set()
        for client in clients:
            client.end()
        answers = [client.answers() for client in clients]
        administrators.join(PATIENCE)
        seconds = time.monotonic() - begun
        others = max(cpu_of_others() - others, 0) / seconds / os.cpu_count()
    if administrators.failed:
        raise Failed(f"an administrator could not log in: {administrators.failed}")
    found_searches, found_binds = slapd.asked()
    log_ins = len(administrators.took)
    window = Window(
        seconds,
        answers[0],
        answers[1] if guess else None,
        administrators.took,
        found_searches - searches - log_ins,
        found_binds - binds - log_ins,
        others,
    )
    if window.searches > QUESTIONS * (seconds + 2) or window.binds > WRONG * (seconds // 60 + 1):
        raise Failed(f"the directory was asked more than it may be: {window}")
    return window


TEXT = """\
Checks of a configured token, {rate} a second, whether or not earlier ones were answered; guesses {guesses:,} a second, each
with another password.  "Failed" are Checks that were not allowed, or
guesses that were.  Log-ins are one a second, each of somebody who was not there before: a search, a bind, and a session that is
written.  Searches and binds are those that Checks brought to the directory, by its own log; at most {questions} a second and
{wrong} a minute may.  The server has {workers} workers on cores {two}, the directory core {slapd}, the clients core {clients}.
"Others" is the share of all cores that went to processes which are no part of this, and to other virtual machines.
"""


def shown(arguments, found):
    millis = lambda seconds: f"{seconds * 1000:,.1f} ms"
    micros = lambda value: f"{value / 1000:,.2f} ms"
    quiet = found["nothing"].checks

    def row(name, window):
        checks, guesses = window.checks, window.guesses
        return [
            name,
            f"{guesses.requests / window.seconds:,.0f}/s" if guesses else "",
            f"{checks.requests:,}",
            f"{checks.failed + (guesses.failed if guesses else 0):,}",
            micros(checks.p50),
            micros(checks.p99),
            f"{checks.p99 / quiet.p99:.2f}",
            micros(checks.longest),
            str(len(window.log_ins)),
            millis(statistics.median(window.log_ins)),
            millis(max(window.log_ins)),
            f"{window.searches / window.seconds:.1f}/s",
            f"{window.binds}",
            f"{window.others:.0%}",
        ]

    head = ["meanwhile", "guesses", "Checks", "failed", "p50", "p99", "over nothing", "longest"]
    head += ["log-ins", "half within", "longest", "searches", "binds", "others"]
    return with_text(
        table(head, [row(name, window) for name, window in found.items()]),
        TEXT,
        rate=arguments.rate,
        guesses=arguments.guesses,
        questions=QUESTIONS,
        wrong=WRONG,
        workers=arguments.workers,
        two=SERVER_CORES[2].replace(",", " and "),
        slapd=CORES["PostgreSQL"],
        clients=CORES["clients"],
    )


RESULTS = """\
## Guesses at a directory's passwords

Written by `make bench-directory`, which also makes it anew.  The directory is real.

- Date: {date}; commit: {commit}
- Machine: {cores} cores, {model}, Linux {kernel}; load average {before} before, {after} after
- {slapd}; {people} people; windows of {seconds} s

{table}"""


def main():
    parser = argparse.ArgumentParser(description="Measures what guesses at the passwords of a directory cost.")
    for name in ("--ours", "--load"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--guesses", type=int, default=5000, help="guesses a second (default 5000)")
    parser.add_argument("--rate", type=int, default=200, help="Checks of a token a second (default 200)")
    parser.add_argument("--seconds", type=int, default=30, help="how long each window is (default 30)")
    parser.add_argument("--pause", type=int, default=PAUSE, help=f"seconds before each (default {PAUSE})")
    parser.add_argument("--workers", type=int, default=2, help="the server's workers (default 2)")
    parser.add_argument(
        "--output", type=pathlib.Path, help="where to write the results (RESULTS.md by default; none for shorter ones)"
    )
    arguments = parser.parse_args()
    whole = arguments.guesses >= 5000 and arguments.seconds >= 30 and arguments.pause >= PAUSE
    output = arguments.output or (HERE / "RESULTS.md" if whole else None)
    # As in store.py: a client that waits for a core would look like a server that waits.
    realtime = ["chrt", "--fifo", "1"]
    allowed = subprocess.run([*realtime, "true"], capture_output=True).returncode == 0
    arguments.realtime = realtime if allowed else []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    before = os.getloadavg()[0]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(arguments, folder)
        with Slapd(folder) as slapd, server.running(slapd) as port:
            people = iter(range(GUESSED, GUESSED + ADMINS))
            server.log_in(next(people))
            for number, (name, guess) in enumerate(GUESSES.items()):
                time.sleep(arguments.pause if number else 1)
                found[name] = one_window(arguments, server, port, slapd, people, guess)
                progress(f"{name}: {found[name]}")
            version = subprocess.run([slapd.program, "-VV"], capture_output=True, text=True).stderr
    section = RESULTS.format(
        date=datetime.date.today().isoformat(),
        commit=tool_version("git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"),
        cores=os.cpu_count(),
        model=cpu_model(),
        kernel=platform.release(),
        before=f"{before:.1f}",
        after=f"{os.getloadavg()[0]:.1f}",
        slapd=(re.search(r"OpenLDAP: slapd [\d.]+", version) or ["OpenLDAP"])[0],
        people=GUESSED + ADMINS,
        seconds=arguments.seconds,
        table=shown(arguments, found),
    )
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
