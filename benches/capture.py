#!/usr/bin/env python3
"""Writes the CheckRequests of this folder: what a real Envoy 1.40 asks about three requests.

    python3 benches/capture.py

Envoy stands between a client and nothing: the authorization server it asks is this script,
which takes the message off the connection and hangs up.  Everything stays on loopback.
The files hold the message alone, without gRPC's five bytes in front.
"""

import contextlib
import json
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
FETCH = HERE.parent / "tests" / "tools" / "fetch.py"
PATIENCE = 30

# Neither is a secret: the first stands in the configuration that measure.py writes, the second nowhere.
KNOWN = "eat_bench0KnownToken0000000000000000000000"
UNKNOWN = "eat_bench0UnknownToken00000000000000000000"

CAPTURES = {
    # file: (token, encode_raw_headers)
    "check_request.bin": (KNOWN, False),
    "check_request_raw.bin": (KNOWN, True),
    "check_request_miss.bin": (UNKNOWN, False),
}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def config(port, raw):
    filter_type = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
    router_type = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager_type = (
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager"
    )
    protocol_options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ext_authz = {
        "@type": filter_type,
        "transport_api_version": "V3",
        "encode_raw_headers": raw,
        "grpc_service": {"envoy_grpc": {"cluster_name": "ext_authz"}},
    }
    manager = {
        "@type": manager_type,
        "stat_prefix": "ingress",
        "use_remote_address": True,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "app",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": router_type}},
        ],
    }
    cluster = {
        "name": "ext_authz",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "ext_authz",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
        "typed_extension_protocol_options": {
            protocol_options: {
                "@type": f"type.googleapis.com/{protocol_options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    connection_manager = "envoy.filters.network.http_connection_manager"
    listener = {
        "name": "ingress",
        "address": address(0),
        "filter_chains": [{"filters": [{"name": connection_manager, "typed_config": manager}]}],
    }
    return {
        "admin": {"address": address(0)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


@contextlib.contextmanager
def envoy(port, raw, prefix=()):
    """A running Envoy, perhaps under a tool; gives the port that it listens on."""
    told = subprocess.run([sys.executable, FETCH, "envoy"], check=True, capture_output=True, text=True)
    binary = re.search(r"^envoy=(.*)$", told.stdout, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "envoy.json")
        path.write_text(json.dumps(config(port, raw)))
        admin_path = pathlib.Path(folder, "admin")
        command = [*prefix, binary, "--config-path", str(path), "--admin-address-path", str(admin_path)]
        command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        process = subprocess.Popen(command)
        try:
            yield listener_port(process, admin_path)
        finally:
            process.kill()
            process.wait()


def listener_port(process, admin_path):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, LookupError):
            url = f"http://{admin_path.read_text()}/listeners?format=json"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                listeners = json.load(answer)["listener_statuses"]
            return listeners[0]["local_address"]["socket_address"]["port_value"]
        time.sleep(0.05)
    raise SystemExit("error: Envoy did not start")


def read_exactly(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise SystemExit("error: Envoy hung up before it had asked")
        data += piece
    return data


def message(connection):
    """The message of the first request on an HTTP/2 connection (RFC 9113)."""
    connection.settimeout(PATIENCE)
    read_exactly(connection, len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    data_type, settings_type, end_stream, acknowledged = 0, 4, 1, 1
    empty_settings = b"\0\0\0" + bytes([settings_type, 0]) + b"\0\0\0\0"
    connection.sendall(empty_settings)
    body = b""
    while True:
        head = read_exactly(connection, 9)
        length = int.from_bytes(head[:3], "big")
        kind, flags = head[3], head[4]
        payload = read_exactly(connection, length)
        if kind == settings_type and not flags & acknowledged:
            connection.sendall(b"\0\0\0" + bytes([settings_type, acknowledged]) + b"\0\0\0\0")
        if kind == data_type:
            body += payload
            if flags & end_stream:
                break
    compressed, announced = struct.unpack(">BI", body[:5])
    if compressed or announced != len(body) - 5:
        raise SystemExit("error: what Envoy sent is not one plain gRPC message")
    return body[5:]


def capture(token, raw):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        with envoy(server.getsockname()[1], raw) as port:
            request = (
                "GET /fixtures/facetable.json?_shape=array&_size=20 HTTP/1.1\r\n"
                "host: app.example.com\r\n"
                "user-agent: curl/8.14.1\r\n"
                "accept: application/json\r\n"
                f"authorization: Bearer {token}\r\n"
                "\r\n"
            )
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(request.encode())
                connection, _ = server.accept()
                with connection:
                    return message(connection)


def main():
    for name, (token, raw) in CAPTURES.items():
        found = capture(token, raw)
        HERE.joinpath(name).write_bytes(found)
        print(f"{name}: {len(found)} bytes")


if __name__ == "__main__":
    main()
