"""The mode keystone: tokens of another Keystone. Most tests use our own ``builtin`` mode as that Keystone; tokens that
it never issues come from a Keystone made for tests."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import structlog
from keystone_for_tests import FakeKeystone, running_keystone, running_tls_keystone
from site_for_tests import PASSWORD, Site, make_settings, running_site, write_people
from sqlalchemy import update

from sharewright.api.app import create_app
from sharewright.api.identity.access_rules import AccessRule, allowed
from sharewright.api.identity.keystone import Identified, TokenCache, ValidToken
from sharewright.errors import ConfigurationError
from sharewright.identifiers import utcnow
from sharewright.store.database import Store
from sharewright.store.tables import identity_tokens


def keystone_settings(url: str, **changes: Any) -> dict[str, Any]:
    """[identity] for a Keystone at that URL."""
    keystone = {"auth_url": url, "username": "root", "password": PASSWORD, "project": "operators", **changes}
    return {"mode": "keystone", "keystone": keystone}


class Pair:
    """A Keystone (our builtin mode), which ``stop`` ends, and a service that asks it."""

    def __init__(self, store: Store, directory: Path, **changes: Any) -> None:
        self._stack = ExitStack()
        self._front = ExitStack()
        identity = {"mode": "builtin", "user_file": str(write_people(directory / "users.json"))}
        self.keystone = self._stack.enter_context(running_site(store, make_settings(directory, identity=identity)))
        settings = make_settings(directory, identity=keystone_settings(f"{self.keystone.url}/identity", **changes))
        self.site = self._front.enter_context(running_site(store, settings))

    def stop_keystone(self) -> None:
        self._stack.close()

    def close(self) -> None:
        self._front.close()
        self._stack.close()

    def token(self, name: str, project: str | None) -> str:
        domain = {"id": "default"}
        user = {"name": name, "password": PASSWORD, "domain": domain}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if project:
            auth["scope"] = {"project": {"name": project, "domain": domain}}
        answer = requests.post(f"{self.keystone.url}/identity/v3/auth/tokens", json={"auth": auth}, timeout=30)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def revoke(self, token: str) -> None:
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        answer = requests.delete(f"{self.keystone.url}/identity/v3/auth/tokens", headers=headers, timeout=30)
        assert answer.status_code == 204


@pytest.fixture
def pair(sqlite_store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Parametrise indirectly with changes to [identity.keystone]."""
    pair = Pair(sqlite_store, tmp_path, **getattr(request, "param", {}))
    yield pair
    pair.close()


