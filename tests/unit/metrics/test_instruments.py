"""What a process counts: calls of clouds and guests, operations, maintenance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from scrapes import scrape_registry
from sharewright.errors import CloudCapacityExceeded, CloudUnavailable
from sharewright.identifiers import utcnow
from sharewright.instruments import REGISTRY
from sharewright.operations.contract import BaseStory, Done, Operation, Outcome, RetryLater
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.queue import enqueue
from sharewright.operations.worker import Worker
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.tables import operations
from story_world import BACKEND, World, make_world


class Counts:
    """How much counters grew since this was made; they are the process's, so other tests have counted too."""

    def __init__(self) -> None:
        self._before = scrape_registry(REGISTRY)

    def since(self, name: str, **labels: str) -> float:
        return scrape_registry(REGISTRY).sum(name, **labels) - self._before.sum(name, **labels)


@pytest.fixture
def world(sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(sqlite_store, tmp_path) as world:
        yield world


def test_calls_of_clouds_and_guests(world: World) -> None:
    counts = Counts()
    share = world.request_share()
    world.run()
    calls = world.cloud.calls()
    for call in ("ensure_volume", "attach_volume", "ensure_instance"):
        name = "sharewright_cloud_call_duration_seconds_count"
        assert counts.since(name, cloud="simulated", call=call) == calls[call] >= 1
    assert counts.since("sharewright_guest_call_duration_seconds_count", call="apply") == 1
    assert counts.since("sharewright_guest_call_duration_seconds_count", call="ready") >= 1
    assert counts.since("sharewright_guest_phase_seconds_total", phase="total") > 0
    assert counts.since("sharewright_cloud_call_errors_total") == 0
    world.request_rule(share, "10.0.0.1")
    world.run()
    assert counts.since("sharewright_guest_call_duration_seconds_count", call="apply") == 2


def test_errors_by_class(world: World) -> None:
    counts = Counts()
    world.cloud.fail("ensure_volume", CloudUnavailable, 2)
    world.request_share()
    world.run()
    name = "sharewright_cloud_call_errors_total"
    labels = {"cloud": "simulated", "part": "volumes", "call": "ensure_volume"}
    assert counts.since(name, **labels, error="CloudUnavailable") == 2
    assert counts.since("sharewright_operation_failures_total") == 0
    world.cloud.fail("ensure_volume", CloudCapacityExceeded, -1)
    world.request_share()
    world.run()
    assert counts.since(name, **labels, error="CloudCapacityExceeded") == 1
    assert counts.since("sharewright_operation_failures_total", kind="create_share", error="CloudCapacityExceeded") == 1


def test_a_measured_cloud_is_the_cloud(world: World) -> None:
    cloud = world.assembly.clouds[BACKEND]
    assert (cloud.name, cloud.deployment) == (world.cloud.name, world.cloud.deployment)
    assert cloud.volumes.capacity() == world.cloud.volumes.capacity()
    with pytest.raises(AttributeError):
        cloud.volumes.no_such_call  # type: ignore[attr-defined]  # noqa: B018
    world.cloud.fail("check", CloudUnavailable)
    counts = Counts()
    with pytest.raises(CloudUnavailable):
        cloud.check()
    assert counts.since("sharewright_cloud_call_errors_total", part="cloud", call="check") == 1


class Parks(BaseStory):
    """Parked once, then done."""

    kind = "parks"

    def __init__(self) -> None:
        self.ended = threading.Event()

    def run(self, operation: Operation, progress: Progress) -> Outcome:
        if operation.attempts == 1:
            return RetryLater("not yet", seconds=0.01)
        return Done(lambda _: self.ended.set())


def test_attempts_of_a_worker(world: World) -> None:
    counts = Counts()
    story = Parks()
    with Worker(world.store, {story.kind: story}, world.settings) as worker:
        with world.store.begin() as tx:
            asked = enqueue(tx, story.kind, resource_type="thing", resource_id="one")
            long_ago = utcnow() - timedelta(seconds=100)
            tx.execute(update(operations).where(operations.c.id == asked).values(created_at=long_ago))
        assert story.ended.wait(60)
        assert worker.stop(60)
    attempts = "sharewright_operation_attempt_duration_seconds_count"
    assert counts.since("sharewright_operation_claims_total", kind="parks") == 2
    assert counts.since(attempts, kind="parks", outcome="queued") == 1
    assert counts.since(attempts, kind="parks", outcome="succeeded") == 1
    assert counts.since("sharewright_operation_wait_seconds_count", kind="parks") == 1
    whole = "sharewright_operation_duration_seconds"
    assert counts.since(f"{whole}_count", kind="parks", outcome="succeeded") == 1
    waited = counts.since("sharewright_operation_wait_seconds_sum", kind="parks")
    assert counts.since(f"{whole}_sum", kind="parks") >= waited >= 100
    assert scrape_registry(REGISTRY).sum("sharewright_operations_running", kind="parks") == 0


def test_maintenance(world: World) -> None:
    counts = Counts()
    parts: dict[str, Any] = {"drivers": world.assembly.drivers, "clouds": world.assembly.clouds, "holder": "test"}
    with world.store.begin() as tx:
        tx.exec_driver_sql("ALTER TABLE messages RENAME TO gone")  # so that one task fails: purge
    Maintenance(world.store, world.settings, **parts).tick()
    for task in ("report", "reconcile", "sweep", "purge"):
        assert counts.since("sharewright_maintenance_duration_seconds_count", task=task) == 1
        assert counts.since("sharewright_maintenance_failures_total", task=task) == (task == "purge")
