"""Who is let in: the modes none, http_basic and builtin."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from site_for_tests import PASSWORD, PEOPLE, Site, make_settings, running_site, write_people
from sqlalchemy import select, update

from sharewright.api.app import create_app
from sharewright.api.identity.users import PasswordVerifier, User, Users, hash_password, read_users, write_users
from sharewright.errors import ConfigurationError
from sharewright.identifiers import utcnow
from sharewright.store.database import Store
from sharewright.store.tables import identity_tokens, identity_users


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


# ---- none ------------------------------------------------------------------------------------------------------------


def test_without_identity_everybody_is_the_configured_user(sqlite_store: Store, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, identity={"mode": "none", "project": "solo", "user": "me", "roles": ["member"]})
    with running_site(sqlite_store, settings) as site:
        for headers in ({}, {"X-Auth-Token": "notused"}, basic("x", "y")):
            site.expect(200, "GET", "/v2/shares", headers=headers)
        share = site.share()
        assert (share["project_id"], share["user_id"]) == ("solo", "me")
        site.expect(403, "GET", "/v2/services")
        site.expect(200, "GET", "/v2/solo/shares")
        site.expect(400, "GET", "/v2/other/shares")


# ---- http_basic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer abc"},
        {"Authorization": "Basic " + base64.b64encode(b"alice").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"alice:\xff\xfe").decode()},
        {"Authorization": "Basic " + "A" * 20_000},
        {"X-Auth-Token": "notused"},
        basic("alice", "wrong"),
        basic("alice", ""),
        basic("alice", PASSWORD + "x" * 100),
        basic("nobody", PASSWORD),
        basic("", PASSWORD),
        basic("ALICE", PASSWORD),
        basic("alice\0", PASSWORD),
    ],
)
def test_wrong_credentials(site: Site, headers: dict[str, str]) -> None:
    answer = site.ask("GET", "/v2/shares", user=None, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": {
            "code": 401,
            "title": "Unauthorized",
            "message": "The request you have made requires authentication.",
        }
    }
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="sharewright", charset="UTF-8"'
    assert "x-compute-request-id" in answer.headers


def test_the_url_chooses_among_a_users_projects(sqlite_store: Store, tmp_path: Path) -> None:
    hashed = hash_password("pw", rounds=4)
    path = tmp_path / "users.json"
    roles = {"first": ("member",), "second": ("admin",)}
    write_users(path, Users(users=(User(name="ann", password_hash=hashed, roles=roles),)))
    settings = make_settings(tmp_path, identity={"mode": "http_basic", "user_file": str(path)})
    with running_site(sqlite_store, settings) as site:
        headers = basic("ann", "pw")
        for url, project, admin in (
            ("/v2", "first", False), ("/v2/first", "first", False), ("/v2/second", "second", True),
        ):  # fmt: skip
            network = site.expect(
                200, "POST", f"{url}/share-networks", {"share_network": {}}, user=None, headers=headers
            )
            assert network["share_network"]["project_id"] == project
            site.expect(200 if admin else 403, "GET", f"{url}/services", user=None, headers=headers)
        site.expect(400, "GET", "/v2/third/shares", user=None, headers=headers)


def test_changes_of_the_file_count_at_once(site: Site) -> None:
    path = Path(site.settings.identity.user_file)
    site.expect(200, "GET", "/v2/shares")
    users = read_users(path)
    write_users(path, users.without_user("bob"))
    site.expect(401, "GET", "/v2/shares", user="bob")
    alice = users.get("alice")
    assert alice is not None
    changed = User(name="alice", password_hash=hash_password("new", rounds=4), roles=alice.roles)
    write_users(path, users.with_user(changed))
    site.expect(401, "GET", "/v2/shares")  # though the old password was right a moment ago
    site.expect(200, "GET", "/v2/shares", user=None, headers=basic("alice", "new"))
    write_users(path, users.with_user(User(name="alice", password_hash=alice.password_hash, roles={}, enabled=True)))
    site.expect(401, "GET", "/v2/shares")
    disabled = User(name="alice", password_hash=alice.password_hash, roles=alice.roles, enabled=False)
    write_users(path, users.with_user(disabled))
    site.expect(401, "GET", "/v2/shares")
    # A broken file lets nobody in who was not in before, and nobody out.
    path.write_text("{")
    site.expect(401, "GET", "/v2/shares")
    site.expect(200, "GET", "/v2/shares", user="bob")


def test_many_requests_at_once_compare_a_password_twice_at_most() -> None:
    verifier, hashed = PasswordVerifier(rounds=4), hash_password("right", rounds=8)
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda _: verifier.verify("right", hashed), range(64)))
    assert verifier.comparisons <= 2


def test_bcrypt_is_not_paid_on_each_request() -> None:
    hashed = hash_password("pw", rounds=10)
    verifier = PasswordVerifier(10)
    for _ in range(20):
        assert verifier.verify("pw", hashed)
    assert verifier.comparisons == 1
    assert not verifier.verify("other", hashed)
    assert not verifier.verify("pw", hash_password("pw2", rounds=4))


def test_an_unknown_user_costs_as_much_as_a_wrong_password() -> None:
    verifier = PasswordVerifier(8)
    assert not verifier.verify("wrong", hash_password("pw", rounds=8))
    assert not verifier.verify("wrong", None)
    assert not verifier.verify("", None)
    assert verifier.comparisons == 3


@pytest.mark.parametrize(
    ("text", "mode", "part"),
    [
        (None, 0o600, "there is no file"),
        ('{"users": []}', 0o644, "mode 0644"),
        ('{"users": []}', 0o640, "mode 0640"),
        ("{", 0o600, "users.json"),
        ('{"people": []}', 0o600, "unknown field"),
        ('{"users": [{"name": "a"}]}', 0o600, "password_hash"),
        ('{"users": [{"name": "a", "password_hash": "secret"}]}', 0o600, "$.users[0].password_hash"),
        ('{"users": [{"name": "a b", "password_hash": "x"}]}', 0o600, "$.users[0]"),
    ],
)
def test_a_broken_password_file_stops_the_start(
    sqlite_store: Store, tmp_path: Path, text: str | None, mode: int, part: str
) -> None:
    path = tmp_path / "users.json"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    for kind in ("http_basic", "builtin"):
        settings = make_settings(tmp_path, identity={"mode": kind, "user_file": str(path)})
        with pytest.raises(ConfigurationError) as caught:
            create_app(sqlite_store, settings)
        assert part in str(caught.value)


def test_the_file_is_written_for_its_owner_only(tmp_path: Path) -> None:
    path = write_people(tmp_path / "users.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [user.name for user in read_users(path).users] == list(PEOPLE)
    assert "password" not in repr(read_users(path)) or "$2b$" not in repr(read_users(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["users.json"]


# ---- builtin ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def keystone(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    identity = {"mode": "builtin", "user_file": str(write_people(tmp_path / "users.json"))}
    with running_site(sqlite_store, make_settings(tmp_path, identity=identity)) as site:
        yield site


def auth(name: str, password: str = PASSWORD, project: Any = "own", domain: Any = None) -> dict[str, Any]:
    domain = domain or {"id": "default"}
    user = {"name": name, "password": password, "domain": domain}
    body: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    if project == "own":
        project = {"name": next(iter(PEOPLE[name])), "domain": domain}
    if project:
        body["scope"] = {"project": project}
    return {"auth": body}


def token(site: Site, name: str, **options: Any) -> str:
    answer = requests.post(f"{site.url}/identity/v3/auth/tokens", json=auth(name, **options), timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.headers["X-Subject-Token"]


def call(site: Site, secret: str, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    sent = {"X-Auth-Token": secret, "X-OpenStack-Manila-API-Version": "2.81"} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    return requests.request(method, site.url + path, json=body, headers=sent, timeout=30)


def test_version_documents_of_identity(keystone: Site) -> None:
    everything = requests.get(f"{keystone.url}/identity", timeout=30)
    assert everything.status_code == 300
    (version,) = everything.json()["versions"]["values"]
    assert version["id"].startswith("v3")
    for path in ("/identity/v3", "/identity/v3/"):
        answer = requests.get(keystone.url + path, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["version"] == version


def test_a_token_and_what_it_says(keystone: Site) -> None:
    answer = requests.post(f"{keystone.url}/identity/v3/auth/tokens", json=auth("alice"), timeout=30)
    assert answer.status_code == 201
    secret = answer.headers["X-Subject-Token"]
    said = answer.json()["token"]
    assert said["user"]["name"] == "alice"
    assert said["project"] == {"id": "blue", "name": "blue", "domain": {"id": "default", "name": "Default"}}
    assert [role["name"] for role in said["roles"]] == ["member", "reader"]
    endpoints = {
        service["type"]: {(each["interface"], each["region"]): each["url"] for each in service["endpoints"]}
        for service in said["catalog"]
    }
    assert endpoints["shared-file-system"][("public", "RegionOne")] == f"{keystone.url}/v2"
    assert endpoints["sharev2"][("public", "RegionOne")] == f"{keystone.url}/v2"
    assert endpoints["identity"][("public", "RegionOne")] == f"{keystone.url}/identity/v3"
    assert call(keystone, secret, "GET", "/v2/shares").status_code == 200
    assert call(keystone, secret, "GET", "/v2/blue/shares").status_code == 200
    assert call(keystone, secret, "GET", "/v2/green/shares").status_code == 400
    assert call(keystone, secret, "GET", "/v2/services").status_code == 403
    # The secret is nowhere in the database.
    with keystone.store.read() as tx:
        row = tx.execute(select(identity_tokens)).mappings().one()
    assert secret not in str(dict(row))


@pytest.mark.parametrize(
    "body",
    [
        auth("alice", "wrong"),
        auth("alice", project={"id": "green"}),
        auth("alice", project={"id": "nowhere"}),
        auth("alice", domain={"name": "Other"}),
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": "nobody", "password": PASSWORD}}}}},
        {"auth": {"identity": {"methods": ["totp"]}}},
        {"auth": {"identity": {"methods": ["token"], "token": {"id": "made-up"}}}},
        {"auth": {**auth("alice")["auth"], "scope": {"system": {"all": True}}}},
        {"auth": {**auth("alice")["auth"], "scope": {"domain": {"id": "default"}}}},
    ],
)
def test_no_token(keystone: Site, body: Any) -> None:
    answer = requests.post(f"{keystone.url}/identity/v3/auth/tokens", json=body, timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "The request you have made requires authentication."


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"auth": []},
        {"auth": {"identity": {"methods": ["password"]}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": 5, "password": "x"}}}}},
        {"auth": {**auth("alice")["auth"], "scope": {"project": {}}}},
    ],
)
def test_malformed_requests_for_tokens(keystone: Site, body: Any) -> None:
    answer = requests.post(f"{keystone.url}/identity/v3/auth/tokens", json=body, timeout=30)
    assert answer.status_code == 400


def test_a_token_ends(keystone: Site) -> None:
    secret = token(keystone, "alice")
    path = "/identity/v3/auth/tokens"
    shown = call(keystone, secret, "GET", path, X_Subject_Token=secret)
    assert shown.status_code == 200
    assert shown.json()["token"]["project"]["id"] == "blue"
    other = token(keystone, "bob")
    assert call(keystone, other, "GET", path, X_Subject_Token=secret).status_code == 403
    assert call(keystone, other, "DELETE", path, X_Subject_Token=secret).status_code == 403
    root = token(keystone, "root")
    assert call(keystone, root, "GET", path, X_Subject_Token=secret).status_code == 200
    assert call(keystone, root, "GET", path, X_Subject_Token="made-up").status_code == 404
    assert call(keystone, secret, "DELETE", path, X_Subject_Token=secret).status_code == 204
    answer = call(keystone, secret, "GET", "/v2/shares")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.url}/identity"'
    with keystone.store.begin() as tx:
        tx.execute(update(identity_tokens).values(expires_at=utcnow() - timedelta(seconds=1)))
    assert call(keystone, root, "GET", "/v2/shares").status_code == 401
    for wrong in ("", "x" * 5000, "a' OR 1=1 --"):
        assert call(keystone, wrong, "GET", "/v2/shares").status_code == 401


def test_unscoped_and_rescoped_tokens(keystone: Site) -> None:
    # alice has one project, which is the default.
    assert call(keystone, token(keystone, "alice", project=None), "GET", "/v2/shares").status_code == 200
    root = token(keystone, "root")
    user = {"user": {"name": "new", "password": "pw"}}
    made = call(keystone, root, "POST", "/identity/v3/users", user).json()["user"]
    body = auth("alice", "pw", project=None)
    body["auth"]["identity"]["password"]["user"] = {"id": made["id"], "password": "pw"}
    answer = requests.post(f"{keystone.url}/identity/v3/auth/tokens", json=body, timeout=30)
    assert answer.status_code == 201
    unscoped = answer.headers["X-Subject-Token"]
    assert "project" not in answer.json()["token"]
    assert call(keystone, unscoped, "GET", "/v2/shares").status_code == 401
    path = f"/identity/v3/projects/green/users/{made['id']}/roles/member"
    assert call(keystone, root, "PUT", path).status_code == 204
    body = {
        "auth": {"identity": {"methods": ["token"], "token": {"id": unscoped}}, "scope": {"project": {"id": "green"}}}
    }
    scoped = requests.post(f"{keystone.url}/identity/v3/auth/tokens", json=body, timeout=30).headers["X-Subject-Token"]
    assert call(keystone, scoped, "GET", "/v2/green/shares").status_code == 200
    projects = call(keystone, scoped, "GET", "/identity/v3/auth/projects").json()["projects"]
    assert [project["id"] for project in projects] == ["green"]


def test_what_test_suites_do_to_get_their_users(keystone: Site) -> None:
    """The nine operations: domains, projects, users, roles, assignments."""
    root = token(keystone, "root")
    v3 = "/identity/v3"
    (domain,) = call(keystone, root, "GET", f"{v3}/domains?name=Default").json()["domains"]
    assert domain["id"] == "default"
    assert call(keystone, root, "GET", f"{v3}/domains?name=Other").json()["domains"] == []
    body = {"project": {"name": "tempest-1", "description": "d", "domain_id": "default"}}
    project = call(keystone, root, "POST", f"{v3}/projects", body)
    assert project.status_code == 201
    project_id = project.json()["project"]["id"]
    assert call(keystone, root, "POST", f"{v3}/projects", body).status_code == 409
    assert call(keystone, root, "POST", f"{v3}/projects", {"project": {"name": "blue"}}).status_code == 409
    assert call(keystone, root, "GET", f"{v3}/projects/{project_id}").json()["project"]["name"] == "tempest-1"
    body = {"user": {"name": "tempest-1-user", "password": "s3cret", "domain_id": "default", "email": "a@b"}}
    user = call(keystone, root, "POST", f"{v3}/users", body)
    assert user.status_code == 201
    assert "s3cret" not in user.text
    user_id = user.json()["user"]["id"]
    assert call(keystone, root, "POST", f"{v3}/users", body).status_code == 409
    assert call(keystone, root, "POST", f"{v3}/users", {"user": {"name": "alice", "password": "x"}}).status_code == 409
    for bad in (
        {"name": "x"},
        {"name": "", "password": "x"},
        {"name": "x", "password": ""},
        {"name": 5, "password": "x"},
    ):
        assert call(keystone, root, "POST", f"{v3}/users", {"user": bad}).status_code == 400
    roles = {role["name"]: role["id"] for role in call(keystone, root, "GET", f"{v3}/roles").json()["roles"]}
    assert set(roles) == {"admin", "member", "reader"}
    path = f"{v3}/projects/{project_id}/users/{user_id}/roles/{roles['member']}"
    assert call(keystone, root, "PUT", path).status_code == 204
    assert call(keystone, root, "PUT", path).status_code == 204
    assert call(keystone, root, "PUT", path.replace(user_id, "nobody")).status_code == 404
    assert call(keystone, root, "PUT", path.replace(project_id, "nowhere")).status_code == 404
    assert call(keystone, root, "PUT", path + "x").status_code == 404
    secret = token(keystone, "tempest-1-user", password="s3cret", project={"id": project_id})
    network = call(keystone, secret, "POST", "/v2/share-networks", {"share_network": {}}).json()["share_network"]
    assert network["project_id"] == project_id
    assert call(keystone, token(keystone, "bob"), "GET", f"/v2/share-networks/{network['id']}").status_code == 404
    with keystone.store.read() as tx:
        stored = tx.execute(select(identity_users)).mappings().one()
    assert stored["password_hash"].startswith("$2b$")
    # A new password, and taking things away, end the tokens.
    assert call(keystone, root, "PATCH", f"{v3}/users/{user_id}", {"user": {"password": "new"}}).status_code == 200
    assert call(keystone, secret, "GET", "/v2/shares").status_code == 401
    secret = token(keystone, "tempest-1-user", password="new", project={"id": project_id})
    assert call(keystone, root, "DELETE", path).status_code == 204
    assert call(keystone, root, "DELETE", path).status_code == 404
    assert call(keystone, secret, "GET", "/v2/shares").status_code == 401
    assert call(keystone, root, "DELETE", f"{v3}/users/{user_id}").status_code == 204
    assert call(keystone, root, "DELETE", f"{v3}/users/{user_id}").status_code == 404
    assert call(keystone, root, "DELETE", f"{v3}/projects/{project_id}").status_code == 204
    assert call(keystone, root, "DELETE", f"{v3}/projects/{project_id}").status_code == 404


def test_administration_of_identity_is_for_admins(keystone: Site) -> None:
    v3 = "/identity/v3"
    for secret, expected in ((token(keystone, "alice"), 403), ("", 401), ("made-up", 401)):
        for method, path, body in (
            ("GET", "/domains", None), ("GET", "/projects", None), ("GET", "/users", None), ("GET", "/roles", None),
            ("POST", "/projects", {"project": {"name": "x"}}),
            ("POST", "/users", {"user": {"name": "x", "password": "x"}}),
            ("GET", "/projects/green", None), ("GET", "/users/bob", None), ("DELETE", "/users/bob", None),
            ("DELETE", "/projects/green", None), ("GET", "/role_assignments", None),
            ("PUT", "/projects/blue/users/alice/roles/admin", None),
            ("DELETE", "/projects/green/users/bob/roles/member", None),
        ):  # fmt: skip
            answer = call(keystone, secret, method, v3 + path, body)
            assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text}"
    alice = token(keystone, "alice")
    assert call(keystone, alice, "GET", f"{v3}/projects/blue").status_code == 200
    assert call(keystone, alice, "GET", f"{v3}/users/alice").status_code == 200
    assert call(keystone, alice, "GET", f"{v3}/auth/catalog").json()["catalog"]
    assert call(keystone, alice, "GET", f"{v3}/frobs").status_code == 404
