"""grafana-client: connect(), health, organization and user, key calls, as a token and as a user, in both flavours."""

import asyncio
import sys

from grafana_client import AsyncGrafanaApi, GrafanaApi
from grafana_client.client import GrafanaBadInputError, GrafanaClientError, GrafanaUnauthorizedError

URL, TOKEN, USER, PASSWORD, VERSION = sys.argv[1:]


def fails(error, call):
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"no {error.__name__}")


for credential, login in ((TOKEN, "root"), ((USER, PASSWORD), USER)):
    grafana = GrafanaApi.from_url(URL, credential)
    assert grafana.connect()["version"] == VERSION
    assert grafana.version == VERSION and str(grafana.get_version()) == VERSION
    assert grafana.health.check()["version"] == VERSION
    assert grafana.organization.get_current_organization() == {"id": 1, "name": "Ours"}
    user = grafana.user.get_actual_user()
    assert user["login"] == login and user["isGrafanaAdmin"] is True and user["orgId"] == 1, user
    assert grafana.client.GET("/health")["database"] == "ok"
    assert grafana.client.GET("/login/ping") == {"message": "Logged in"}

    wanted = {"name": "from grafana-client", "role": "Viewer", "secondsToLive": 600}
    made = grafana.client.POST("/auth/keys", json=wanted)
    assert made["name"] == wanted["name"] and made["id"] > 0, "as Grafana answers"
    assert fails(GrafanaClientError, lambda: grafana.client.POST("/auth/keys", json=wanted)).status_code == 409
    fails(GrafanaBadInputError, lambda: grafana.client.POST("/auth/keys", json={"name": "x", "role": "King"}))
    (listed,) = grafana.client.GET("/auth/keys")
    assert listed["id"] == made["id"] and listed["role"] == "Viewer" and "expiration" in listed

    # The key itself is a credential, of a role that may not manage keys.
    viewer = GrafanaApi.from_url(URL, made["key"])
    assert viewer.connect()["version"] == VERSION
    assert viewer.organization.get_current_organization()["name"] == "Ours"
    assert viewer.user.get_actual_user()["isGrafanaAdmin"] is False
    assert fails(GrafanaClientError, lambda: viewer.client.GET("/auth/keys")).status_code == 403

    assert grafana.client.DELETE(f"/auth/keys/{made['id']}") == {"message": "API key deleted"}
    assert fails(GrafanaClientError, lambda: grafana.client.DELETE(f"/auth/keys/{made['id']}")).status_code == 404
    assert grafana.client.GET("/auth/keys") == []
    fails(GrafanaUnauthorizedError, viewer.connect)

for wrong in ("no-token-of-anybody-0123", (USER, "wrong"), ("nobody", PASSWORD), None):
    fails(GrafanaUnauthorizedError, GrafanaApi.from_url(URL, wrong).connect)


async def asynchronous():
    grafana = AsyncGrafanaApi.from_url(URL, TOKEN)
    assert (await grafana.connect())["version"] == VERSION
    assert (await grafana.organization.get_current_organization())["name"] == "Ours"


asyncio.run(asynchronous())
