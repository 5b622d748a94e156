"""Every kind of work there is."""

from __future__ import annotations

from collections.abc import Mapping

from sharewright.drivers.contract import ShareDriver
from sharewright.operations.add_subnet import AddSubnet
from sharewright.operations.cancel_migration import CancelShareMigration
from sharewright.operations.complete_migration import CompleteShareMigration
from sharewright.operations.complete_server_migration import CompleteServerMigration
from sharewright.operations.contract import Story
from sharewright.operations.create_backup import CreateBackup
from sharewright.operations.create_group_snapshot import CreateGroupSnapshot, FinishGroupSnapshot
from sharewright.operations.create_replica import CreateReplica
from sharewright.operations.create_share import CreateShare
from sharewright.operations.create_share_group import CreateShareGroup
from sharewright.operations.create_share_server import CreateShareServer
from sharewright.operations.create_snapshot import CreateSnapshot, FinishSnapshot
from sharewright.operations.delete_backup import DeleteBackup
from sharewright.operations.delete_group_snapshot import DeleteGroupSnapshot
from sharewright.operations.delete_replica import DeleteReplica
from sharewright.operations.delete_share import DeleteShare
from sharewright.operations.delete_share_server import DeleteShareServer
from sharewright.operations.delete_snapshot import DeleteSnapshot
from sharewright.operations.extend_share import ExtendShare
from sharewright.operations.heal_server import HealServer
from sharewright.operations.manage_share import ManageShare, UnmanageShare
from sharewright.operations.manage_share_server import ManageShareServer, UnmanageShareServer
from sharewright.operations.manage_snapshot import ManageSnapshot, UnmanageSnapshot
from sharewright.operations.migrate_share import StartShareMigration
from sharewright.operations.migrate_share_server import CancelServerMigration, StartServerMigration
from sharewright.operations.promote_replica import PromoteReplica
from sharewright.operations.restore_backup import RestoreBackup
from sharewright.operations.revert_to_snapshot import RevertToSnapshot
from sharewright.operations.shrink_share import ShrinkShare
from sharewright.operations.update_access import UpdateAccess
from sharewright.operations.update_replica import UpdateReplica
from sharewright.operations.update_snapshot_access import UpdateSnapshotAccess
from sharewright.settings import Settings
from sharewright.store.database import Store


def make_stories(store: Store, drivers: Mapping[str, ShareDriver], settings: Settings) -> dict[str, Story]:
    """Kind → story, for the worker."""
    stories: list[Story] = [
        CreateShare(store, drivers, settings),
        DeleteShare(store, drivers),
        ExtendShare(store, drivers, settings),
        ShrinkShare(store, drivers),
        ManageShare(store, drivers, settings),
        UnmanageShare(store, drivers),
        UpdateAccess(store, drivers),
        CreateReplica(store, drivers, settings),
        DeleteReplica(store, drivers),
        PromoteReplica(store, drivers),
        UpdateReplica(store, drivers),
        StartShareMigration(store, drivers, settings),
        CompleteShareMigration(store, drivers),
        CancelShareMigration(store, drivers),
        StartServerMigration(store, drivers, settings),
        CompleteServerMigration(store, drivers, settings),
        CancelServerMigration(store),
        CreateSnapshot(store, drivers),
        FinishSnapshot(store, drivers),
        DeleteSnapshot(store, drivers),
        UpdateSnapshotAccess(store, drivers),
        CreateGroupSnapshot(store, drivers),
        FinishGroupSnapshot(store, drivers),
        DeleteGroupSnapshot(store, drivers),
        CreateShareGroup(store, drivers, settings),
        RevertToSnapshot(store, drivers, settings),
        CreateBackup(store, drivers),
        DeleteBackup(store, drivers),
        RestoreBackup(store, drivers),
        ManageSnapshot(store, drivers),
        UnmanageSnapshot(store, drivers),
        CreateShareServer(store, drivers, settings),
        DeleteShareServer(store, drivers),
        ManageShareServer(store, drivers),
        UnmanageShareServer(store, drivers),
        HealServer(store, drivers),
        AddSubnet(store, drivers),
    ]
    return {story.kind: story for story in stories}
