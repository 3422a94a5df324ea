"""hukudo: health, and the provision of a key, by its class and by its command."""

import os
import sys

URL, TOKEN, USER, PASSWORD, VERSION = sys.argv[1:]

import httpx
from click.testing import CliRunner
from hukudo.grafana import Grafana
from hukudo.grafana.cli import grafana as command

admin = Grafana.from_basic_auth(URL, USER, PASSWORD, verify=False)
assert admin.health() is True
for role in Grafana.ROLES:
    key = admin.provision_api_key(name=f"from hukudo, {role}", role=role)
    client = Grafana.from_api_key(URL, key, verify=False)
    assert client.health() is True
    assert client.client.get("/api/org").json()["name"] == "Ours"

try:
    admin.provision_api_key(name="from hukudo, Viewer", role="Viewer")
    raise AssertionError("two keys of one name")
except httpx.HTTPStatusError as error:
    assert error.response.status_code == 409, error
try:
    Grafana.from_basic_auth(URL, USER, "wrong", verify=False).provision_api_key(name="x", role="Viewer")
    raise AssertionError("nobody got in")
except httpx.HTTPStatusError as error:
    assert error.response.status_code == 401, error

os.environ.update(GRAFANA_URL=URL, GRAFANA_API_KEY=TOKEN)
ran = CliRunner().invoke(command, ["health"])
assert ran.exit_code == 0, ran.output