def ask(site: Site, token: str, path: str = "/v2/shares", method: str = "GET", **headers: str) -> requests.Response:
    sent = {"X-Auth-Token": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return site.ask(method, path, user=None, headers=sent)


# ---- with our own builtin mode as the Keystone -----------------------------------------------------------------------


def test_a_token_names_user_project_and_roles(pair: Pair) -> None:
    alice, rita, root = pair.token("alice", "blue"), pair.token("rita", "blue"), pair.token("root", "operators")
    headers = {"X-Auth-Token": alice}
    body = {"share_network": {"name": "net"}}
    network = pair.site.expect(200, "POST", "/v2/share-networks", body, user=None, headers=headers)["share_network"]
    assert network["project_id"] == "blue"
    path = f"/v2/share-networks/{network['id']}"
    assert ask(pair.site, rita, path).status_code == 200
    assert ask(pair.site, rita, path, "DELETE").status_code == 403
    assert ask(pair.site, pair.token("bob", "green"), path).status_code == 404
    assert ask(pair.site, alice, "/v2/services").status_code == 403
    assert ask(pair.site, root, "/v2/services").status_code == 200
    assert ask(pair.site, root, path).status_code == 200
    assert ask(pair.site, alice, path, "DELETE").status_code == 202


def test_the_project_in_the_url_is_the_tokens(pair: Pair) -> None:
    alice = pair.token("alice", "blue")
    assert ask(pair.site, alice, "/v2/blue/shares").status_code == 200
    for user, project in (("alice", "blue"), ("root", "operators")):
        answer = ask(pair.site, pair.token(user, project), "/v2/green/shares")
        assert (answer.status_code, answer.json()["badRequest"]["message"]) == (400, "Malformed request url")


def test_documents_need_no_token(pair: Pair) -> None:
    for path, status in (("/", 300), ("/v2", 200), ("/v2/", 200), ("/healthcheck", 200)):
        assert pair.site.ask("GET", path, user=None).status_code == status
    assert pair.site.ask("GET", "/identity/v3", user=None).status_code == 404


@pytest.mark.parametrize("token", ["", "made-up", "x" * 9000, "two words", "caf\u00e9", "a' OR 1=1 --"])
def test_no_valid_token(pair: Pair, token: str) -> None:
    answer = ask(pair.site, token.encode("latin-1"))  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.json()["error"] == {
        "code": 401,
        "title": "Unauthorized",
        "message": "The request you have made requires authentication.",
    }
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{pair.keystone.url}/identity"'


@pytest.mark.parametrize("pair", [{"www_authenticate_uri": "https://keystone.example.org/v3"}], indirect=True)
def test_clients_are_told_of_their_own_way_to_keystone(pair: Pair) -> None:
    assert ask(pair.site, "").headers["WWW-Authenticate"] == 'Keystone uri="https://keystone.example.org/v3"'


@pytest.mark.parametrize("pair", [{"cache_seconds": 0}], indirect=True)
def test_a_revoked_token_ends_at_once_without_a_cache(pair: Pair) -> None:
    alice = pair.token("alice", "blue")
    assert ask(pair.site, alice).status_code == 200
    pair.revoke(alice)
    assert ask(pair.site, alice).status_code == 401


@pytest.mark.parametrize("pair", [{"cache_seconds": 3600}], indirect=True)
def test_a_revoked_token_ends_with_the_cache(pair: Pair) -> None:
    alice, again = pair.token("alice", "blue"), pair.token("alice", "blue")
    assert ask(pair.site, alice).status_code == 200
    pair.revoke(alice)
    assert ask(pair.site, alice).status_code == 200
    pair.revoke(again)  # never seen before
    assert ask(pair.site, again).status_code == 401


@pytest.mark.parametrize("pair", [{"cache_seconds": 0.5}], indirect=True)
def test_the_cache_ends(pair: Pair) -> None:
    alice = pair.token("alice", "blue")
    assert ask(pair.site, alice).status_code == 200
    pair.revoke(alice)
    wait_for_status(pair.site, alice, 401)


@pytest.mark.parametrize("pair", [{"cache_seconds": 0}], indirect=True)
def test_tokens_end(pair: Pair) -> None:
    """The service's own too, and it takes a new one."""
    alice = pair.token("alice", "blue")
    assert ask(pair.site, alice).status_code == 200
    with pair.keystone.store.begin() as tx:
        tx.execute(update(identity_tokens).values(expires_at=utcnow() - timedelta(seconds=1)))
    assert ask(pair.site, alice).status_code == 401
    assert ask(pair.site, pair.token("alice", "blue")).status_code == 200


def test_no_answer_is_remembered_past_the_tokens_end() -> None:
    cache = TokenCache(3600)

    def token(minutes: int) -> ValidToken:
        return ValidToken(user=Identified("u"), expires_at=datetime.now(UTC) + timedelta(minutes=minutes))

    for secret, minutes, may_be_expired, found in (
        ("a", 5, False, True), ("b", -5, False, False), ("c", -5, True, True),
    ):  # fmt: skip
        key = cache.key(secret, allow_expired=may_be_expired)
        cache.put(key, token(minutes), may_be_expired=may_be_expired)
        assert (cache.get(key) is not None) == found
    assert cache.key("a", allow_expired=False) != TokenCache(3600).key("a", allow_expired=False)
    assert cache.get(cache.key("c", allow_expired=False)) is None


@pytest.mark.parametrize("zone", ["Z", ""])
def test_a_token_that_ends_with_its_credential_may_have_a_time_without_zone(zone: str) -> None:
    body = json.dumps({"user": {"id": "u"}, "expires_at": f"2030-01-02T03:04:05.000000{zone}"})
    end = msgspec.json.decode(body, type=ValidToken).expires_at
    assert end == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_cache_has_a_limit() -> None:
    cache = TokenCache(3600)
    token = ValidToken(user=Identified("u"), expires_at=datetime.now(UTC) + timedelta(minutes=5))
    keys = [cache.key(str(number), allow_expired=False) for number in range(10_001)]
    for key in keys:
        cache.put(key, token, may_be_expired=False)
    assert [number for number, key in enumerate(keys) if cache.get(key) is None] == [0]


def wait_for_status(site: Site, token: str, status: int) -> None:
    for _ in range(600):
        if ask(site, token).status_code == status:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"never {status}")


