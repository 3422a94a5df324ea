"""grafana-backup: the two questions of its pre-check that are about keys and health, with the headers that it builds."""

import json
import pathlib
import sys
import tempfile

from grafana_backup import api_checks, grafanaSettings
from grafana_backup.dashboardApi import auth_check, health_check

URL, TOKEN, USER, PASSWORD, VERSION = sys.argv[1:]

with tempfile.TemporaryDirectory() as folder:
    settings = pathlib.Path(folder) / "grafanaSettings.json"
    settings.write_text(json.dumps({"grafana": {"url": URL, "token": TOKEN}, "general": {"debug": False}}))
    read = grafanaSettings.main(str(settings))
options = [read[name] for name in ("GRAFANA_URL", "HTTP_GET_HEADERS", "VERIFY_SSL", "CLIENT_CERT", "DEBUG")]
status, health = health_check(*options)
assert status == 200 and health["database"] == "ok" and health["version"] == VERSION, health
status, keys = auth_check(*options)
assert status == 200 and keys == [], keys

# Without a credential that may list keys it stops there, and says why.
options[1] = {"Authorization": "Bearer no-token-of-anybody-0123"}
status, told = auth_check(*options)
assert status == 401 and told["message"], told

# What comes next is about dashboards, which we have none of: it says so and stops.
try:
    api_checks.main(read)
    raise AssertionError("there are dashboards?")
except Exception as error:
    assert str(error).startswith("get dashboards failed, status: 404"), error
