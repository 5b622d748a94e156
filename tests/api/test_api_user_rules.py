"""Rules for users of CIFS shares: names, and access keys that only the share's own project sees."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import delete, select
from test_api_access_rules import allow

from sharewright.configuration_file import parse
from sharewright.context import RequestContext
from sharewright.errors import InvalidInput
from sharewright.services import access_rules
from sharewright.services.deployment import Deployment
from sharewright.settings import Settings
from sharewright.store.secrets import open_access_keys
from sharewright.store.tables import share_access_rules


@pytest.fixture
def smb(site: Site) -> Site:
    """A site whose worker has been started once, and so made the key file."""
    site.settings.state_path.mkdir(parents=True, exist_ok=True)
    open_access_keys(site.settings, make=True)
    return site


def user(site: Site, share: dict[str, Any], name: str = "alice", status: int = 200, **values: Any) -> Any:
    return allow(site, share, name, status=status, access_type="user", **values)


def rules(site: Site, share: dict[str, Any], who: str = "alice") -> list[dict[str, Any]]:
    path = f"/v2/share-access-rules?share_id={share['id']}"
    return list(site.expect(200, "GET", path, user=who)["access_list"])


def test_the_key_is_shown_to_who_may_add_rules_and_kept_sealed(smb: Site) -> None:
    share = smb.served_share(share_proto="CIFS")
    rule = user(smb, share, "Alice.W", access_level="ro")["access"]
    key = rule["access_key"]
    assert (rule["access_type"], rule["access_to"], rule["access_level"]) == ("user", "Alice.W", "ro")
    assert len(key) == 24
    assert key.isalnum()
    assert rules(smb, share)[0]["access_key"] == key
    assert rules(smb, share, "anna")[0]["access_key"] == key, "another member of the project"
    assert rules(smb, share, "rita")[0]["access_key"] is None, "a reader, who could not have added it"
    assert rules(smb, share, "root")[0]["access_key"] is None, "an administrator of another project"
    path = f"/v2/share-access-rules/{rule['id']}"
    assert smb.expect(200, "GET", path)["access"]["access_key"] == key
    assert smb.expect(200, "GET", path, user="root")["access"]["access_key"] is None
    smb.expect(404, "GET", path, user="bob")
    with smb.store.read() as tx:
        stored = tx.execute(select(share_access_rules.c.access_key)).scalar_one()
    box = open_access_keys(smb.settings)
    assert box is not None
    assert key not in stored
    assert box.open(stored) == key


def test_a_public_share_does_not_show_its_keys(smb: Site) -> None:
    share = smb.served_share(share_proto="CIFS")
    user(smb, share)
    smb.expect(200, "PUT", f"/v2/shares/{share['id']}", {"share": {"is_public": True}}, user="root")
    smb.expect(200, "GET", f"/v2/shares/{share['id']}", user="bob")
    answer = smb.ask("GET", f"/v2/share-access-rules?share_id={share['id']}", user="bob")
    assert answer.status_code == 403


def test_one_key_for_a_user_in_a_share_network(smb: Site) -> None:
    network = smb.network()["id"]
    first, second = (smb.served_share(share_proto="CIFS", network=network) for _ in range(2))
    elsewhere = smb.served_share(share_proto="CIFS")
    key = user(smb, first)["access"]["access_key"]
    assert user(smb, second)["access"]["access_key"] == key
    assert user(smb, second, "bobby")["access"]["access_key"] != key
    assert user(smb, elsewhere)["access"]["access_key"] != key
    with smb.store.begin() as tx:
        tx.execute(delete(share_access_rules))
    assert user(smb, first)["access"]["access_key"] != key, "it goes with the last rule"


def test_another_project_s_share_on_the_network_gets_a_key_of_its_own(smb: Site) -> None:
    """Its members would learn the key that opens the shares of the network's own project."""
    network = smb.network()["id"]
    key = user(smb, smb.served_share(share_proto="CIFS", network=network))["access"]["access_key"]
    others = smb.served_share("root", share_proto="CIFS", network=network)
    body = {"allow_access": {"access_type": "user", "access_to": "alice"}}
    rule = smb.expect(200, "POST", f"/v2/shares/{others['id']}/action", body, user="root")["access"]
    assert rule["access_key"] not in (None, key)


