"""What is told about the whole deployment, after real stories on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from scrapes import Scrape, scrape_registry
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.errors import CloudCapacityExceeded, CloudError
from sharewright.guest.document import Usage
from sharewright.identifiers import utcnow
from sharewright.metrics.deployment import FAMILIES, DeploymentCollector
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.queue import enqueue
from sharewright.operations.registration import register_worker
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import operations, share_servers
from story_world import BACKEND, PROJECT, World, make_world

GIBIBYTE = 2**30


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(store, tmp_path) as world:
        report(world)
        yield world


def report(world: World) -> None:
    Maintenance(
        world.store, world.settings, drivers=world.assembly.drivers, clouds=world.assembly.clouds, holder="test"
    ).report()
    register_worker(world.store, world.settings)


def tell(world: World, *, most_detailed_shares: int = 100) -> Scrape:
    registry = CollectorRegistry()
    registry.register(DeploymentCollector(world.store, most_detailed_shares=most_detailed_shares))
    return scrape_registry(registry)


@contextmanager
def failing(cloud: SimulatedCloud, method: str) -> Iterator[None]:
    cloud.fail(method, CloudCapacityExceeded, -1)
    yield
    cloud.forgive(method)


def test_shares_and_servers(world: World) -> None:
    small, large = world.request_share(1), world.request_share(3)
    world.run()
    with failing(world.cloud, "ensure_volume"):
        broken = world.request_share(2)
        world.run()
    told = tell(world)
    assert told.sum("sharewright_shares", status="available") == 2
    assert told.sum("sharewright_shares", status="error") == 1
    server = world.share(small).share_server_id
    for share, size in ((small, 1), (large, 3)):
        (series,) = told.series("sharewright_share_size_bytes", share_id=share)
        assert series.value == size * GIBIBYTE
        assert series.labels == {
            "share_id": share, "project_id": PROJECT, "share_server_id": server, "backend": BACKEND,
        }  # fmt: skip
        (used,) = told.series("sharewright_share_used_bytes", share_id=share)
        assert used.value == world.instance(share).bytes_used
    assert list(told.series("sharewright_share_used_bytes", share_id=broken)) == [], "unknown is not zero"
    assert told.sum("sharewright_share_servers", backend=BACKEND, status="active") == 1
    assert told.sum("sharewright_share_servers_unhealthy", backend=BACKEND) == 0
    assert told.sum("sharewright_share_server_healthy", share_server_id=server) == 1
    seen = told.sum("sharewright_share_server_last_seen_timestamp_seconds", share_server_id=server)
    assert seen == pytest.approx(world.rows(share_servers, id=server)[0].last_seen.replace(tzinfo=UTC).timestamp())
    with world.store.begin() as tx:
        tx.execute(update(share_servers).values(healthy=False))
    told = tell(world)
    assert told.sum("sharewright_share_servers_unhealthy", backend=BACKEND) == 1
    assert told.sum("sharewright_share_server_healthy", share_server_id=server) == 0


def test_what_the_guests_told_at_the_last_look(world: World) -> None:
    share, idle = world.request_share(1), world.request_share(1)
    world.run()
    instance, server = world.instance(share).id, world.share(share).share_server_id
    world.guests.use(instance, bytes_used=7, inodes_used=3, bytes_read=10, bytes_written=20)
    operations_counted = tuple(range(60))
    usage = Usage(
        nfs_clients=2, nfs_calls=99, nfs_bytes_read=11, nfs_bytes_written=22, nfs_operations=operations_counted
    )
    world.guests.use_server(server, usage)
    world.request_server_operation("heal_server", server)
    world.run()
    told = tell(world)
    for name, value in {
        "share_used_bytes": 7, "share_inodes_used": 3, "share_inodes_limit": 65536, "share_file_system_bytes": GIBIBYTE,
        "share_nfs_read_bytes_total": 10, "share_nfs_written_bytes_total": 20,
    }.items():  # fmt: skip
        (series,) = told.series(f"sharewright_{name}", share_id=share)
        assert (series.value, series.labels["share_server_id"]) == (value, server), name
    assert told.sum("sharewright_share_used_bytes", share_id=idle) == 0
    for name, value in {
        "nfs_clients": 2, "nfs_calls_total": 99, "nfs_read_bytes_total": 11, "nfs_written_bytes_total": 22,
    }.items():  # fmt: skip
        (series,) = told.series(f"sharewright_share_server_{name}", share_server_id=server)
        assert (series.value, series.labels["project_id"]) == (value, PROJECT), name
    name = "sharewright_share_server_nfs_operations_total"
    assert told.sum(name, share_server_id=server, operation="read") == 25
    assert told.sum(name, share_server_id=server) == sum(operations_counted)
    assert len(list(told.series(name))) == 15
    for name in ("share_server_smb_sessions", "share_server_smb_operations_total", "share_smb_connections"):
        assert list(told.series(f"sharewright_{name}")) == [], "no Samba, no number"
    assert told.sum("sharewright_share_server_usage_timestamp_seconds", share_server_id=server) > 0


def test_smb_at_the_last_look(world: World) -> None:
    """Under names of ours only: a guest is in the reach of its tenant, and a label must not hold what it makes up."""
    share, idle, other = (world.request_share(1, protocol=protocol) for protocol in ("CIFS", "CIFS", "NFS"))
    world.run()
    instance, server = world.instance(share).id, world.share(share).share_server_id
    usage = Usage(
        smb_sessions=3, smb_clients=2, smb_bytes_read=11, smb_bytes_written=22,
        smb_operations={"smb2_read": 5, "smb2_keepalive": 1, "made up": 7},
        smb_connections={instance: 4, "made up": 1},
    )  # fmt: skip
    world.guests.use_server(server, usage)
    world.request_server_operation("heal_server", server)
    world.run()
    told = tell(world)
    for name, value in {
        "smb_sessions": 3, "smb_clients": 2, "smb_read_bytes_total": 11, "smb_written_bytes_total": 22,
    }.items():  # fmt: skip
        (series,) = told.series(f"sharewright_share_server_{name}", share_server_id=server)
        assert (series.value, series.labels["project_id"]) == (value, PROJECT), name
    name = "sharewright_share_server_smb_operations_total"
    assert {each.labels["operation"]: each.value for each in told.series(name)} == {"read": 5, "echo": 1, "other": 7}
    found = {each.labels["share_id"]: each.value for each in told.series("sharewright_share_smb_connections")}
    assert found == {share: 4, idle: 0}
    assert other not in found
    assert set(world.rows(share_servers, id=server)[0].usage["smb_connections"]) == {instance}


def test_snapshots(world: World) -> None:
    share = world.request_share(1)
    world.run()
    world.request_snapshot(share)
    world.run()
    assert tell(world).sum("sharewright_share_snapshots", status="available") == 1


def test_volumes_that_shares_have_left(world: World) -> None:
    share = world.request_share(2)
    world.run()
    snapshot = world.request_snapshot(share)
    world.run()
    world.request_revert(share, snapshot)
    world.run()
    name = "sharewright_retired_volumes"
    told = tell(world)
    assert (told.sum(name, state="kept"), told.sum(name)) == (1, 1)
    assert told.sum(f"{name}_oldest_age_seconds", backend=BACKEND, state="kept") >= 0
    world.cloud.fail("delete_volume", CloudError, message="Volume has 1 snapshot.")
    world.request_snapshot_delete(snapshot)
    world.run()
    told = tell(world)
    assert (told.sum(name, state="refused"), told.sum(name)) == (1, 1)
    world.tidy()
    assert tell(world).sum(name) == 0


def test_the_queue_by_what_holds_it(world: World) -> None:
    now = utcnow()
    with world.store.begin() as tx:
        ready, parked, running, done = (
            enqueue(tx, "create_share", resource_type="share", resource_id=name, seconds=900)
            for name in ("ready", "parked", "running", "done")
        )
        waiting = enqueue(tx, "create_share", resource_type="share", resource_id="waiting", waits_for=running)
        for identifier, values in {
            ready: {"created_at": now - timedelta(seconds=100)},
            parked: {"not_before": now + timedelta(seconds=500), "created_at": now - timedelta(seconds=20)},
            waiting: {"created_at": now - timedelta(seconds=30)},
            running: {"state": "running"},
            done: {"state": "succeeded"},
        }.items():
            tx.execute(update(operations).where(operations.c.id == identifier).values(**values))
    told = tell(world)
    found = {
        each.labels["state"]: each.value for each in told.series("sharewright_operations_open", kind="create_share")
    }
    assert found == {"queued": 1, "parked": 2, "running": 1}
    ages = {each.labels["state"]: each.value for each in told.series("sharewright_operations_oldest_age_seconds")}
    assert 100 <= ages["queued"] < 400
    assert 30 <= ages["parked"] < 330


def test_pools_and_services(world: World) -> None:
    pool = f"sharewright@{BACKEND}#{BACKEND}"
    told = tell(world)
    capacity = world.cloud.volumes.capacity()
    assert told.sum("sharewright_pool_total_bytes", pool=pool) == (capacity.total or 0) * GIBIBYTE > 0
    assert told.sum("sharewright_pool_free_bytes", pool=pool) == (capacity.free or 0) * GIBIBYTE > 0
    assert told.sum("sharewright_pool_provisioned_bytes", pool=pool) == 0
    assert len(list(told.series("sharewright_pool_report_age_seconds", pool=pool))) == 1
    binaries = {each.labels["binary"] for each in told.series("sharewright_service_heartbeat_age_seconds")}
    assert "manila-share" in binaries


def test_a_scrape_costs_the_same_however_many_shares(world: World) -> None:
    costs = []
    for _ in range(2):
        world.request_share(1)
        world.request_share(1)
        world.run()
        before = statements.count
        tell(world)
        costs.append(statements.count - before)
    assert costs[0] == costs[1] < 10


def test_with_too_many_shares_only_sums_are_told(world: World) -> None:
    for _ in range(3):
        world.request_share(1)
    world.run()
    told = tell(world, most_detailed_shares=3)
    assert len(list(told.series("sharewright_share_size_bytes"))) == 3
    assert told.sum("sharewright_detailed_metrics") == 1
    for most in (2, 0):
        told = tell(world, most_detailed_shares=most)
        assert {name for name, family in FAMILIES.items() if not family.detailed} == set(told.families)
        labels = {label for family in told.families.values() for sample in family.samples for label in sample.labels}
        assert not any(label.endswith("_id") for label in labels)
        assert told.sum("sharewright_shares") == 3
        assert told.sum("sharewright_detailed_metrics") == 0
