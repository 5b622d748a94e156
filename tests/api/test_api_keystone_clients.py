"""A service, its catalogue entries and the stock clients, around a Keystone made for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import openstack
import pytest
from keystone_for_tests import FakeKeystone, running_keystone
from site_for_tests import PASSWORD, OpenStackClient, Site, make_settings, run_openstack, running_site

from sharewright.cli.doctor import Finding, examine_keystone
from sharewright.cli.host import ThisHost
from sharewright.cli.main import main
from sharewright.clouds.open import open_cloud
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.store.database import Store

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Outcome:
    """Of ``sharewright keystone register``."""

    code: int
    entries: list[dict[str, Any]]
    complaint: str

    @property
    def changes(self) -> set[str]:
        return {entry["change"] for entry in self.entries}


Register = Callable[..., Outcome]


@pytest.fixture
def keystone(tmp_path: Path) -> Iterator[FakeKeystone]:
    with running_keystone(tmp_path) as keystone:
        yield keystone


def identity(keystone: FakeKeystone, **changes: Any) -> dict[str, Any]:
    keys = {"auth_url": keystone.url, "username": "sharewright", "password": PASSWORD, **changes}
    return {"mode": "keystone", "keystone": keys}


def environment(keystone: FakeKeystone, user: str, project: str) -> dict[str, str]:
    """An openrc file."""
    return {
        "OS_AUTH_URL": f"{keystone.url}/v3",
        "OS_USERNAME": user,
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": project,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_IDENTITY_API_VERSION": "3",
    }


@pytest.fixture
def register(
    keystone: FakeKeystone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Register:
    """``sharewright keystone register`` as an administrator."""
    for name, value in environment(keystone, "admin", "admin").items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "sharewright.toml"
    path.write_text("")

    def register(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(["--config", str(path), "keystone", "register", *arguments, "--json"])
        said = capsys.readouterr()
        return Outcome(code, json.loads(said.out) if said.out else [], said.err)

    return register


def urls(keystone: FakeKeystone) -> dict[tuple[str, str, str], str]:
    """What the catalogue says beside Keystone itself: type, interface, region → URL."""
    return {
        (service["type"], endpoint["interface"], endpoint["region_id"]): endpoint["url"]
        for service in keystone.catalogue()
        for endpoint in service["endpoints"]
        if service["type"] != "identity"
    }


# ---- the catalogue ---------------------------------------------------------------------------------------------------


def test_register_again_and_remove(keystone: FakeKeystone, register: Register) -> None:
    outcome = register("https://shares.example.org")
    assert (outcome.code, outcome.changes) == (0, {"created"})
    assert urls(keystone) == {
        (kind, interface, "RegionOne"): "https://shares.example.org/v2"
        for kind in ("shared-file-system", "sharev2")
        for interface in ("public", "internal", "admin")
    }
    names = {service["type"]: service["name"] for service in keystone.tables["services"].values()}
    assert names == {"identity": "keystone", "shared-file-system": "manila", "sharev2": "manilav2"}
    outcome = register("https://shares.example.org/v2/")
    assert (outcome.code, outcome.changes) == (0, {"unchanged"})
    outcome = register("https://shares.example.org", "--internal-url", "http://10.0.0.1:8786")
    assert {(entry["interface"], entry["change"]) for entry in outcome.entries} == {
        ("public", "unchanged"), ("internal", "updated"), ("admin", "unchanged"),
    }  # fmt: skip
    assert urls(keystone)["sharev2", "internal", "RegionOne"] == "http://10.0.0.1:8786/v2"
    outcome = register("--remove")
    assert (outcome.code, outcome.changes, len(outcome.entries)) == (0, {"removed"}, 6)
    assert urls(keystone) == {}
    assert list(keystone.tables["services"]) == ["identity"]
    assert register("--remove") == Outcome(0, [], "")


def test_what_is_missing_is_added(keystone: FakeKeystone, register: Register) -> None:
    register("https://shares.example.org")
    endpoints = keystone.tables["endpoints"]
    del endpoints[next(key for key, row in endpoints.items() if "shares" in row["url"])]
    outcome = register("https://shares.example.org")
    assert sorted(entry["change"] for entry in outcome.entries) == ["created"] + ["unchanged"] * 5
    assert len(urls(keystone)) == 6


def test_regions(keystone: FakeKeystone, register: Register) -> None:
    keystone.tables["regions"]["Two"] = {"id": "Two"}
    outcome = register("https://one.example.org")
    assert (outcome.code, outcome.entries) == (1, [])
    assert "Which region? Keystone has: RegionOne, Two." in outcome.complaint
    outcome = register("https://one.example.org", "--region", "Three")
    assert (outcome.code, outcome.entries) == (1, [])
    assert "Keystone has no region Three" in outcome.complaint
    assert urls(keystone) == {}
    assert register("https://one.example.org", "--region", "RegionOne").code == 0
    assert register("https://two.example.org", "--region", "Two").code == 0
    assert len(urls(keystone)) == 12
    register("--remove", "--region", "RegionOne")
    assert {region for _, _, region in urls(keystone)} == {"Two"}
    register("--remove", "--region", "Two")
    assert list(keystone.tables["services"]) == ["identity"]


def test_a_manila_in_the_catalogue_is_left_alone(keystone: FakeKeystone, register: Register) -> None:
    other = {"id": "other", "type": "sharev2", "name": "manilav2", "enabled": True, "description": None}
    keystone.tables["services"]["other"] = other
    keystone.tables["endpoints"]["other"] = {
        "id": "other", "service_id": "other", "interface": "public", "region_id": "RegionOne", "url": "http://manila/v2",
    }  # fmt: skip
    before = urls(keystone)
    outcome = register("https://shares.example.org")
    assert outcome.code == 1
    assert "another service of type sharev2: manilav2 (other)" in outcome.complaint
    assert register("--remove") == Outcome(0, [], "")
    assert urls(keystone) == before


@pytest.mark.parametrize(
    ("arguments", "variables", "part"),
    [
        ([], {}, "Where do clients reach the API?"),
        (["http://x"], {"OS_USERNAME": "demo", "OS_PROJECT_NAME": "demo"}, "Forbidden"),
        (["http://x"], {"OS_PASSWORD": "wrong"}, "401"),
        (["http://x"], {"OS_AUTH_URL": "http://127.0.0.1:9/v3"}, "Keystone: "),
        (["http://x"], {"OS_AUTH_URL": ""}, "auth"),
        (["http://x", "--os-cloud", "no-such-cloud"], {}, "no-such-cloud"),
    ],
)
def test_refusals(
    keystone: FakeKeystone,
    register: Register,
    tmp_path: Path,
    arguments: list[str],
    variables: dict[str, str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    assert main(["--config", str(tmp_path / "sharewright.toml"), "keystone", "register", *arguments]) == 1
    complaint = capsys.readouterr().err
    assert part in complaint
    assert PASSWORD not in complaint
    assert urls(keystone) == {}


@pytest.mark.parametrize(
    "url", ["shares.example.org", "ftp://x", "http://", "http://x/v2/%(project_id)s", "http://x?y"]
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keystone", "register", url])
    assert ended.value.code == 2


# ---- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor(keystone: FakeKeystone, register: Register, tmp_path: Path) -> None:
    def look(**changes: Any) -> list[Finding]:
        return list(examine_keystone(ThisHost(), make_settings(tmp_path, identity=identity(keystone, **changes))))

    assert [(found.level, found.subject) for found in look()] == [("ok", "identity"), ("warning", "catalogue")]
    register("https://shares.example.org")
    assert [(found.level, found.subject) for found in look()] == [("ok", "identity")]
    for changed, part in (
        ({"password": "wrong"}, "gives sharewright no token"),
        ({"auth_url": "http://127.0.0.1:9"}, "gives sharewright no token"),
        ({"username": "demo", "project": "demo"}, "may not ask Keystone"),
        ({"password": "", "password_file": "/absent"}, "cannot be read"),
    ):
        (finding,) = look(**changed)
        assert finding.level == "problem"
        assert part in finding.text
        assert finding.fix or "read" in part
        assert PASSWORD not in finding.text


# ---- stock clients ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site(keystone: FakeKeystone, register: Register, sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    """A service with a worker on the simulated cloud, in the catalogue."""
    settings = make_settings(tmp_path, identity=identity(keystone), worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            assert register(site.url).code == 0
            yield site


def test_the_openstack_command(site: Site, keystone: FakeKeystone) -> None:
    """A member, an administrator and a stranger, with nothing but an openrc file each."""
    cloud = open_cloud(site.settings, site.settings.backends["one"])
    with closing(cloud):
        network = cloud.networks.create_network("tenant", ip_network("192.0.2.0/24"))  # type: ignore[attr-defined]
    clients = {name: OpenStackClient(environment(keystone, name, name)) for name in ("demo", "other", "admin")}

    def share(user: str, *arguments: str, fails: bool = False) -> Any:
        shows = any(word in arguments for word in ("list", "show", "create")) and not fails
        code, output, complaints = clients[user].run("share", *arguments, *(("-f", "json") if shows else ()))
        assert (code != 0) == fails, f"{arguments}: {output} {complaints}"
        return complaints if fails else json.loads(output) if shows else None

    try:
        share("demo", "network", "create", "--name", "net")
        share(
            "demo", "network", "set", "net", "--neutron-net-id", network.id,
            "--neutron-subnet-id", network.subnets[0].id,
        )  # fmt: skip
        made = share("demo", "create", "NFS", "1", "--name", "first", "--share-network", "net", "--wait")
        assert (made["status"], made["project_id"]) == ("available", "id-of-demo")
        share("demo", "access", "create", "first", "ip", "192.0.2.10", "--wait")
        assert len(share("demo", "export", "location", "list", "first")) == 1
        assert share("other", "list") == []
        assert "first" in share("other", "show", "first", fails=True)
        assert "403" in share("demo", "service", "list", fails=True)
        assert [row["Name"] for row in share("admin", "list", "--all-projects")] == ["first"]
        assert share("demo", "quota", "show", "id-of-demo")["shares"] == 50
        share("admin", "quota", "set", "id-of-demo", "--shares", "1")
        assert share("demo", "quota", "show", "id-of-demo")["shares"] == 1
        assert "413" in share("demo", "create", "NFS", "1", "--share-network", "net", fails=True)
        share("demo", "delete", "first", "--wait")
        assert share("demo", "list") == []
    finally:
        for client in clients.values():
            client.close()
    wrong = run_openstack("share", "list", environment=environment(keystone, "demo", "demo") | {"OS_PASSWORD": "no"})
    assert wrong.returncode != 0
    assert "401" in wrong.stderr


def test_openstacksdk(site: Site, keystone: FakeKeystone) -> None:
    names = environment(keystone, "demo", "demo")
    with openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        region_name="RegionOne",
        auth={key[3:].lower(): value for key, value in names.items() if key != "OS_IDENTITY_API_VERSION"},
    ) as connection:
        api = connection.shared_file_system
        network = api.create_share_network(name="net")
        assert network.project_id == "id-of-demo"
        assert [found.id for found in api.share_networks()] == [network.id]
        api.delete_share_network(network)
        # A token that ends under way is renewed by the client, which needs a 401 for it.
        keystone.tokens.clear()
        assert list(api.share_networks()) == []
