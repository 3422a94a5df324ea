"""Measures what keys of service accounts cost beside keys of nobody's: holding them, and checking one of them.

Started by run.sh, which builds what is measured.  Two SQLite stores are filled behind the server's back, with as many keys;
in one of them each key is one of a thousand service accounts.

- Memory: what /proc/PID/status says once the store was read, less that over ten keys.
- Checks: instructions of a Check of one key, by callgrind, as measure.py counts them.
"""

import argparse
import contextlib
import dataclasses
import datetime
import os
import pathlib
import platform
import signal
import sqlite3
import statistics
import sys
import tempfile
import time

import keys as stored
import measure
from keys import FEW, Store
from measure import HERE, Case, Failed, cpu_model, progress, tool_version, with_section


def fill(bench, folder, name, keys, accounts):
    """A store of so many keys; with accounts, each key is one of theirs."""
    path = folder / f"{name}.db"
    store = Store("SQLite", 0, f"sqlite:{path}")
    with bench.running(store):
        pass
    now = int(time.time())
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        made = [(f"team {number}", f"team {number}", "Editor", now, "admin") for number in range(accounts)]
        sql = "INSERT INTO api_accounts (name, folded_name, role, created_at, created_by) VALUES (?, ?, ?, ?, ?)"
        database.executemany(sql, made)
        sql = "INSERT INTO api_keys (name, role, digest, created_at, created_by, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(sql, stored.rows(keys))
        if accounts:
            database.execute("UPDATE api_keys SET account_id = id % ? + 1", (accounts,))
            found = database.execute("SELECT count(DISTINCT account_id) FROM api_keys").fetchone()[0]
            if found != min(accounts, keys):
                raise Failed(f"the keys are of {found} accounts")
    return dataclasses.replace(store, keys=keys)


RESULTS = """## Keys of service accounts

Written by `make bench-accounts`, which also makes it anew.

- Date: {date}; commit: {commit}
- Machine: {cores} cores, {model}, Linux {kernel}; load average {before} before, {after} after
- {rounds} starts over each store; callgrind at {few:,} and {many:,} requests

| {keys:,} keys | resident a key | instructions of a Check | over nobody's |
| ------------- | -------------: | ----------------------: | ------------: |
{lines}

Resident: what the process has more than one that holds {small} keys, over the number of keys.
"""


def main():
    parser = argparse.ArgumentParser(description="Measures holding and checking keys of service accounts.")
    for name in ("--ours", "--load"):
        parser.add_argument(name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=int, default=100_000, help="stored keys (default 100000)")
    parser.add_argument("--accounts", type=int, default=1_000, help="service accounts (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="starts over each store (default 3)")
    parser.add_argument("--few", type=int, default=2_000, help="fewer requests under callgrind (default 2000)")
    parser.add_argument("--many", type=int, default=12_000, help="more of them (default 12000)")
    parser.add_argument("--output", default=HERE / "RESULTS.md", type=pathlib.Path, help="where to write the results")
    arguments = parser.parse_args()
    arguments.connections, arguments.in_flight = 8, 32
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    before = os.getloadavg()[0]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        bench = stored.Keys(arguments, folder)
        few = fill(bench, folder, "few", FEW, 0)
        resident = lambda store: statistics.median(bench.loaded(store).resident for _ in range(arguments.rounds))
        small = resident(few)
        counts = []
        for name, accounts in (("nobody's", 0), (f"of {arguments.accounts:,} accounts", arguments.accounts)):
            store = fill(bench, folder, f"accounts-{accounts}", arguments.keys, accounts)
            a_key = (resident(store) - small) / arguments.keys
            counts.append(bench.count(Case(name, store)))
            ratio = counts[-1] / counts[0]
            lines.append(f"| {name} | {a_key:.0f} B | {counts[-1]:,.0f} | {ratio:.3f} |")
            progress(lines[-1])
    section = RESULTS.format(
        date=datetime.date.today().isoformat(),
        commit=tool_version("git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"),
        cores=os.cpu_count(),
        model=cpu_model(),
        kernel=platform.release(),
        before=f"{before:.1f}",
        after=f"{os.getloadavg()[0]:.1f}",
        lines="\n".join(lines),
        small=FEW,
        **{name: getattr(arguments, name) for name in ("keys", "rounds", "few", "many")},
    )
    print(section)
    arguments.output.write_text(with_section(arguments.output.read_text(), section))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"error: {failed}")