def test_a_name_is_one_name_however_it_is_written(smb: Site) -> None:
    """It is kept as it was given, and letters of another case make no other name."""
    network = smb.network()["id"]
    share, other = (smb.served_share(share_proto="CIFS", network=network) for _ in range(2))
    key = user(smb, share, " Alice ")["access"]["access_key"]
    assert [rule["access_to"] for rule in rules(smb, share)] == ["Alice"]
    for written in ("Alice", "alice", " ALICE "):
        assert f"user:{written.strip()} exists" in user(smb, share, written, 400)["badRequest"]["message"]
    assert user(smb, other, "ALICE")["access"]["access_key"] == key, "the server has one account for both"
    path = f"/v2/share-access-rules?share_id={share['id']}&access_type=user"
    for written, number in (("Alice", 1), ("aLICE", 1), ("alic", 0)):
        assert len(smb.expect(200, "GET", f"{path}&access_to={written}")["access_list"]) == number


def test_names_that_differ_in_case_at_the_same_moment_make_one_rule(any_site: Site) -> None:
    any_site.settings.state_path.mkdir(parents=True, exist_ok=True)
    open_access_keys(any_site.settings, make=True)
    share = any_site.served_share(share_proto="CIFS")
    codes: list[int] = []

    def ask(name: str) -> None:
        body = {"allow_access": {"access_type": "user", "access_to": name}}
        headers = {"Connection": "close"}
        codes.append(any_site.ask("POST", f"/v2/shares/{share['id']}/action", body, headers=headers).status_code)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("alice", "Alice", "ALICE", "aLiCe")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 400, 400, 400]


@pytest.mark.parametrize(
    "name",
    [
        "bob",
        "x" * 29,
        "two words",
        "DOMAIN\\alice",
        "alice@example.org",
        "-alice",
        "root:x:0:0",
        "al\nice",
        "älice",
        "",
    ],
)
def test_names_that_are_refused(smb: Site, name: str) -> None:
    share = smb.served_share(share_proto="CIFS")
    user(smb, share, name, 400)
    assert rules(smb, share) == []


def test_users_and_guests_do_not_mix(smb: Site) -> None:
    guests, named = smb.served_share(share_proto="CIFS"), smb.served_share(share_proto="CIFS")
    allow(smb, guests)
    assert "rules of one type" in user(smb, guests, status=400)["badRequest"]["message"]
    user(smb, named, access_level="ro")
    user(smb, named, "bobby", access_level="rw")
    assert "rules of one type" in allow(smb, named, status=400)["badRequest"]["message"]
    assert len(rules(smb, guests)) == 1
    assert len(rules(smb, named)) == 2


def test_a_type_that_requires_encryption_is_for_users(smb: Site) -> None:
    specs = {"driver_handles_share_servers": "True", "sharewright:smb_encryption": "required"}
    smb.expect(200, "POST", "/v2/types", {"share_type": {"name": "sealed", "extra_specs": specs}}, user="root")
    body = {"size": 1, "share_proto": "NFS", "share_network_id": smb.network()["id"], "share_type": "sealed"}
    message = smb.expect(400, "POST", "/v2/shares", {"share": body})["badRequest"]["message"]
    assert "requires encryption by SMB" in message
    share = smb.served_share(share_proto="CIFS", share_type="sealed")
    assert "guests cannot do" in allow(smb, share, status=400)["badRequest"]["message"]
    user(smb, share)


def test_nfs_knows_no_users(smb: Site) -> None:
    share = smb.served_share()
    message = user(smb, share, status=400)["badRequest"]["message"]
    assert "not supported by the share's protocol, NFS; use ip" in message


def test_without_a_key_file_there_are_no_users(smb: Site) -> None:
    share = smb.served_share(share_proto="CIFS")
    settings: Settings = parse({"database": {"url": "postgresql://h/d", "master_key_file": "/run/secrets/master.key"}})
    context = RequestContext(project_id=share["project_id"], user_id="u", roles=frozenset({"member"}))
    with pytest.raises(InvalidInput, match="no access keys"):
        access_rules.allow(
            Deployment(store=smb.store, settings=settings), context, share["id"],
            {"access_type": "user", "access_to": "alice"},
        )  # fmt: skip
    assert rules(smb, share) == []


def test_another_key_file_hides_the_keys_and_breaks_nothing_else(smb: Site) -> None:
    share = smb.served_share(share_proto="CIFS")
    user(smb, share)
    (smb.settings.state_path / "access.key").unlink()
    open_access_keys(smb.settings, make=True)
    assert [rule["access_key"] for rule in rules(smb, share)] == [None]