@pytest.mark.parametrize("pair", [{"cache_seconds": 3600}], indirect=True)
def test_while_keystone_is_down_known_tokens_work(pair: Pair) -> None:
    alice, bob = pair.token("alice", "blue"), pair.token("bob", "green")
    assert ask(pair.site, alice).status_code == 200
    pair.stop_keystone()
    assert ask(pair.site, alice).status_code == 200
    answer = ask(pair.site, bob)
    assert answer.status_code == 503
    assert answer.json() == {
        "serviceUnavailable": {"code": 503, "message": "The identity service is not available. Try again later."}
    }
    assert answer.headers["Retry-After"] == "1"
    assert "WWW-Authenticate" not in answer.headers
    assert pair.site.ask("GET", "/healthcheck", user=None).status_code == 200
    assert ask(pair.site, "").status_code == 401


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"password": "wrong"}, "refuses the service's own user"),
        ({"username": "alice", "project": "blue"}, "needs the role service"),
        ({"project": "blue"}, "refuses the service's own user"),
        ({"user_domain_id": "elsewhere"}, "refuses the service's own user"),
    ],
    indirect=["pair"],
)
def test_the_operator_is_told_why_no_token_can_be_checked(pair: Pair, reason: str) -> None:
    """A mistake in the configuration is never the caller's fault."""
    rita = pair.token("rita", "blue")
    with structlog.testing.capture_logs() as logs:
        assert ask(pair.site, rita).status_code == 503
    assert reason in logs[0]["reason"]
    assert rita not in str(logs)
    assert PASSWORD not in str(logs)


def test_an_unscoped_token_is_for_nothing_here(pair: Pair) -> None:
    root = pair.token("root", "operators")
    user = {"user": {"name": "new", "password": PASSWORD}}
    answer = requests.post(
        f"{pair.keystone.url}/identity/v3/users", json=user, headers={"X-Auth-Token": root}, timeout=30
    )
    assert answer.status_code == 201
    answer = ask(pair.site, pair.token("new", None))
    assert answer.status_code == 403
    assert "not scoped to a project" in answer.json()["forbidden"]["message"]


# ---- tokens that only a real Keystone issues -------------------------------------------------------------------------


@pytest.fixture
def keystone(tmp_path: Path) -> Iterator[FakeKeystone]:
    with running_keystone(tmp_path) as keystone:
        yield keystone


def fake_settings(keystone: FakeKeystone, **changes: Any) -> dict[str, Any]:
    return keystone_settings(f"{keystone.url}/v3", username="sharewright", project="service", **changes)


@pytest.fixture
def site(sqlite_store: Store, tmp_path: Path, keystone: FakeKeystone) -> Iterator[Site]:
    with running_site(sqlite_store, make_settings(tmp_path, identity=fake_settings(keystone))) as site:
        yield site


def roles(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "name": name} for name in names]


@pytest.mark.parametrize(
    ("names", "read", "write", "administer"),
    [
        (["reader"], 200, 403, 403),
        (["member", "reader"], 200, 200, 403),
        (["member"], 200, 200, 403),
        (["Member"], 200, 200, 403),
        (["admin"], 200, 200, 200),
        (["service"], 403, 403, 403),
        (["manager", "heat_stack_user"], 403, 403, 403),
        ([], 403, 403, 403),
    ],
)
def test_roles(site: Site, keystone: FakeKeystone, names: list[str], read: int, write: int, administer: int) -> None:
    token = keystone.put_token(roles=roles(*names))
    assert ask(site, token).status_code == read
    assert ask(site, token, "/v2/services").status_code == administer
    headers = {"X-Auth-Token": token}
    answer = site.ask("POST", "/v2/share-networks", {"share_network": {}}, user=None, headers=headers)
    assert answer.status_code == write


