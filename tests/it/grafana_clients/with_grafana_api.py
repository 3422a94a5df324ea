"""grafana-api: organization, user and key calls, as a token and as a user."""

import sys
from urllib.parse import urlsplit

from grafana_api.grafana_api import GrafanaClientError, GrafanaUnauthorizedError
from grafana_api.grafana_face import GrafanaFace

URL, TOKEN, USER, PASSWORD, VERSION = sys.argv[1:]
address = urlsplit(URL)


def face(auth):
    return GrafanaFace(auth, host=address.hostname, port=address.port)


for auth, login in ((TOKEN, "root"), ((USER, PASSWORD), USER)):
    grafana = face(auth)
    assert grafana.organization.get_current_organization() == {"id": 1, "name": "Ours"}
    assert grafana.user.get_actual_user()["login"] == login
    assert grafana.api.GET("/health")["version"] == VERSION
    assert grafana.api.GET("/frontend/settings")["buildInfo"]["version"] == VERSION
    made = grafana.api.POST("/auth/keys", json={"name": "from grafana-api", "role": "Editor"})
    assert [key["name"] for key in grafana.api.GET("/auth/keys")] == ["from grafana-api"]
    assert face(made["key"]).organization.get_current_organization()["id"] == 1
    assert grafana.api.DELETE(f"/auth/keys/{made['id']}") == {"message": "API key deleted"}
    try:
        grafana.api.POST("/auth/keys", json={"name": "", "role": "Editor"})
        raise AssertionError("a key without a name")
    except GrafanaClientError as error:
        assert error.status_code == 400, error

try:
    face("no-token-of-anybody-0123").organization.get_current_organization()
    raise AssertionError("nobody got in")
except GrafanaUnauthorizedError:
    pass
