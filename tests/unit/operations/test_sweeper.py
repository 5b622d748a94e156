"""What the sweeper takes away, and above all what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from engine_help import add
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from sharewright.clouds.contract import (
    TAG_BACKEND,
    TAG_DEPLOYMENT,
    TAG_OWNER,
    Flavor,
    InstanceSpec,
    PortSpec,
    ServiceSubnetSpec,
    SnapshotSpec,
    VolumeSpec,
)
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.errors import CloudUnavailable
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.sweeper import ORDER, OWNER_TABLES, OWNERS, Sighting, Sweeper, choose_orphans, sight
from sharewright.settings import Simulated
from sharewright.store.database import Store
from sharewright.store.tables import NEVER, metadata, service_subnets, share_servers

# ---- the decision ----

KINDS = st.sampled_from(ORDER)
OWNER = st.sampled_from([f"share_server:{number}" for number in range(5)])
SIGHTING = st.builds(
    Sighting, cloud=st.just("c"), kind=KINDS, id=st.uuids().map(str), owner=OWNER, attached_to=st.none()
)


@given(
    sightings=st.lists(SIGHTING, max_size=20),
    living=st.frozensets(OWNER),
    busy=st.frozensets(OWNER),
    ages=st.lists(st.floats(0, 1000), min_size=20, max_size=20),
    grace=st.floats(0.1, 1000),
)
def test_only_what_is_unowned_idle_and_old_enough(
    sightings: list[Sighting], living: frozenset[str], busy: frozenset[str], ages: list[float], grace: float
) -> None:
    first_seen = {sighting.name: -age for sighting, age in zip(sightings, ages, strict=False)}
    chosen = choose_orphans(sightings, living=living, busy=busy, first_seen=first_seen, now=0.0, grace=grace)
    for sighting in sightings:
        wanted = (
            sighting.owner not in living | busy and sighting.name in first_seen and -first_seen[sighting.name] >= grace
        )
        assert (sighting in chosen) == wanted
    order = [ORDER.index(sighting.kind) for sighting in chosen]
    assert order == sorted(order), "what holds others goes first"


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {TAG_DEPLOYMENT: "ours"},
        {TAG_OWNER: "share_server:1"},
        {TAG_DEPLOYMENT: "theirs", TAG_OWNER: "share_server:1"},
        {TAG_DEPLOYMENT: "ours", TAG_OWNER: "share_server:"},
        {TAG_DEPLOYMENT: "ours", TAG_OWNER: "image:1"},
        {TAG_DEPLOYMENT: "ours", TAG_OWNER: "1"},
    ],
)
def test_what_is_not_surely_ours_is_not_even_seen(tags: dict[str, str]) -> None:
    assert sight("c", "volume", "v", tags, "ours") is None


# ---- with a cloud and a store ----


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[SimulatedCloud]:
    cloud = SimulatedCloud(Simulated(), deployment="ours", path=tmp_path / "cloud.db")
    yield cloud
    cloud.close()


def tags(owner: str) -> dict[str, str]:
    return {TAG_DEPLOYMENT: "ours", TAG_BACKEND: "alpha", TAG_OWNER: owner}


def populate(cloud: SimulatedCloud, server: str, share_instance: str, subnet_row: str) -> None:
    """A server with one volume attached, all tagged as the layers below do it."""
    subnet = cloud.networks.ensure_service_subnet(
        ServiceSubnetSpec(
            name=f"sharewright-{subnet_row}",
            cidr=IPv4Network("10.254.0.0/28"),
            tags=tags(f"service_subnet:{subnet_row}"),
        ),
        timeout=5,
    )
    port = cloud.networks.ensure_port(
        PortSpec(name=f"{server}-service", subnet=subnet, tags=tags(f"share_server:{server}"), allowed_tcp=(22,)),
        timeout=5,
    )
    instance = cloud.compute.ensure_instance(
        InstanceSpec(
            name=f"manila-{server}",
            image="image",
            flavor=Flavor(),
            ports=(port,),
            files={},
            tags=tags(f"share_server:{server}"),
        ),
        timeout=5,
    )
    volume = cloud.volumes.ensure_volume(
        VolumeSpec(name=f"manila-share-{share_instance}", size=1, tags=tags(f"share_instance:{share_instance}")),
        timeout=5,
    )
    cloud.compute.attach_volume(instance.id, volume.id, timeout=5)


def objects(cloud: SimulatedCloud) -> int:
    return (
        len(cloud.volumes.list_volumes())
        + len(cloud.compute.list_instances())
        + len(cloud.networks.list_ports())
        + len(cloud.networks.list_service_subnets())
    )


def sweeper(store: Store, cloud: SimulatedCloud) -> tuple[Sweeper, Clock]:
    clock = Clock()
    return Sweeper(store, {"simulated": cloud}, grace_seconds=100, clock=clock), clock


def insert_server(store: Store, server: str) -> None:
    with store.begin() as tx:
        tx.execute(
            share_servers.insert().values(
                id=server, project_id="p", backend="alpha", host="n1@alpha", status="active", created_at=utcnow()
            )
        )


def test_orphans_of_every_kind_go_after_the_grace_time(store: Store, cloud: SimulatedCloud) -> None:
    populate(cloud, new_id(), new_id(), new_id())
    sweep, clock = sweeper(store, cloud)
    assert sweep.sweep() == []
    clock.now = 99
    assert sweep.sweep() == []
    assert objects(cloud) == 4
    clock.now = 101
    assert [orphan.kind for orphan in sweep.sweep()] == ["instance", "volume", "port", "service_subnet"]
    assert objects(cloud) == 0
    assert sweep.sweep() == []


def test_an_owner_that_comes_back_starts_the_time_anew(sqlite_store: Store, cloud: SimulatedCloud) -> None:
    server = new_id()
    populate(cloud, server, new_id(), new_id())
    sweep, clock = sweeper(sqlite_store, cloud)
    sweep.sweep()
    insert_server(sqlite_store, server)
    clock.now = 200
    sweep.sweep()
    with sqlite_store.begin() as tx:
        tx.execute(share_servers.delete())
    clock.now = 250
    assert sweep.sweep() == []


def test_what_has_its_row_stays(store: Store, cloud: SimulatedCloud) -> None:
    server, subnet = new_id(), new_id()
    populate(cloud, server, new_id(), subnet)
    insert_server(store, server)
    with store.begin() as tx:
        tx.execute(
            service_subnets.insert().values(
                id=subnet, pool="10.254.0.0/16", cidr="10.254.0.0/28", backend="alpha", layout="tenant",
                created_at=utcnow(),
            )
        )  # fmt: skip
    sweep, clock = sweeper(store, cloud)
    sweep.sweep()
    clock.now = 1000
    assert [orphan.kind for orphan in sweep.sweep()] == ["volume"], "detached from the living server first"
    assert objects(cloud) == 3


def test_orphaned_snapshots_go_before_their_volumes(store: Store, cloud: SimulatedCloud) -> None:
    instance = new_id()
    volume = cloud.volumes.ensure_volume(
        VolumeSpec(name="v", size=1, tags=tags(f"share_instance:{instance}")), timeout=5
    )
    owners = [f"share_instance:{instance}", "share_network:1"]  # the last is no owner that the sweeper understands
    for owner in owners:
        spec = SnapshotSpec(name=f"snapshot of {owner}", volume_id=volume.id, tags=tags(owner))
        cloud.volumes.ensure_snapshot(spec, timeout=5)
    sweep, clock = sweeper(store, cloud)
    assert sweep.sweep() == []
    clock.now = 101
    assert [orphan.kind for orphan in sweep.sweep()] == ["snapshot"], "the volume still has one"
    (left,) = cloud.volumes.list_snapshots()
    assert left.tags[TAG_OWNER] == "share_network:1"
    cloud.volumes.delete_snapshot(left.id, timeout=5)
    assert [orphan.kind for orphan in sweep.sweep()] == ["volume"]


def test_snapshots_of_owners_with_a_table_are_understood() -> None:
    assert set(OWNERS) <= set(OWNER_TABLES)
    for owner in OWNER_TABLES:
        sighting = sight("c", "snapshot", "s", tags(f"{owner}:1"), "ours")
        assert (sighting is not None) == (OWNER_TABLES[owner] in metadata.tables)


@pytest.mark.parametrize("where", ["resource", "payload", "facts"])
def test_what_an_open_operation_mentions_stays(sqlite_store: Store, cloud: SimulatedCloud, where: str) -> None:
    server, instance = new_id(), new_id()
    populate(cloud, server, instance, new_id())
    options: dict[str, Any] = {"resource": server if where == "resource" else "r"}
    if where == "payload":
        options["payload"] = {"moves": [{"from": server}]}
    identifier = add(sqlite_store, **options)
    if where == "facts":
        from engine_help import change

        change(sqlite_store, identifier, facts={"made": server})
    sweep, clock = sweeper(sqlite_store, cloud)
    sweep.sweep()
    clock.now = 1000
    gone = sweep.sweep()
    assert {orphan.owner.partition(":")[0] for orphan in gone} <= {"share_instance", "service_subnet"}
    assert len(cloud.compute.list_instances()) == len(cloud.networks.list_ports()) == 1


def test_a_cloud_that_does_not_answer_is_left_for_the_next_round(sqlite_store: Store, cloud: SimulatedCloud) -> None:
    populate(cloud, new_id(), new_id(), new_id())
    sweep, clock = sweeper(sqlite_store, cloud)
    sweep.sweep()
    clock.now = 150
    cloud.fail("list_ports", CloudUnavailable, times=1)
    assert sweep.sweep() == []
    cloud.fail("delete_instance", CloudUnavailable, times=1)
    assert "instance" not in [orphan.kind for orphan in sweep.sweep()]
    sweep.sweep()
    assert objects(cloud) == 0


def test_servers_whose_vm_does_not_run_are_looked_at_next(store: Store, cloud: SimulatedCloud) -> None:
    sound, stopped, gone = new_id(), new_id(), new_id()
    subnet = new_id()
    populate(cloud, sound, new_id(), subnet)
    for server in (sound, stopped, gone):
        insert_server(store, server)
    instance = cloud.compute.ensure_instance(
        InstanceSpec(
            name=f"manila-{stopped}", image="image", flavor=Flavor(), ports=(), files={},
            tags=tags(f"share_server:{stopped}"),
        ),
        timeout=5,
    )  # fmt: skip
    cloud.compute.stop_instance(instance.id)
    with store.begin() as tx:
        tx.execute(share_servers.update().values(looked_at=utcnow()))
    sweep, _ = sweeper(store, cloud)
    cloud.fail("list_ports", CloudUnavailable)
    sweep.sweep()
    assert next_in_turn(store) == set(), "nothing can be said from a list that is not complete"
    sweep.sweep()
    assert next_in_turn(store) == {stopped, gone}


def next_in_turn(store: Store) -> set[str]:
    with store.read() as tx:
        return set(tx.scalars(select(share_servers.c.id).where(share_servers.c.looked_at == NEVER)))


def test_backends_on_one_cloud_share_one_look(sqlite_store: Store, cloud: SimulatedCloud) -> None:
    cloud.reset_calls()
    Sweeper(sqlite_store, {"one": cloud, "two": cloud}).sweep()
    assert cloud.calls()["list_volumes"] == 1
