"""Measures what a decision costs behind a real Envoy: no filter, api_key_auth, ext_authz to a server that does nothing,
ext_authz to us, and the module inside.

    make bench-envoy

Envoy runs with one worker on core 0, our server and the client (h2load) on core 1.  Each kind runs in turn, several rounds;
the medians count.  CPU is what /proc/PID/stat says of each process, over the number of requests.  Machines differ: read the
ratios.  Everything stays on loopback and ends by itself.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
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
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 120
# What the server that does nothing lets pass.
ALLOW_ALL_TOKEN = "eat_bench0KnownToken0000000000000000000000"
# Below these, no module can go: benches/nothing.c.
FLOORS = ["a module that does nothing", "a module that decides nothing and makes our calls"]
DYNAMIC = "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident(process):
    """Bytes of memory that are resident."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def cpu(process):
    """Seconds of CPU, user and system, that a process has used."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def token(number):
    return f"bench-token-{number:09}"


def our_config(folder, tokens, listen, store=None):
    """A configuration of this many tokens, or one of a store that has them as issued keys."""
    config = {"ext_authz": {"listen": listen}, "probes": {"listen": f"127.0.0.1:{free_port()}"}}
    if store:
        config["keys"] = {"store": f"sqlite:{store}"}
    else:
        config["tokens"] = [
            {"name": f"t{number}", "token": token(number), "actor": {"id": f"a{number}", "role": "Viewer"}}
            for number in range(tokens)
        ]
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def fill(arguments, folder, keys):
    """A store with this many issued keys, which our server makes first."""
    path = folder / f"keys-{keys}.db"
    config = our_config(folder, 0, f"127.0.0.1:{free_port()}", path)
    probes = json.loads(config.read_text())["probes"]["listen"]
    log = folder / "fill.log"
    with running([str(arguments.ours), "serve", "--config", str(config), "--drain", "0s"], "1", log) as server:
        wait_for(f"http://{probes}/ready", server, log)
    far = int(time.time()) + 365 * 24 * 3600
    rows = (
        (f"t{number}", "Viewer", hashlib.sha256(token(number).encode()).digest(), far - 10**7, "bench", far)
        for number in range(keys)
    )
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        sql = "INSERT INTO api_keys (name, role, digest, created_at, created_by, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(sql, rows)
    return path


def ext_authz(address):
    filter = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "encode_raw_headers": True,
            "grpc_service": {"timeout": "5s", "envoy_grpc": {"cluster_name": "ext_authz", "authority": "a.local"}},
        },
    }
    cluster = {
        "name": "ext_authz",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "ext_authz",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return filter, cluster


def api_key_auth(tokens):
    return {
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"key": token(number), "client": f"a{number}"} for number in range(tokens)],
            "key_sources": [{"header": "authorization"}],
            "forwarding": {"header": "x-actor-id", "hide_credentials": True},
        },
    }


def module(library, config):
    settings = json.dumps({"config": str(config)})
    return {
        "name": "envoy_auth_tokens",
        "typed_config": {
            "@type": DYNAMIC,
            "dynamic_module_config": {
                "module": {"local": {"filename": str(library)}},
                "do_not_close": True,
                "metrics_namespace": "envoy_auth_tokens",
            },
            "filter_name": "envoy_auth_tokens",
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": settings},
        },
    }


def envoy_config(port, admin, filters, clusters):
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "a",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [*filters, router],
    }
    socket_address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "admin": {"address": socket_address(admin)},
        "static_resources": {
            "listeners": [
                {
                    "name": "ingress",
                    "address": socket_address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": clusters,
        },
    }


@contextlib.contextmanager
def running(command, core, log, **environment):
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "taskset", "-c", core, *command],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url, process, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"it ended:\n{pathlib.Path(log).read_text()[-3000:]}")
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.05)
    sys.exit(f"{url} never said 200:\n{pathlib.Path(log).read_text()[-3000:]}")


def wait_for_answer(port, bearer, expected, process, log):
    """Until the answer is this one: a store with many keys takes seconds to read, and is 503 before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/x", headers={"authorization": f"Bearer {bearer}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                status = str(answer.status)
        except urllib.error.HTTPError as error:
            status = str(error.code)
        except OSError:
            status = ""
        if status == expected:
            return
        time.sleep(0.05)
    sys.exit(f"the answer never was {expected}:\n{pathlib.Path(log).read_text()[-3000:]}")