def test_an_administrator_outside_the_admin_project_is_a_member(site: Site, keystone: FakeKeystone) -> None:
    inside = keystone.put_token(roles=roles("admin"), is_admin_project=True)
    outside = keystone.put_token(roles=roles("admin"), is_admin_project=False)
    assert ask(site, inside, "/v2/services").status_code == 200
    assert ask(site, outside, "/v2/services").status_code == 403
    assert ask(site, outside).status_code == 200


@pytest.mark.parametrize("scope", [{"system": {"all": True}}, {"domain": {"id": "default"}}, {}])
def test_other_scopes_are_refused(site: Site, keystone: FakeKeystone, scope: dict[str, Any]) -> None:
    token = keystone.put_token(project=None, roles=roles("admin"), **scope)
    for path in ("/v2/shares", "/v2/services"):
        assert ask(site, token, path).status_code == 403


def test_one_question_per_token(site: Site, keystone: FakeKeystone) -> None:
    tokens = [keystone.put_token() for _ in range(3)]
    for _ in range(5):
        for token in tokens:
            assert ask(site, token).status_code == 200
    assert keystone.asked == 3
    for _ in range(2):
        assert ask(site, "made-up").status_code == 401
    assert keystone.asked == 5


def test_a_service_asks_on_behalf_of_a_user(site: Site, keystone: FakeKeystone) -> None:
    """Work that another service does for a user may take longer than the user's token lives."""
    service = keystone.put_token(roles=roles("service"))
    user = keystone.put_token(lifetime=timedelta(minutes=-5))
    assert ask(site, user).status_code == 401
    assert ask(site, user, X_Service_Token=service).status_code == 200
    assert ask(site, user, X_Service_Token=service).status_code == 200
    assert ask(site, user).status_code == 401  # what a service was told is for services
    assert ask(site, user, X_Service_Token=keystone.put_token()).status_code == 401
    assert ask(site, user, X_Service_Token="made-up").status_code == 401
    late = keystone.put_token(roles=roles("service"), lifetime=timedelta(minutes=-5))
    assert ask(site, user, X_Service_Token=late).status_code == 401
    forgotten = keystone.put_token(lifetime=timedelta(days=-3))
    assert ask(site, forgotten, X_Service_Token=service).status_code == 401
    good = keystone.put_token()
    assert ask(site, good, X_Service_Token="made-up").status_code == 401
    assert ask(site, "", X_Service_Token=service).status_code == 401


def test_what_a_service_locks_for_a_user(site: Site, keystone: FakeKeystone) -> None:
    """As Nova does: the user may not take it away. In nobody's eyes may the service do more than the user."""
    user, service = keystone.put_token(roles=roles("member")), keystone.put_token(roles=roles("service"))

    def call(method: str, path: str, body: Any = None, **beside: str) -> requests.Response:
        headers = {"X-Auth-Token": user, "X-OpenStack-Manila-API-Version": "2.82", **beside}
        return requests.request(method, f"{site.url}/v2/{path}", json=body, headers=headers, timeout=60)

    nova = {"X-Service-Token": service}
    ids = {"neutron_net_id": str(uuid.uuid4()), "neutron_subnet_id": str(uuid.uuid4())}
    network = call("POST", "share-networks", {"share_network": ids}).json()["share_network"]["id"]
    body = {"share": {"size": 1, "share_proto": "NFS", "share_network_id": network}}
    share = call("POST", "shares", body).json()["share"]["id"]
    site.finish(share)
    wanted = {"resource_lock": {"resource_id": share}}
    lock = call("POST", "resource-locks", wanted, **nova).json()["resource_lock"]
    assert lock["lock_context"] == "service"
    assert call("DELETE", f"resource-locks/{lock['id']}").status_code == 403
    assert call("DELETE", f"shares/{share}").status_code == 403
    assert call("GET", "services", **nova).status_code == 403
    assert call("DELETE", f"resource-locks/{lock['id']}", **nova).status_code == 204
    assert call("POST", "resource-locks", wanted).json()["resource_lock"]["lock_context"] == "user"


