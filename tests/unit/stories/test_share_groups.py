"""The shares of a group go to one backend, however they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sharewright.drivers.contract import PoolStats
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.contract import Operation, WaitFor
from sharewright.operations.create_share import CreateShare
from sharewright.operations.share_groups import fits_group
from sharewright.progress import NoProgress
from sharewright.settings import Backend
from sharewright.store.database import Store
from sharewright.store.tables import share_group_types, share_groups, share_instances
from story_world import PROJECT, USER, World, make_world


def add_group(world: World) -> str:
    kind, identifier = new_id(), new_id()
    with world.store.begin() as tx:
        tx.execute(share_group_types.insert().values(id=kind, name=kind, created_at=utcnow()))
        tx.execute(
            share_groups.insert().values(
                id=identifier,
                project_id=PROJECT,
                user_id=USER,
                status="available",
                share_group_type_id=kind,
                share_network_id=world.share_network_id,
                created_at=utcnow(),
            )
        )
    return identifier


def put(store: Store, share_id: str, backend: str) -> None:
    """As the story writes its choice."""
    with store.begin() as tx:
        tx.execute(share_instances.update().where(share_instances.c.share_id == share_id).values(backend=backend))


class Pool:
    """A driver of a backend with so many GiB, as far as a share's way to its server needs one. ``meanwhile`` runs when
    it is asked for its report, which is after the scheduler has looked at the group."""

    def __init__(self, backend: str, free: float, meanwhile: Callable[[], None] | None = None) -> None:
        self.backend = backend
        self._free = free
        self._meanwhile = meanwhile
        self.prepared: list[str] = []

    def pools(self) -> Sequence[PoolStats]:
        if self._meanwhile is not None:
            self._meanwhile()
        capabilities = {"storage_protocol": "NFS", "driver_handles_share_servers": True}
        return [
            PoolStats(
                pool=self.backend,
                total_capacity=100.0,
                free_capacity=self._free,
                provisioned_capacity=0.0,
                capabilities=capabilities,
            )
        ]

    def prepare_share(self, share_instance_id: str, progress: Any) -> None:
        self.prepared.append(share_instance_id)


def create(world: World, share_id: str, *drivers: Pool) -> str:
    """Run the story until it waits for its server. Returns the backend it chose."""
    by_name: Any = {driver.backend: driver for driver in drivers}
    settings = msgspec.structs.replace(
        world.settings, backends={driver.backend: Backend(cloud="simulated") for driver in drivers}
    )
    operation = Operation(
        id=new_id(),
        kind="create_share",
        resource_type="share",
        resource_id=share_id,
        key=f"share:{share_id}",
        epoch=1,
        worker_id="w",
        deadline=utcnow(),
        project_id=PROJECT,
        user_id=USER,
        request_id="req-1",
    )
    outcome = CreateShare(world.store, by_name, settings).run(operation, NoProgress())
    assert isinstance(outcome, WaitFor)
    backend = str(world.instance(share_id).backend)
    assert by_name[backend].prepared == [world.instance(share_id).id]
    return backend


def test_a_share_follows_its_group(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        group = add_group(world)
        first, second, apart = (world.request_share(share_group_id=each) for each in (group, group, None))
        put(store, first, "small")
        assert create(world, second, Pool("small", 10.0), Pool("large", 90.0)) == "small"
        assert create(world, apart, Pool("small", 10.0), Pool("large", 90.0)) == "large"


def test_a_share_chooses_again_when_another_of_its_group_was_faster(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        group = add_group(world)
        first, second = world.request_share(share_group_id=group), world.request_share(share_group_id=group)
        small = Pool("small", 10.0, meanwhile=lambda: put(store, first, "small"))
        assert create(world, second, small, Pool("large", 90.0)) == "small"


def test_an_empty_group_may_go_anywhere(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        group, other = add_group(world), add_group(world)
        share, elsewhere = world.request_share(share_group_id=group), world.request_share(share_group_id=other)
        put(store, share, "small")
        put(store, elsewhere, "large")
        with store.begin() as tx:
            assert fits_group(tx, group, share, "large")
            assert fits_group(tx, None, share, "large")
            assert fits_group(tx, group, elsewhere, "small")
            assert not fits_group(tx, group, elsewhere, "large")
