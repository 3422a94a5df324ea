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

# Service accounts: what Grafana's clients of today speak of.
for number, credential in enumerate((TOKEN, (USER, PASSWORD))):
    grafana = GrafanaApi.from_url(URL, credential)
    accounts = grafana.serviceaccount
    name = f"from grafana-client {number}"
    made = accounts.create({"name": name, "role": "Editor"})
    account = made["id"]
    assert made["name"] == name and made["role"] == "Editor" and made["isDisabled"] is False, made
    assert fails(GrafanaBadInputError, lambda: accounts.create({"name": name})).status_code == 400
    assert accounts.get(account)["login"] == f"sa-1-from-grafana-client-{number}"
    assert accounts.search_one(name)["id"] == account
    assert [found["id"] for found in accounts.search_all(query=name.replace(" ", "+"))] == [account]
    assert [found["id"] for found in accounts.search_all(perpage=1)] == [account]

    token = accounts.create_token(account, {"name": "first", "secondsToLive": 600})
    same = {"name": "first", "role": "Viewer"}
    error = fails(GrafanaBadInputError, lambda: accounts.create_token(account, same))
    assert "service account token with given name already exists in the organization" in error.message
    (listed,) = accounts.get_tokens(account)
    assert listed["id"] == token["id"] and listed["hasExpired"] is False and listed["expiration"], listed

    # The token's whole life: it is the account, it follows its changes, and ends with it.
    editor = GrafanaApi.from_url(URL, token["key"])
    assert editor.connect()["version"] == VERSION
    assert editor.user.get_actual_user()["name"] == name
    assert fails(GrafanaClientError, lambda: editor.serviceaccount.get(account)).status_code == 403
    updated = accounts.update(account, {"name": f"{name} renamed", "role": "Viewer"})
    assert updated["message"] == "Service account updated" and updated["serviceaccount"]["role"] == "Viewer"
    assert editor.user.get_actual_user()["name"] == f"{name} renamed"
    accounts.update(account, {"isDisabled": True})
    fails(GrafanaUnauthorizedError, editor.connect)
    accounts.update(account, {"isDisabled": False})
    assert editor.connect()["version"] == VERSION
    second = accounts.create_token(account, {"name": "second"})
    assert accounts.delete_token(account, token["id"])["message"] == "Service account token deleted"
    fails(GrafanaUnauthorizedError, editor.connect)
    assert fails(GrafanaClientError, lambda: accounts.delete_token(account, token["id"])).status_code == 404
    other = GrafanaApi.from_url(URL, second["key"])
    assert other.connect()["version"] == VERSION
    assert accounts.delete(account)["message"] == "Service account deleted"
    fails(GrafanaUnauthorizedError, other.connect)
    assert fails(GrafanaClientError, lambda: accounts.get(account)).status_code == 404
    assert grafana.client.GET("/auth/keys?includeExpired=true") == []

for wrong in ("no-token-of-anybody-0123", (USER, "wrong"), ("nobody", PASSWORD), None):
    fails(GrafanaUnauthorizedError, GrafanaApi.from_url(URL, wrong).connect)


async def asynchronous():
    grafana = AsyncGrafanaApi.from_url(URL, TOKEN)
    assert (await grafana.connect())["version"] == VERSION
    assert (await grafana.organization.get_current_organization())["name"] == "Ours"


asyncio.run(asynchronous())