def load(port, requests, bearer):
    """Requests a second, and p50 and p99 in microseconds, of those with this token; no answer may be another status."""
    with tempfile.NamedTemporaryFile("r") as lines:
        command = ["taskset", "-c", "1", "h2load", "-n", str(requests), "-c", "4", "-m", "16"]
        command += [f"--log-file={lines.name}", "-H", f"authorization: Bearer {bearer}"]
        command += [f"http://127.0.0.1:{port}/x"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 5)
        if ran.returncode:
            sys.exit(ran.stdout + ran.stderr)
        rows = [line.split("\t") for line in lines.read().splitlines()]
    statuses = {row[1] for row in rows}
    times = sorted(int(row[2]) for row in rows)
    rate = float(re.search(r"([\d.]+) req/s", ran.stdout)[1])
    return statuses, rate, times[len(times) // 2], times[len(times) * 99 // 100]


def measure(kind, arguments, folder):
    """Yields the figures of one round of a kind."""
    port, admin = free_port(), free_port()
    folder = pathlib.Path(folder)
    name, tokens, workers, transport = kind["name"], kind["tokens"], kind.get("workers"), kind.get("transport")
    filters, clusters, server = [], [], contextlib.nullcontext()
    if transport:
        if transport == "tcp":
            ours = free_port()
            listen = f"127.0.0.1:{ours}"
            address = {"socket_address": {"address": "127.0.0.1", "port_value": ours}}
        else:
            path = folder / "s.sock"
            listen, address = f"unix:{path}", {"pipe": {"path": str(path)}}
        filter, cluster = ext_authz(address)
        filters, clusters = [filter], [cluster]
        if workers:
            config = our_config(folder, tokens, listen)
            probes = json.loads(config.read_text())["probes"]["listen"]
            command = [str(arguments.ours), "serve", "--config", str(config), "--log-decisions", "none", "--drain", "0s"]
            command += ["--workers", str(workers)]
        else:
            probes, command = None, [str(arguments.allow_all), listen]
        server = running(command, "1", folder / "server.log")
    elif name == "api_key_auth":
        filters = [api_key_auth(tokens)]
    elif name in FLOORS:
        filters = [module(arguments.floors / f"{FLOORS.index(name)}.so", folder / "unread")]
    elif name.startswith("module"):
        filters = [module(arguments.module, our_config(folder, tokens, "127.0.0.1:0", kind.get("store")))]
    envoy_file = folder / "envoy.json"
    envoy_file.write_text(json.dumps(envoy_config(port, admin, filters, clusters)))
    command = [str(arguments.envoy), "-c", str(envoy_file), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    log = folder / "envoy.log"
    with server as serving:
        if serving and probes:
            wait_for(f"http://{probes}/ready", serving, folder / "server.log")
        with running(command, "0", log, ENVOY_AUTH_TOKENS_FOLDER=str(folder)) as envoy:
            wait_for(f"http://127.0.0.1:{admin}/ready", envoy, log)
            known = token(tokens // 2) if workers or not transport else ALLOW_ALL_TOKEN
            bearer = known if kind["allowed"] else "nobody-token-000000000"
            expected = "200" if kind["allowed"] else "401"
            wait_for_answer(port, bearer, expected, envoy, log)
            load(port, 5000, bearer)
            before = cpu(envoy), cpu(serving) if serving else 0
            statuses, rate, p50, p99 = load(port, arguments.requests, bearer)
            after = cpu(envoy), cpu(serving) if serving else 0
            memory = resident(envoy)
            if statuses != {expected}:
                sys.exit(f"{name}: {statuses} instead of {expected}\n{log.read_text()[-3000:]}")
    spent = [(b - a) / arguments.requests * 1e6 for a, b in zip(before, after)]
    return {"envoy": spent[0], "server": spent[1], "rate": rate, "p50": p50, "p99": p99, "memory": memory}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", default=ROOT / "target/release/envoy-auth-tokens", type=pathlib.Path)
    parser.add_argument("--allow-all", default=ROOT / "target/allow-all/release/allow-all", type=pathlib.Path)
    parser.add_argument("--module", default=ROOT / "target/dist/libenvoy_auth_tokens.so", type=pathlib.Path)
    parser.add_argument("--requests", default=100_000, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--tokens", default=[10, 1_000, 1_000_000], type=int, nargs="+")
    parser.add_argument("--keys", default=[10, 1_000_000], type=int, nargs="+", help="issued keys in a SQLite store")
    parser.add_argument("--only", default="", help="kinds whose name begins so, and no filter")
    parser.add_argument("--write", action="store_true", help="replace the section of benches/RESULTS.md")
    arguments = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("error: h2load is missing: install it (Debian and Ubuntu: apt install nghttp2-client).")
    told = subprocess.run(
        [sys.executable, ROOT / "tests/tools/fetch.py", "envoy"], capture_output=True, text=True, check=True
    )
    arguments.envoy = re.search("^envoy=(.*)$", told.stdout, re.M)[1]
    kinds = [{"name": "no filter", "tokens": 0, "allowed": True}]
    kinds += [{"name": "api_key_auth", "tokens": 1_000, "allowed": allowed} for allowed in (True, False)]
    kinds.append({"name": "ext_authz to allow-all", "tokens": 1, "allowed": True, "transport": "tcp"})
    for transport in ("tcp", "unix"):
        for workers in (1, 2):
            name = f"ext_authz to us, {transport}, {workers} worker{'s'[: workers - 1]}"
            kind = {"name": name, "tokens": 1_000, "transport": transport, "workers": workers}
            kinds.append(kind | {"allowed": True})
    kinds.append(kinds[-4] | {"allowed": False})
    stores = tempfile.TemporaryDirectory()
    arguments.floors = pathlib.Path(stores.name)
    for number, (name, options) in enumerate(zip(FLOORS, ([], ["-DOUR_CALLS"]))):
        kinds.append({"name": name, "tokens": 0, "allowed": True})
        library = arguments.floors / f"{number}.so"
        command = ["cc", "-shared", "-fPIC", "-O2", *options, "-o", library, ROOT / "benches/nothing.c"]
        subprocess.run(command, check=True)
    for tokens in arguments.tokens:
        for allowed in (True, False):
            kinds.append({"name": "module", "tokens": tokens, "allowed": allowed})
    for keys in arguments.keys:
        store = fill(arguments, pathlib.Path(stores.name), keys)
        for allowed in (True, False):
            kinds.append({"name": "module, issued keys", "tokens": keys, "allowed": allowed, "store": store})
    kinds = [kind for kind in kinds if kind["name"] == "no filter" or kind["name"].startswith(arguments.only)]
    rounds = {index: [] for index in range(len(kinds))}
    for _ in range(arguments.rounds):
        for index, kind in enumerate(kinds):
            with tempfile.TemporaryDirectory() as folder:
                rounds[index].append(measure(kind, arguments, folder))
    rows = ["| kind | tokens | answer | Envoy µs | server µs | over no filter | requests/s | p50 µs | p99 µs | Envoy MB |"]
    rows.append("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    base = None
    for index, kind in enumerate(kinds):
        of = lambda name: statistics.median(row[name] for row in rounds[index])
        both = of("envoy") + of("server")
        base = base or both
        answer = "200" if kind["allowed"] else "401"
        rows.append(
            f"| {kind['name']} | {kind['tokens']:,} | {answer} | {of('envoy'):.1f} | {of('server'):.1f} "
            f"| {both / base:.2f} | {of('rate'):,.0f} | {of('p50'):,.0f} | {of('p99'):,.0f} | {of('memory') / 1e6:,.0f} |"
        )
    table = "\n".join(rows)
    print(table)
    if arguments.write:
        results = ROOT / "benches/RESULTS.md"
        heading = "## Through a real Envoy"
        text = results.read_text().split(heading)[0].rstrip()
        results.write_text(
            f"{text}\n\n{heading}\n\nOne worker on core 0, our server and h2load (4 connections, 16 streams each) on core 1, a direct "
            f"response behind the\nfilters; {arguments.rounds} rounds of {arguments.requests:,} requests, medians (`make bench-envoy`).\n\n{table}\n"
        )


if __name__ == "__main__":
    main()
