"""Manila's states, with what each means here. The tables of allowed transitions are in services/."""

from __future__ import annotations

from typing import Final


class ShareStatus:
    """Status of a share and of its instances (Manila API reference, "shares")."""

    CREATING: Final = "creating"  # accepted; a create_share operation exists
    AVAILABLE: Final = "available"  # formatted, mounted, exported; rules may follow
    ERROR: Final = "error"  # creation failed and was compensated; a user message says why; delete works
    DELETING: Final = "deleting"  # a delete_share operation exists
    ERROR_DELETING: Final = "error_deleting"  # deletion failed; delete may be asked for again
    REPLICATION_CHANGE: Final = "replication_change"  # of a replica: a promote_replica operation exists
    EXTENDING: Final = "extending"  # an extend_share operation exists; clients go on
    EXTENDING_ERROR: Final = "extending_error"  # served at the size it had; extend may be asked for again, delete works
    SHRINKING: Final = "shrinking"  # a shrink_share operation exists; clients go on, and once wait for a moment
    SHRINKING_ERROR: Final = "shrinking_error"  # served as it was; shrink may be asked for again, delete works
    REVERTING: Final = "reverting"  # a revert_to_snapshot operation exists
    REVERTING_ERROR: Final = "reverting_error"  # served as it was before; revert may be asked for again, delete works
    MANAGE_STARTING: Final = "manage_starting"  # a manage_share operation exists
    MANAGE_ERROR: Final = "manage_error"  # its volume was not taken over; unmanage leaves it there, delete is refused
    UNMANAGE_STARTING: Final = "unmanage_starting"  # an unmanage_share operation exists
    UNMANAGE_ERROR: Final = "unmanage_error"  # not served any more; unmanage may be asked for again, delete works
    BACKUP_CREATING: Final = "backup_creating"  # a create_backup operation exists; clients go on
    BACKUP_RESTORING: Final = "backup_restoring"  # a restore_backup operation exists
    BACKUP_RESTORING_ERROR: Final = "backup_restoring_error"  # served as before; restore and delete work
    MIGRATING: Final = "migrating"  # it is being moved, and served where it is; see its task_state
    MIGRATING_TO: Final = "migrating_to"  # of the instance that it will be
    INACTIVE: Final = "inactive"  # of the instance that it was, until that is gone
    SERVER_MIGRATING: Final = "server_migrating"  # its share server is being moved
    ALL: Final = (
        "creating", "creating_from_snapshot", "available", "error", "deleting", "deleted", "error_deleting",
        "manage_starting", "manage_error", "unmanage_starting", "unmanage_error", "unmanaged",
        "extending", "extending_error", "shrinking", "shrinking_error", "shrinking_possible_data_loss_error",
        "migrating", "migrating_to", "replication_change", "reverting", "reverting_error", "restoring",
        "awaiting_transfer", "backup_creating", "backup_restoring", "backup_restoring_error",
        "server_migrating", "server_migrating_to", "ensuring", "network_change", "inactive",
    )  # fmt: skip


class BackupStatus:
    """A share backup's status; its share is ``backup_creating`` or ``backup_restoring`` meanwhile."""

    CREATING: Final = "creating"
    AVAILABLE: Final = "available"
    RESTORING: Final = "restoring"  # a restore_backup operation exists
    DELETING: Final = "deleting"
    ERROR: Final = "error"  # nothing of it is kept; delete works
    ERROR_DELETING: Final = "error_deleting"  # delete may be asked for again
    ALL: Final = ("creating", "available", "restoring", "deleting", "error", "error_deleting")


WRITABLE: Final = "writable"  # the replication type all of whose replicas are active: clients write to any of them


class TaskState:
    """``task_state`` of a share or a share server: how far its migration is, or how the last one ended (Manila's
    names; those of data_copying_* are of a migration that no driver does, and nothing here sets them)."""

    STARTING: Final = "migration_starting"  # accepted
    IN_PROGRESS: Final = "migration_in_progress"  # its place is being made
    DRIVER_STARTING: Final = "migration_driver_starting"
    DRIVER_IN_PROGRESS: Final = "migration_driver_in_progress"  # the first phase; may be cancelled
    PHASE1_DONE: Final = "migration_driver_phase1_done"  # may be completed or cancelled
    COMPLETING: Final = "migration_completing"
    CANCELLING: Final = "migration_cancel_in_progress"
    SUCCESS: Final = "migration_success"
    ERROR: Final = "migration_error"
    CANCELLED: Final = "migration_cancelled"
    FIRST_PHASE: Final = frozenset(
        {"migration_starting", "migration_in_progress", "migration_driver_starting", "migration_driver_in_progress"}
    )


class ReplicaState:
    """What a replica holds (Manila API reference, "share replicas"); its status says whether it is there."""

    ACTIVE: Final = "active"  # clients write to it
    IN_SYNC: Final = "in_sync"  # may be promoted
    OUT_OF_SYNC: Final = "out_of_sync"  # only an administrator may promote it
    ERROR: Final = "error"  # the driver could not say
    ALL: Final = ("active", "in_sync", "out_of_sync", "error")