def test_application_credentials(site: Site, keystone: FakeKeystone) -> None:
    def credential(rules: list[dict[str, str]] | None) -> dict[str, Any]:
        return {"id": "c", "name": "c", "restricted": True, **({} if rules is None else {"access_rules": rules})}

    free = keystone.put_token(application_credential=credential(None))
    assert ask(site, free, "/v2/share-networks").status_code == 200
    rule = {"service": "shared-file-system", "method": "GET", "path": "/v2/shares"}
    bound = keystone.put_token(application_credential=credential([rule]))
    assert ask(site, bound, "/v2/shares").status_code == 200
    assert ask(site, bound, "/v2/shares", "POST").status_code == 401
    assert ask(site, bound, "/v2/share-networks").status_code == 401
    assert ask(site, bound, "/v2/blue/shares").status_code == 401
    service = keystone.put_token(roles=roles("service"))
    assert ask(site, bound, "/v2/share-networks", X_Service_Token=service).status_code == 200
    nothing = keystone.put_token(application_credential=credential([]))
    assert ask(site, nothing, "/v2/shares").status_code == 401


@pytest.mark.parametrize(
    ("path", "matching", "other"),
    [
        ("/v2/shares", ["/v2/shares"], ["/v2/shares/x", "/v2/share", "x/v2/shares"]),
        ("/v2/shares/*", ["/v2/shares/x"], ["/v2/shares/", "/v2/shares", "/v2/shares/x/y"]),
        ("/v2/{project_id}/shares", ["/v2/p/shares"], ["/v2/shares", "/v2/p/q/shares"]),
        ("/v2/**", ["/v2/shares", "/v2/a/b/c"], ["/v2", "/v3/shares"]),
        ("/v2/shares/*/action", ["/v2/shares/x/action"], ["/v2/shares/x/y/action"]),
        ("/v2/sh.res", ["/v2/sh.res"], ["/v2/shares"]),
        ("/v2/(a+)+$", ["/v2/(a+)+$"], ["/v2/aaa"]),
        ("/v2/{open", ["/v2/{open"], ["/v2/x"]),
        ("/v2/*-*/x", ["/v2/a-b/x", "/v2/a-b-c/x"], ["/v2/-/x", "/v2/a-/x", "/v2/a-b/c/x"]),
        ("**/shares/**", ["/v2/shares/", "/v2/shares/x/y"], ["/v2/shares"]),
        ("**", ["/", "/v2/shares"], []),
        ("**" * 60 + "x", ["/" + "a" * 4000 + "x"], ["/" + "a" * 4000, "/" + "a" * 4096 + "x"]),
        ("/*" + "a*" * 60, ["/" + "xa" * 100 + "x"], ["/" + "a" * 60, "/" + "xa" * 100 + "/"]),
    ],
)
def test_paths_of_access_rules(path: str, matching: list[str], other: list[str]) -> None:
    rule = AccessRule(service="sharev2", method="GET", path=path)
    assert [asked for asked in matching if not rule.allows("GET", asked)] == []
    assert [asked for asked in other if rule.allows("GET", asked)] == []
    assert not allowed([rule], "DELETE", matching[0])
    assert not AccessRule(service="compute", method="GET", path=path).allows("GET", matching[0])


@pytest.mark.parametrize(
    "answer",
    [
        ("500 Internal Server Error", "{}"),
        ("503 Service Unavailable", "<html>"),
        ("429 Too Many Requests", ""),
        ("200 OK", "<html>"),
        ("200 OK", '{"token": {}}'),
        ("403 Forbidden", "{}"),
    ],
)
def test_a_sick_keystone_is_nobodys_fault(site: Site, keystone: FakeKeystone, answer: tuple[str, str]) -> None:
    token = keystone.put_token()
    keystone.answer = answer
    assert ask(site, token).status_code == 503
    keystone.answer = None
    assert ask(site, token).status_code == 200


