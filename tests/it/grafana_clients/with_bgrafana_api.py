"""bgrafana-api, made from Grafana's OpenAPI document: the life of a service account and its tokens."""

import json
import sys

import bgrafana_api
from bgrafana_api.api.service_accounts_api import ServiceAccountsApi
from bgrafana_api.exceptions import BadRequestException, ForbiddenException, NotFoundException

URL, TOKEN, USER, PASSWORD, VERSION = sys.argv[1:]


def fails(error, call, *arguments, **members):
    try:
        call(*arguments, **members)
    except error as caught:
        return json.loads(caught.body)["message"]
    raise AssertionError(f"no {error.__name__}")


configuration = bgrafana_api.Configuration(host=f"{URL}/api", username=USER, password=PASSWORD)
accounts = ServiceAccountsApi(bgrafana_api.ApiClient(configuration))

made = accounts.create_service_account(
    bgrafana_api.CreateServiceAccountForm(name="from bgrafana", role="Editor", is_disabled=False)
)
assert (made.name, made.role, made.is_disabled) == ("from bgrafana", "Editor", False), made
assert (made.login, made.org_id, made.tokens) == ("sa-1-from-bgrafana", 1, 0), made
again = bgrafana_api.CreateServiceAccountForm(name="from bgrafana")
assert fails(BadRequestException, accounts.create_service_account, again) == "service account already exists"

command = bgrafana_api.AddServiceAccountTokenCommand(name="first", secondsToLive=600)
token = accounts.create_token(made.id, command)
assert token.name == "first" and token.key.startswith("eat_"), token
assert "already exists" in fails(BadRequestException, accounts.create_token, made.id, command)

# The client takes the list for one token (its own fault), so it is asked for the answer as it came.
listed = accounts.list_tokens_with_http_info(made.id, _preload_content=False).raw_data
(listed,) = json.loads(listed)
listed = bgrafana_api.TokenDTO.from_dict(listed)
assert (listed.id, listed.name, listed.has_expired, listed.is_revoked) == (token.id, "first", False, False), listed
assert 0 < listed.seconds_until_expiration <= 600 and listed.expiration > listed.created, listed

found = accounts.search_org_service_accounts_with_paging(query="BGRAFANA", perpage=10, page=1)
assert (found.total_count, found.page, found.per_page) == (1, 1, 10), found
assert [(account.id, account.tokens) for account in found.service_accounts] == [(made.id, 1)], found
assert accounts.search_org_service_accounts_with_paging(disabled=True).total_count == 0
assert accounts.retrieve_service_account(made.id).tokens == 1

# The token is a credential of the account, which manages nothing here.
own = bgrafana_api.ApiClient(bgrafana_api.Configuration(host=f"{URL}/api"))
own.set_default_header("Authorization", f"Bearer {token.key}")
fails(ForbiddenException, ServiceAccountsApi(own).retrieve_service_account, made.id)

form = bgrafana_api.UpdateServiceAccountForm(name="renamed", role="Viewer", is_disabled=True)
changed = accounts.update_service_account(made.id, form)
assert (changed.message, changed.id, changed.name) == ("Service account updated", made.id, "renamed"), changed
profile = changed.serviceaccount
assert (profile.role, profile.is_disabled, profile.teams, profile.tokens) == ("Viewer", True, [], 1), profile
assert profile.created_at is not None

assert accounts.delete_token(token.id, made.id).message == "Service account token deleted"
assert fails(NotFoundException, accounts.delete_token, token.id, made.id) == "service account token not found"
assert accounts.delete_service_account(made.id).message == "Service account deleted"
assert fails(NotFoundException, accounts.retrieve_service_account, made.id) == "service account not found"