class ShareGroupStatus:
    """Status of a share group (Manila API reference, "share groups"). A group is rows only: nothing is made for it."""

    CREATING: Final = (
        "creating"  # its shares are being made from a group snapshot; a create_share_group operation exists
    )
    AVAILABLE: Final = "available"  # shares may be created in it
    ERROR: Final = "error"  # no backend has what its type asks for, or shares are missing; a user message; delete works
    ALL: Final = ("available", "error", "creating", "deleting", "error_deleting")


class ShareGroupSnapshotStatus:
    """Status of a share group snapshot and of its members (Manila API reference, "share group snapshots")."""

    CREATING: Final = "creating"  # accepted; a create_group_snapshot or finish_group_snapshot operation exists
    AVAILABLE: Final = "available"  # all shares stood still from the first member's moment to the last one's
    ERROR: Final = "error"  # there is none; a user message says why; delete works
    DELETING: Final = "deleting"  # a delete_group_snapshot operation exists
    ERROR_DELETING: Final = "error_deleting"  # deletion failed; delete may be asked for again
    ALL: Final = ("available", "error", "creating", "deleting", "error_deleting")


class SnapshotStatus:
    """Status of a share's snapshot and of its instances (Manila API reference, "share snapshots")."""

    CREATING: Final = "creating"  # accepted; a create_snapshot or finish_snapshot operation exists
    AVAILABLE: Final = "available"  # its moment was one of a frozen file system, and the cloud has it whole
    ERROR: Final = "error"  # there is none; a user message says why; delete works
    DELETING: Final = "deleting"  # a delete_snapshot operation exists
    ERROR_DELETING: Final = "error_deleting"  # deletion failed; delete may be asked for again
    MANAGE_STARTING: Final = "manage_starting"  # a manage_snapshot operation exists
    MANAGE_ERROR: Final = "manage_error"  # it was not taken over; unmanage, and delete as well, leave it in the cloud
    UNMANAGE_STARTING: Final = "unmanage_starting"  # an unmanage_snapshot operation exists
    UNMANAGE_ERROR: Final = "unmanage_error"  # unmanage may be asked for again
    RESTORING: Final = "restoring"  # its share is being reverted to it
    MIGRATING: Final = "migrating"  # its share is being moved, and it as well
    SERVER_MIGRATING: Final = "server_migrating"  # its share's server is being moved
    ALL: Final = (
        "available", "error", "creating", "deleting", "manage_starting", "manage_error", "unmanage_starting",
        "unmanage_error", "error_deleting", "restoring", "migrating", "server_migrating",
    )  # fmt: skip


class AccessState:
    """State of one access rule (Manila microversion 2.28 on)."""

    QUEUED_TO_APPLY: Final = "queued_to_apply"  # accepted; an update_access operation exists
    APPLYING: Final = "applying"  # the guest is being told
    ACTIVE: Final = "active"  # the guest confirmed it
    ERROR: Final = "error"  # the guest refused this rule; others are unaffected
    QUEUED_TO_DENY: Final = "queued_to_deny"
    DENYING: Final = "denying"
    TRANSITIONAL: Final = frozenset({"queued_to_apply", "applying", "queued_to_deny", "denying"})
    LEAVING: Final = frozenset({"queued_to_deny", "denying"})


class AccessRulesStatus:
    """``access_rules_status`` of a share: the sum of its rules' states."""

    ACTIVE: Final = "active"
    SYNCING: Final = "syncing"
    ERROR: Final = "error"


class ServerStatus:
    """Status of a share server (Manila API reference, "share servers")."""

    CREATING: Final = "creating"
    ACTIVE: Final = "active"
    ERROR: Final = "error"  # could not be made, or is unreachable and could not be healed
    DELETING: Final = "deleting"
    INACTIVE: Final = "inactive"  # its shares are on another one, or it was made for some that stayed; it is removed
    MIGRATING: Final = "server_migrating"  # it serves its shares, until they move to another one; see its task_state
    MIGRATING_TO: Final = "server_migrating_to"  # of that one
    MANAGE_STARTING: Final = "manage_starting"  # a manage_share_server operation exists
    MANAGE_ERROR: Final = "manage_error"  # its VM was not taken over; unmanage, and delete as well, leave it there
    UNMANAGE_STARTING: Final = "unmanage_starting"  # an unmanage_share_server operation exists
    UNMANAGE_ERROR: Final = "unmanage_error"  # in service as before, but for new shares; unmanage and delete work
    # The API does not show it: the row keeps what its VM needs to be managed again, and keeps the VM from the sweeper.
    UNMANAGED: Final = "unmanaged"


class NetworkStatus:
    """Status of a share network (Manila API reference, "share networks")."""

    ACTIVE: Final = "active"
    NETWORK_CHANGE: Final = "network_change"  # share servers are getting a NIC on another subnet; shares go on
    ERROR: Final = "error"


class OperationState:
    """State of one operation row."""

    QUEUED: Final = "queued"  # may be claimed when not_before has passed, nothing it waits for is open, its key is free
    RUNNING: Final = "running"  # claimed under a lease; after lease_expires anybody may claim it again
    SUCCEEDED: Final = "succeeded"
    FAILED: Final = "failed"
    OPEN: Final = frozenset({"queued", "running"})
