"""Unreachable guests: refused fast, probed seldom, healed with growing pauses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from service_instance_world import World, document
from sqlalchemy import select, update

from sharewright.errors import (
    CloudUnavailable,
    DeadlineExceeded,
    GuestBusy,
    GuestError,
    GuestUnreachable,
    StaleDocument,
)
from sharewright.identifiers import new_id, utcnow
from sharewright.progress import NoProgress
from sharewright.service_instance.instances import CloudServiceInstances
from sharewright.service_instance.readiness import console_lines
from sharewright.store.database import Store
from sharewright.store.tables import service_instances, share_servers


def make_server(world: World, instances: CloudServiceInstances) -> str:
    """A server with its row in share_servers, as the operations have it."""
    server = new_id()
    with world.store.begin() as tx:
        tx.execute(
            share_servers.insert().values(
                id=server, project_id="p", backend="alpha", host="node@alpha", status="creating", created_at=utcnow()
            )
        )
    instances.ensure(server, world.tenant, NoProgress())
    return server


def stored(world: World, server: str) -> tuple[bool | None, bool]:
    with world.store.read() as tx:
        row = tx.execute(select(share_servers).where(share_servers.c.id == server)).one()
    return row.healthy, row.last_seen is not None


def stop(world: World, instances: CloudServiceInstances, server: str) -> None:
    found = instances.find(server)
    assert found is not None
    world.cloud.compute.stop_instance(found.instance_id)


def calls(world: World, method: str) -> int:
    return world.cloud.calls().get(method, 0)


def test_health_is_written_when_it_changes(store: Store, make_world: Callable[..., World]) -> None:
    world = make_world(store)
    instances = world.instances()
    server = make_server(world, instances)
    assert stored(world, server) == (True, True)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    assert stored(world, server) == (False, True)


def test_an_unreachable_guest_is_refused_without_another_try(world: World) -> None:
    world.settings = replace(world.settings, retry_seconds=30.0)
    instances = world.instances()
    server = make_server(world, instances)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable, match="stopped"):
        instances.apply(server, document(server))
    world.cloud.reset_calls()
    for _ in range(5):
        with pytest.raises(GuestUnreachable, match="stopped"):
            instances.apply(server, document(server))
    assert world.cloud.calls() == {}


def test_after_a_while_one_caller_probes_and_the_others_are_refused(world: World) -> None:
    world.settings = replace(world.settings, retry_seconds=1.0)
    instances = world.instances()
    server = make_server(world, instances)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    time.sleep(world.settings.retry_seconds + 0.05)
    world.cloud.reset_calls()
    refused = []

    def call() -> None:
        with pytest.raises(GuestUnreachable):
            instances.apply(server, document(server))
        refused.append(True)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 8
    assert calls(world, "guest.wait_ready") == 1, "one short probe"
    assert calls(world, "guest.apply") == 0, "and no call that waits guest_seconds"


def test_a_guest_that_came_back_is_used_again(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    found = instances.find(server)
    assert found is not None
    world.cloud.compute.start_instance(found.instance_id, timeout=1)
    time.sleep(world.settings.retry_seconds + 0.05)
    assert instances.apply(server, document(server)).generation == 1
    assert stored(world, server) == (True, True)


def test_what_one_process_learnt_is_known_to_the_next(world: World) -> None:
    first = world.instances()
    server = make_server(world, first)
    stop(world, first, server)
    with pytest.raises(GuestUnreachable):
        first.apply(server, document(server))
    world.cloud.reset_calls()
    with pytest.raises(GuestUnreachable):
        world.instances().apply(server, document(server))
    assert set(world.cloud.calls()) == {"guest.wait_ready"}, "a short probe first"


def test_a_refusal_by_the_guest_is_a_sign_of_life(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    instances.apply(server, document(server, 5))
    with pytest.raises(StaleDocument):
        instances.apply(server, document(server, 4))
    world.cloud.fail("guest.apply", GuestError)
    with pytest.raises(GuestError):
        instances.apply(server, document(server, 6))
    assert stored(world, server)[0] is True
    assert instances.apply(server, document(server, 7)).generation == 7


def test_a_probe_that_ends_strangely_does_not_block_the_next(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    time.sleep(world.settings.retry_seconds + 0.05)
    world.cloud.fail("guest.wait_ready", CloudUnavailable)
    with pytest.raises(CloudUnavailable):
        instances.apply(server, document(server))
    world.cloud.reset_calls()
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    assert calls(world, "guest.wait_ready") == 1


# ---- healing ----


def test_a_healthy_server_is_left_alone(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    world.cloud.reset_calls()
    assert instances.ensure_running(server, NoProgress())
    assert world.cloud.calls() == {"find_instance": 1, "guest.wait_ready": 1}


class Asked:
    """A call that the caller of ensure_running wants to make; it fails with the given errors first."""

    def __init__(self, instances: CloudServiceInstances, server: str, *errors: Exception) -> None:
        self.times = 0
        self._call = lambda: instances.observe(server, document(server))
        self._errors = list(errors)

    def __call__(self) -> None:
        self.times += 1
        if self._errors:
            raise self._errors.pop()
        self._call()


def test_what_the_caller_asks_anyway_is_greeting_enough(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    world.cloud.reset_calls()
    asked = Asked(instances, server)
    assert instances.ensure_running(server, NoProgress(), ask=asked)
    assert world.cloud.calls() == {"find_instance": 1, "guest.observe": 1}
    assert asked.times == 1


@pytest.mark.parametrize(("error", "greetings"), [(GuestUnreachable("slow"), 1), (GuestError("refused"), 0)])
def test_a_call_that_fails_says_less_than_a_greeting(world: World, error: GuestError, greetings: int) -> None:
    """A long silence may be that call's own fault, and must not count towards a reboot; a refusal is an answer."""
    instances = world.instances()
    server = make_server(world, instances)
    world.cloud.reset_calls()
    assert instances.ensure_running(server, NoProgress(), ask=Asked(instances, server, error))
    assert world.cloud.calls().get("guest.wait_ready", 0) == greetings
    assert healing_begun(world, server) == (0, None)
    assert stored(world, server)[0] is True


