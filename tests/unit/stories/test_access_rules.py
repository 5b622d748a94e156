"""Access rules from the service to the guest: bursts, and how many round trips they cost."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from sharewright.errors import GuestUnreachable, OverQuota
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.worker import Worker
from sharewright.services import access_rules
from sharewright.services.deployment import Deployment
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_access_rules
from story_world import BACKEND, World, make_world

QUIET, LONGEST = 2.0, 60.0  # seconds; a machine may stand still for a while without spoiling a burst


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    """On SQLite and on PostgreSQL; with one share."""
    with make_world(store, tmp_path / "state") as world:
        world.request_share()
        world.run()
        yield world


@pytest.fixture
def share(world: World) -> str:
    (instance,) = world.rows(operations, kind="create_share")
    return str(instance.resource_id)


def service(world: World, *, quiet: float = QUIET, longest: float = LONGEST) -> Deployment:
    worker = msgspec.structs.replace(
        world.settings.worker, gather_quiet_seconds=quiet, gather_seconds=longest, poll_seconds=3600.0
    )
    return Deployment(store=world.store, settings=msgspec.structs.replace(world.settings, worker=worker))


def allow(world: World, deployment: Deployment, share: str, address: str, level: str = "rw") -> str:
    values = {"access_type": "ip", "access_to": address, "access_level": level}
    return str(access_rules.allow(deployment, world.context(), share, values)["id"])


def updates(world: World) -> list[Any]:
    return world.rows(operations, kind="update_access")


def idle(world: World) -> bool:
    return all(row.state in ("succeeded", "failed") for row in updates(world))


def wait_until(reached: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_burst_of_a_hundred_from_ten_senders_is_one_round_trip(world: World, share: str) -> None:
    deployment = service(world)
    addresses = [f"10.20.{number}.{last}" for number in range(10) for last in range(1, 11)]

    def send(mine: list[str]) -> None:
        for address in mine:
            allow(world, deployment, share, address)

    with Worker(world.store, world.assembly.stories, deployment.settings):
        senders = [threading.Thread(target=send, args=(addresses[start::10],)) for start in range(10)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        wait_until(lambda: idle(world))
    (operation,) = updates(world)
    assert operation.guest_round_trips == 1
    assert operation.attempts == 1
    assert world.rules(share) == dict.fromkeys(addresses, "active")
    assert len(world.exports(share) or []) == 100


def test_a_thousand_rules_are_one_round_trip(world: World, share: str) -> None:
    """And as many statements as one rule takes."""
    one = world.request_rule(share, "10.21.0.1")
    world.run()
    wanted = [f"10.20.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    with world.store.begin() as tx:
        for address in wanted:
            values = {"id": new_id(), "share_id": share, "access_type": "ip", "access_to": address}
            tx.execute(
                share_access_rules.insert().values(
                    **values, access_level="ro", state="queued_to_apply", created_at=utcnow()
                )
            )
    world.request_deny(share, one)
    world.run()
    first, second = updates(world)
    assert second.guest_round_trips == 1
    assert second.sql_statements <= first.sql_statements + 1  # one more for the rule that goes
    assert world.rules(share) == dict.fromkeys(wanted, "active")
    assert len(world.exports(share) or []) == 1000


def test_a_share_has_so_many_rules_and_no_more(world: World, share: str) -> None:
    deployment = service(world)
    api = msgspec.structs.replace(deployment.settings.api, max_access_rules=2)
    few = dataclasses.replace(deployment, settings=msgspec.structs.replace(deployment.settings, api=api))
    first = allow(world, few, share, "10.20.0.1")
    allow(world, few, share, "10.20.0.2")
    with pytest.raises(OverQuota, match="has 2 access rules"):
        allow(world, few, share, "10.20.0.3")
    access_rules.deny(few, world.context(), share, first)
    allow(world, few, share, "10.20.0.1", "ro")  # in the other's place
    world.run()
    assert world.exports(share) == [["10.20.0.1/32", "ro"], ["10.20.0.2/32", "rw"]]


def test_a_rule_denied_and_added_again_in_one_batch(world: World, share: str) -> None:
    """A change of level in place: the guest is told once, and the client is in every document that it is told."""
    deployment = service(world)
    old = allow(world, deployment, share, "10.20.1.1", "rw")
    world.run()
    access_rules.deny(deployment, world.context(), share, old)
    new = allow(world, deployment, share, "10.20.1.1", "ro")
    assert new != old
    assert world.exports(share) == [["10.20.1.1/32", "rw"]]
    world.run()
    assert world.exports(share) == [["10.20.1.1/32", "ro"]]
    assert [row.guest_round_trips for row in updates(world)] == [1, 1]
    (rule,) = access_rules.list_rules(deployment, world.context(), share)
    assert (rule["id"], rule["access_level"], rule["state"]) == (new, "ro", "active")


def test_a_rule_added_again_while_its_removal_is_under_way(world: World, share: str) -> None:
    """The update that removes it has begun: the new rule belongs to the next one, and nothing takes it away."""
    deployment = service(world, quiet=0.0)
    old = allow(world, deployment, share, "10.20.1.1")
    world.run()
    access_rules.deny(deployment, world.context(), share, old)
    driver = world.assembly.drivers[BACKEND]
    real = driver.update_access

    def update_and_allow_again(*arguments: Any) -> Any:
        driver.update_access = real  # type: ignore[method-assign]
        outcomes = real(*arguments)
        assert world.rules(share) == {"10.20.1.1": "denying"}
        allow(world, deployment, share, "10.20.1.1", "ro")
        return outcomes

    driver.update_access = update_and_allow_again  # type: ignore[method-assign]
    world.run()
    assert world.rules(share) == {"10.20.1.1": "active"}
    assert world.exports(share) == [["10.20.1.1/32", "ro"]]
    assert world.share(share).access_rules_status == "active"


def test_allowing_and_denying_together_is_one_round_trip(world: World, share: str) -> None:
    deployment = service(world)
    old = [allow(world, deployment, share, f"10.20.1.{last}", "ro") for last in (1, 2)]
    world.run()
    for rule in old:
        access_rules.deny(deployment, world.context(), share, rule)
    allow(world, deployment, share, "10.20.1.3")
    world.run()
    before, operation = updates(world)
    assert (before.guest_round_trips, operation.guest_round_trips) == (1, 1)
    assert world.exports(share) == [["10.20.1.3/32", "rw"]]


def test_what_joins_puts_the_update_off_but_not_for_ever(world: World, share: str) -> None:
    deployment = service(world, quiet=30.0, longest=31.0)

    def waits() -> float:
        (row,) = updates(world)
        return float((row.not_before - row.created_at).total_seconds())

    allow(world, deployment, share, "10.20.0.1")
    first = waits()
    assert 30.0 <= first < 31.0
    assert not world.run_one("update_access")
    allow(world, deployment, share, "10.20.0.2")
    assert first < waits() <= 31.0
    rings = world.store.bell.rings
    with world.store.begin() as tx:  # the first one came long ago
        tx.execute(update(operations).values(created_at=utcnow() - timedelta(seconds=40)))
    rule = allow(world, deployment, share, "10.20.0.3")
    assert waits() == 31.0
    assert world.store.bell.rings > rings
    access_rules.deny(deployment, world.context(), share, rule)
    assert world.run_one("update_access")
    assert world.rules(share) == {"10.20.0.1": "active", "10.20.0.2": "active"}


def test_zero_begins_at_once(world: World, share: str) -> None:
    rings = world.store.bell.rings
    allow(world, service(world, quiet=0.0), share, "10.20.0.1")
    assert world.store.bell.rings > rings
    assert world.run_one("update_access")
    assert world.rules(share) == {"10.20.0.1": "active"}


def test_what_joins_an_update_in_its_back_off_changes_nothing_about_that(world: World, share: str) -> None:
    deployment = service(world, quiet=0.0)
    world.cloud.fail("guest.apply", GuestUnreachable)
    allow(world, deployment, share, "10.20.0.1")
    assert world.run_one("update_access")
    (parked,) = updates(world)
    assert (parked.state, parked.attempts) == ("queued", 1)
    allow(world, deployment, share, "10.20.0.2")
    (still,) = updates(world)
    assert still.not_before == parked.not_before
    world.request_server_operation("heal_server", world.instance(share).share_server_id)
    world.run()
    assert set(world.rules(share).values()) == {"active"}
