"""CIFS shares from the service to the guest: guests, users, and what the guest refuses."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from sharewright.errors import CloudUnavailable
from sharewright.services import access_rules
from sharewright.services.deployment import Deployment
from sharewright.store.tables import share_access_rules
from story_world import World


@pytest.fixture
def share(world: World) -> str:
    share_id = world.request_share(protocol="CIFS")
    world.run()
    return share_id


def allow(world: World, share: str, access_to: str, level: str = "rw", *, kind: str = "user") -> Any:
    deployment = Deployment(store=world.store, settings=world.settings)
    values = {"access_type": kind, "access_to": access_to, "access_level": level}
    return access_rules.allow(deployment, world.context(), share, values)


def test_a_share_from_nothing_to_gone(world: World, share: str) -> None:
    (path,) = world.locations(share)
    assert path.startswith("\\\\")
    assert path.endswith(f"\\share-{world.instance(share).id}")
    allow(world, share, "alice")
    bobby = allow(world, share, "bobby", "ro")
    world.run()
    assert world.rules(share) == {"alice": "active", "bobby": "active"}
    assert world.exports(share) == [["alice", "rw"], ["bobby", "ro"]]
    deployment = Deployment(store=world.store, settings=world.settings)
    access_rules.deny(deployment, world.context(), share, bobby["id"])
    world.run()
    assert world.exports(share) == [["alice", "rw"]]
    world.request_delete(share)
    world.run()
    (server,) = world.cloud.compute.list_instances()
    assert world.guests.exports(server.id) == {}
    world.check_consistent()


def test_guests(world: World, share: str) -> None:
    allow(world, share, "10.20.0.0/25", kind="ip")
    allow(world, share, "10.20.0.200", kind="ip")
    world.run()
    assert world.exports(share) == [["10.20.0.0/25", "rw"], ["10.20.0.200/32", "rw"]]


def test_a_user_added_again_while_leaving_keeps_the_key(world: World, share: str) -> None:
    first = allow(world, share, "alice")
    world.run()
    with world.store.begin() as tx:
        tx.execute(update(share_access_rules).values(state="queued_to_deny"))
    second = allow(world, share, "alice", "ro")
    assert second["access_key"] == first["access_key"]
    world.run()
    assert world.exports(share) == [["alice", "ro"]]


def test_the_account_of_a_user_is_in_lower_case(world: World, share: str) -> None:
    allow(world, share, "Alice.W")
    world.run()
    assert world.rules(share) == {"Alice.W": "active"}
    assert world.exports(share) == [["alice.w", "rw"]]
    deployment = Deployment(store=world.store, settings=world.settings)
    with world.store.begin() as tx:
        tx.execute(update(share_access_rules).values(state="queued_to_deny"))
    again = allow(world, share, "ALICE.W", "ro")
    world.run()
    assert world.rules(share) == {"ALICE.W": "active"}
    assert world.exports(share) == [["alice.w", "ro"]]
    access_rules.deny(deployment, world.context(), share, again["id"])
    world.run()
    assert world.exports(share) == []


def test_a_lost_answer_changes_nothing(world: World, share: str) -> None:
    world.cloud.fail("guest.apply", CloudUnavailable, 2, moment="after")
    allow(world, share, "alice")
    world.run()
    assert world.rules(share) == {"alice": "active"}
    assert world.exports(share) == [["alice", "rw"]]


def test_nfs_and_cifs_share_a_server(world: World, share: str) -> None:
    other = world.request_share(protocol="NFS")
    world.run()
    assert world.instance(other).share_server_id == world.instance(share).share_server_id
    assert ":/shares/" in world.locations(other)[0]