def test_one_that_was_silent_is_greeted_first(world: World) -> None:
    """So that it keeps its healer for a short probe, not for the time of a whole call."""
    instances = world.instances()
    server = make_server(world, instances)
    silence(world)
    world.cloud.fail("guest.observe", GuestUnreachable)
    asked = Asked(instances, server)
    assert not instances.ensure_running(server, NoProgress(), ask=asked)
    assert not instances.ensure_running(server, NoProgress(), ask=asked)
    assert asked.times == 1
    assert healing_begun(world, server)[0] == 2


def test_a_stopped_vm_is_started(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    stop(world, instances, server)
    with pytest.raises(GuestUnreachable):
        instances.apply(server, document(server))
    assert instances.ensure_running(server, NoProgress())
    assert instances.apply(server, document(server)).generation == 1, "at once: healing ends the refusal"
    assert stored(world, server)[0] is True


def test_a_missing_vm_cannot_be_healed(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    found = instances.find(server)
    assert found is not None
    world.cloud.compute.delete_instance(found.instance_id, timeout=1)
    assert not instances.ensure_running(server, NoProgress())
    assert stored(world, server)[0] is False


def test_a_vm_whose_port_was_deleted_is_made_again_as_it_was(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    for role in ("service", "tenant"):
        before = instances.find(server)
        assert before is not None
        world.cloud.networks.lose_port(next(port.port_id for port in before.ports if port.role == role))
        assert not instances.ensure_running(server, NoProgress())
        assert world.cloud.compute.find_instance(before.instance_id) is None
        after = instances.ensure(server, world.tenant, NoProgress())
        assert (after.export_addresses, [port.mac for port in after.ports]) == (
            before.export_addresses, [port.mac for port in before.ports]
        )  # fmt: skip
        assert instances.ensure_running(server, NoProgress())


def test_a_cloud_that_is_down_says_nothing_about_the_server(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    world.cloud.fail("find_instance", CloudUnavailable, -1)
    with pytest.raises(CloudUnavailable):
        instances.ensure_running(server, NoProgress())
    assert healing_begun(world, server) == (0, None)


def silence(world: World) -> None:
    world.cloud.fail("guest.wait_ready", GuestUnreachable, -1)


def healing_begun(world: World, server: str) -> tuple[int, object]:
    with world.store.read() as tx:
        row = tx.execute(select(service_instances).where(service_instances.c.id == server)).one()
    return row.heal_attempts, row.heal_not_before


def healing(world: World, server: str) -> tuple[int, float]:
    """Reboots so far, and the seconds until the next may come."""
    with world.store.read() as tx:
        row = tx.execute(select(service_instances).where(service_instances.c.id == server)).one()
    return row.heal_reboots, (row.heal_not_before - utcnow()).total_seconds()


def test_a_silent_vm_is_rebooted_after_some_looks_then_less_and_less_often(
    store: Store, make_world: Callable[..., World]
) -> None:
    world = make_world(store, boot_seconds=0.05, heal_tries=2, heal_backoff_seconds=1000.0, heal_backoff_limit=3000.0)
    server = make_server(world, world.instances())
    silence(world)
    for reboot, pause in enumerate((1000, 2000, 3000, 3000), 1):
        for _ in range(2):
            assert calls(world, "reboot_instance") == reboot - 1
            # Each look by another process: what counts is in the store.
            assert not world.instances().ensure_running(server, NoProgress())
        assert calls(world, "reboot_instance") == reboot
        reboots, seconds = healing(world, server)
        assert reboots == reboot
        assert pause - 60 < seconds <= pause
        for _ in range(4):
            assert not world.instances().ensure_running(server, NoProgress())
        assert calls(world, "reboot_instance") == reboot, "not before the pause is over"
        with world.store.begin() as tx:  # it is over
            tx.execute(update(service_instances).values(heal_not_before=utcnow(), heal_attempts=0))


def test_the_first_looks_do_not_reboot(world: World) -> None:
    server = make_server(world, world.instances())
    silence(world)
    for _ in range(world.settings.heal_tries - 1):
        assert not world.instances().ensure_running(server, NoProgress())
    assert calls(world, "reboot_instance") == 0
    world.settings = replace(world.settings, boot_seconds=0.05)
    assert not world.instances().ensure_running(server, NoProgress())
    assert calls(world, "reboot_instance") == 1


def test_a_busy_guest_is_not_rebooted(world: World) -> None:
    """However often a look finds other calls in its way."""
    server = make_server(world, world.instances())
    world.cloud.fail("guest.wait_ready", GuestBusy, -1)
    for _ in range(3 * world.settings.heal_tries):
        assert not world.instances().ensure_running(server, NoProgress())
    assert calls(world, "reboot_instance") == 0
    assert stored(world, server)[0] is True


def test_a_reboot_that_helps_ends_the_counting(world: World) -> None:
    server = make_server(world, world.instances())
    world.cloud.fail("guest.wait_ready", GuestUnreachable, world.settings.heal_tries)
    looks = [world.instances().ensure_running(server, NoProgress()) for _ in range(world.settings.heal_tries)]
    assert looks == [False] * (world.settings.heal_tries - 1) + [True]
    with world.store.read() as tx:
        row = tx.execute(select(service_instances).where(service_instances.c.id == server)).one()
    assert (row.heal_attempts, row.heal_reboots, row.heal_not_before) == (0, 0, None)


def test_healing_stops_at_the_deadline(world: World) -> None:
    world.settings = replace(world.settings, heal_tries=1, boot_seconds=100_000.0)  # longer than a test may run
    server = make_server(world, world.instances())
    silence(world)
    with contextlib.suppress(DeadlineExceeded):
        assert not world.instances().ensure_running(server, NoProgress(0.5))


def test_many_threads_at_one_server(world: World) -> None:
    instances = world.instances()
    server = make_server(world, instances)
    with ThreadPoolExecutor(8) as pool:
        generations = list(pool.map(lambda _: instances.apply(server, document(server)).generation, range(40)))
    assert generations == [1] * 40


# ---- the console in errors ----


def test_console_lines_are_clean_and_bounded() -> None:
    text = "old\n" * 50 + "\x1b[2J\x1b[1;31mred\x1b[0m\rGRUB\x07\x00 menu\r\n\x1b]0;title\x07ready \x9bx\n" + "y" * 999
    lines = console_lines(text)
    assert len(lines) == 12
    assert lines[-4:-1] == ["red", "GRUB   menu", "ready  x"]
    assert lines[-1] == "y" * 160
    assert all(line.isprintable() for line in lines)
    assert console_lines("") == []


@pytest.mark.parametrize(
    "text",
    [
        "boot\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAAsecret\n-----END OPENSSH PRIVATE KEY-----\nlogin:",
        "boot\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAAsecret\n",
        "AAAAsecret\n-----END OPENSSH PRIVATE KEY-----\nlogin:",
    ],
)
def test_console_lines_hold_no_keys(text: str) -> None:
    assert "secret" not in " ".join(console_lines(text))
