"""Backups of shares, told by the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backups_of_shares import a_backup, a_share, back_up, check, delete, deployment, kept, report, restore, row, usage
from sharewright.errors import CloudError, CloudUnavailable, Forbidden, InvalidInput
from sharewright.identifiers import utcnow
from sharewright.operations.messages import Action, Detail
from sharewright.operations.reconciler import reconcile
from sharewright.services import share_transfers
from sharewright.services import shares as share_service
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import operations, pools, share_backups, shares
from story_world import World, make_world


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    """Its driver makes backups."""
    with make_world(store, tmp_path / "state", replicas=True) as world:
        yield world
        check(world)


def source_of(world: World, volume_id: str) -> str | None:
    """The volume of whose snapshot a volume was made, if that snapshot is there still; else the snapshot."""
    with world.cloud.state.transaction(write=False) as tx:
        found = tx.execute("SELECT snapshot_id FROM sources WHERE volume_id = ?", (volume_id,)).fetchone()
    return None if found is None else str(found["snapshot_id"])


def test_a_backup_is_a_volume_of_its_own(world: World) -> None:
    share = a_share(world, size=2)
    backup = back_up(world, share)
    assert world.share(share).status == "backup_creating"
    world.run()
    made = row(world, backup)
    assert (made.status, made.progress, made.size, made.backup_type) == ("available", "100", 2, None)
    assert world.share(share).status == world.instance(share).status == "available"
    assert kept(world, backup) == [made.volume_id]
    assert made.volume_id != world.instance(share).volume_id
    assert source_of(world, made.volume_id) is not None
    assert world.exports(share) == [["10.20.0.99/32", "rw"]]
    assert usage(world) == (1, 2)


def test_restoring(world: World) -> None:
    share = a_share(world)
    backup = a_backup(world, share)
    world.request_extend(share, 3)
    world.run()
    before, locations = world.instance(share), world.locations(share)
    restore(world, backup)
    assert (world.share(share).status, row(world, backup).status) == ("backup_restoring", "restoring")
    world.run()
    after = world.instance(share)
    assert (world.share(share).status, world.share(share).source_backup_id) == ("available", backup)
    assert (row(world, backup).status, row(world, backup).restore_progress) == ("available", "100")
    assert after.volume_id != before.volume_id
    assert (after.size, world.share(share).size) == (3, 3)
    found = world.cloud.volumes.find_volume(after.volume_id)
    assert found is not None
    assert found.size == 3
    assert world.cloud.volumes.find_volume(before.volume_id) is None
    assert kept(world, backup) == [row(world, backup).volume_id]
    assert world.exports(share) == [["10.20.0.99/32", "rw"]]
    assert world.locations(share) == locations
    delete(world, backup)
    world.run()
    assert world.share(share).status == "available"


def test_restoring_to_another_share(world: World) -> None:
    share, other = a_share(world), a_share(world)
    backup = a_backup(world, share)
    before = world.instance(share).volume_id
    if world.instance(other).backend != world.instance(share).backend:
        restore(world, backup, other)
        world.run()
        assert world.share(other).status == "backup_restoring_error"
        (message,) = world.messages(other)
        assert (message.action_id, message.detail_id) == (Action.RESTORE_BACKUP, Detail.TARGETED_RESTORE_UNSUPPORTED)
    else:
        restore(world, backup, other)
        world.run()
        assert world.share(other).status == "available"
        assert world.share(other).source_backup_id == backup
    assert world.instance(share).volume_id == before
    assert row(world, backup).status == "available"


@pytest.mark.parametrize("method", ["ensure_snapshot", "ensure_volume", "delete_snapshot"])
def test_a_failure_leaves_nothing_but_its_message(world: World, method: str) -> None:
    share = a_share(world)
    world.cloud.fail(method, CloudError, times=1)
    backup = back_up(world, share)
    world.run()
    made = row(world, backup)
    assert (made.status, made.progress, made.volume_id, made.snapshot_id) == ("error", "0", None, None)
    assert kept(world, backup) == []
    assert world.share(share).status == "available"
    (message,) = world.messages(backup)
    assert message.action_id == Action.CREATE
    delete(world, backup)
    world.run()
    assert world.rows(share_backups) == []
    assert usage(world) == (0, 0)


def test_a_fault_that_passes_is_not_noticed(world: World) -> None:
    share = a_share(world)
    world.cloud.fail("ensure_volume", CloudUnavailable, times=2)
    a_backup(world, share)


@pytest.mark.parametrize("method", ["ensure_snapshot", "ensure_volume", "attach_volume"])
def test_a_restore_that_fails_leaves_both_as_they_were(world: World, method: str) -> None:
    share = a_share(world)
    backup = a_backup(world, share)
    before = world.instance(share).volume_id
    world.cloud.fail(method, CloudError, times=1)
    restore(world, backup)
    world.run()
    assert world.share(share).status == "backup_restoring_error"
    assert world.instance(share).volume_id == before
    assert world.exports(share) == [["10.20.0.99/32", "rw"]]
    assert row(world, backup).status == "available"
    (message,) = world.messages(share)
    assert message.action_id == Action.RESTORE_BACKUP
    restore(world, backup)  # again, without an administrator
    world.run()
    assert world.share(share).status == "available"
    assert world.instance(share).volume_id != before


def test_a_failed_deletion_may_be_asked_for_again(world: World) -> None:
    backup = a_backup(world, a_share(world))
    world.cloud.fail("delete_volume", CloudError, times=1)
    delete(world, backup)
    world.run()
    assert row(world, backup).status == "error_deleting"
    assert len(world.messages(backup)) == 1
    delete(world, backup)
    world.run()
    assert world.rows(share_backups) == []


@pytest.mark.parametrize("status", ["creating", "restoring", "deleting", "error", "error_deleting"])
def test_deleted_from_every_state_once_it_is_reset(world: World, status: str) -> None:
    backup = a_backup(world, a_share(world))
    write(world, backup, status=status)
    if status in ("creating", "restoring", "deleting"):
        with pytest.raises(InvalidInput):
            delete(world, backup)
        write(world, backup, status="error")
    delete(world, backup)
    world.run()
    assert world.rows(share_backups) == []


def test_what_an_operation_left_in_passage_is_continued(world: World) -> None:
    """Where it ended without saying so, as when the database could not be written to."""
    share = a_share(world)
    world.cloud.fail("ensure_volume", CloudError, times=-1)
    backup = back_up(world, share)
    world.run()
    world.cloud.forgive()
    with world.store.begin() as tx:
        tx.execute(shares.update().where(shares.c.id == share).values(status="backup_creating"))
        mine = operations.c.resource_id == backup
        tx.execute(operations.update().where(mine).values(finished_at=utcnow() - timedelta(days=1)))
    write(world, backup, status="creating")
    assert world.rows(operations, resource_id=backup)[0].state == OperationState.FAILED
    reconcile(world.store, world.settings, backends=list(world.settings.backends))
    world.run()
    assert row(world, backup).status == "available"
    assert world.share(share).status == "available"


def test_what_may_not_be(world: World) -> None:
    share = a_share(world)
    context, api = world.context(), deployment(world)
    with pytest.raises(InvalidInput, match="makes no backups"):
        unsupported(world, share)
    report(world, share)
    backup = back_up(world, share, backup_type="eternal")
    with pytest.raises(InvalidInput, match="backup_creating"):
        back_up(world, share)
    with pytest.raises(InvalidInput, match="creating"):
        restore(world, backup)
    world.run()
    with pytest.raises(InvalidInput, match="whose backup_type is 'eternal'"):
        back_up(world, share, backup_type="dummy")
    with pytest.raises(Forbidden, match="1 dependent backups"):
        share_service.delete(api, context, share)
    with world.store.begin() as tx:
        tx.execute(shares.update().values(share_network_id=None))
    with pytest.raises(InvalidInput, match="1 dependent backups"):
        share_transfers.create(api, context, share, None)
    with world.store.begin() as tx:
        tx.execute(shares.update().values(share_network_id=world.share_network_id, size=1))
    write(world, backup, size=2)
    with pytest.raises(InvalidInput, match="too small"):
        restore(world, backup)
    write(world, backup, size=1)
    world.request_snapshot(share)
    world.run()
    with pytest.raises(InvalidInput, match="while it has snapshots"):
        back_up(world, share)


def unsupported(world: World, share: str) -> None:
    """Ask a pool that does not say that it makes backups."""
    with world.store.begin() as tx:
        tx.execute(pools.update().values(capabilities={}))
    back_up(world, share)


def write(world: World, backup: str, **values: Any) -> None:
    with world.store.begin() as tx:
        tx.execute(share_backups.update().where(share_backups.c.id == backup).values(**values))


def test_until_a_restore_is_over_a_boot_finds_both_volumes_by_serial(world: World) -> None:
    """They have the same file system, as the one is a copy of what the other was."""
    share = a_share(world)
    backup = a_backup(world, share)
    seen: list[tuple[str, bool, str]] = []
    apply = world.guests.apply

    def watch(address: Any, document: Any, *, timeout: float) -> Any:
        (told,) = document.shares
        seen.append((told.serial, told.by_serial, told.replaces))
        return apply(address, document, timeout=timeout)

    old = world.instance(share).volume_serial
    world.guests.apply = watch  # type: ignore[method-assign]
    restore(world, backup)
    world.run()
    new = world.instance(share).volume_serial
    assert seen[:2] == [(old, True, ""), (new, True, old)]