def test_only_one_request_waits_for_a_keystone_that_is_down(site: Site, keystone: FakeKeystone) -> None:
    known, *others = (keystone.put_token() for _ in range(4))
    assert ask(site, known).status_code == 200
    keystone.answer = ("503 Service Unavailable", "")
    assert ask(site, others[0]).status_code == 503
    keystone.answer = None
    keystone.may_answer.clear()
    before = keystone.asked
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, f"{site.url}/v2/shares", headers={"X-Auth-Token": others[1]}, timeout=60)
        for _ in range(600):
            if keystone.asked > before:
                break
            threading.Event().wait(0.05)
        assert ask(site, others[2]).status_code == 503
        assert ask(site, known).status_code == 200
        assert not waiting.done()
        assert keystone.asked == before + 1
        keystone.may_answer.set()
        assert waiting.result().status_code == 200
    assert ask(site, others[2]).status_code == 200


def test_the_services_own_token_is_renewed(site: Site, keystone: FakeKeystone) -> None:
    """Revoked, or a Keystone with new keys."""
    assert ask(site, keystone.put_token()).status_code == 200
    keystone.tokens.clear()
    assert ask(site, keystone.put_token()).status_code == 200


def test_many_at_once(site: Site, keystone: FakeKeystone) -> None:
    tokens = [keystone.put_token() for _ in range(10)]
    seen: list[int] = []

    def run() -> None:
        for token in tokens:
            headers = {"X-Auth-Token": token}
            seen.append(requests.get(f"{site.url}/v2/shares", headers=headers, timeout=60).status_code)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [200] * 80


def test_the_authority_that_vouches_for_keystone(sqlite_store: Store, tmp_path: Path) -> None:
    certificate = tmp_path / "authority.pem"
    with running_tls_keystone(certificate) as keystone:
        for ca_file, status in (("", 503), (str(certificate), 200)):
            settings = make_settings(tmp_path, identity=fake_settings(keystone, ca_file=ca_file))
            with structlog.testing.capture_logs() as logs, running_site(sqlite_store, settings) as site:
                assert ask(site, keystone.put_token()).status_code == status
            assert ("SSL" in str(logs)) == (status == 503)


# ---- the password file -----------------------------------------------------------------------------------------------


def test_the_password_comes_from_a_file(sqlite_store: Store, tmp_path: Path, keystone: FakeKeystone) -> None:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\nnotes\n")
    path.chmod(0o640)
    identity = fake_settings(keystone, password="", password_file=str(path))
    with running_site(sqlite_store, make_settings(tmp_path, identity=identity)) as site:
        assert ask(site, keystone.put_token()).status_code == 200


@pytest.mark.parametrize(
    ("key", "text", "mode", "part"),
    [
        ("password_file", None, 0, "cannot be read: No such file"),
        ("password_file", "x", 0o644, "mode 0644; everybody may use it"),
        ("password_file", "\nx", 0o600, "begins with an empty line"),
        ("ca_file", None, 0, "there is no file"),
    ],
)
def test_a_broken_file_stops_the_start(
    sqlite_store: Store, tmp_path: Path, key: str, text: str | None, mode: int, part: str
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    changes = {"password": "", key: str(path)} if key == "password_file" else {key: str(path)}
    settings = make_settings(tmp_path, identity=keystone_settings("http://127.0.0.1:9", **changes))
    with pytest.raises(ConfigurationError) as caught:
        create_app(sqlite_store, settings)
    assert f"identity.keystone.{key}" in str(caught.value)
    assert part in str(caught.value)


def test_the_start_does_not_wait_for_keystone(sqlite_store: Store, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, identity=keystone_settings("http://127.0.0.1:9/v3"))
    with running_site(sqlite_store, settings) as site:
        assert site.ask("GET", "/healthcheck", user=None).status_code == 200
        answer = ask(site, "token")
        assert answer.status_code == 503
        assert json.loads(answer.text)["serviceUnavailable"]["code"] == 503
