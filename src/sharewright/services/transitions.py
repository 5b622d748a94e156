"""State machines: what a request may do to a thing in which state, and what it becomes.

Work that is under way moves states on in operations/; this table is about requests. From every state in which nothing
is under way, deleting is allowed, except of what was never ours; an administrator may force it, or reset the status,
from all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sharewright.errors import Conflict, Forbidden, InvalidInput, SharewrightError
from sharewright.states import (
    BackupStatus,
    NetworkStatus,
    ServerStatus,
    ShareGroupSnapshotStatus,
    ShareGroupStatus,
    ShareStatus,
    SnapshotStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """``sources``: states it is allowed from; ``target``: the state it leads to at once (None: the same)."""

    sources: frozenset[str]
    target: str | None
    refusal: type[SharewrightError] = Forbidden
    hint: str = ""

    def check(self, what: str, identifier: str, status: str) -> None:
        """Raise the refusal when the state does not allow it."""
        if status not in self.sources:
            raise self.refusal(
                f"{what} {identifier} is in status '{status}'; it must be one of {', '.join(sorted(self.sources))}.",
                hint=self.hint,
            )


# Nothing is under way in these, so a user may delete, whatever went wrong before.
_RESTING: Final = frozenset(
    {
        "available", "error", "inactive", "error_deleting", "manage_error", "unmanage_error", "extending_error",
        "shrinking_error", "shrinking_possible_data_loss_error", "reverting_error", "backup_restoring_error",
    }
)  # fmt: skip
# Manila refuses rules on a share without a host or in any of these, and new ones also on a share in error.
_NO_RULES_IN: Final = frozenset(
    {
        "creating", "creating_from_snapshot", "deleting", "deleted", "error_deleting", "manage_starting",
        "manage_error", "unmanage_starting", "unmanage_error", "unmanaged", "migrating", "migrating_to",
        "server_migrating", "server_migrating_to", "restoring", "reverting", "extending", "shrinking", "inactive",
        "backup_creating", "backup_restoring",
    }
)  # fmt: skip

SHARE: Final[Mapping[str, Transition]] = {
    # What could not be managed is somebody else's, so that it is unmanaged; a forced deletion gives it back, too.
    "delete": Transition(
        sources=_RESTING - {ShareStatus.MANAGE_ERROR},
        target=ShareStatus.DELETING,
        hint="Wait until nothing is under way. What could not be managed (manage_error) is unmanaged instead.",
    ),
    "force_delete": Transition(sources=frozenset(ShareStatus.ALL), target=ShareStatus.DELETING),
    "extend": Transition(
        sources=frozenset({ShareStatus.AVAILABLE, ShareStatus.EXTENDING_ERROR}),
        target=ShareStatus.EXTENDING,
        refusal=InvalidInput,
    ),
    "snapshot": Transition(sources=frozenset({ShareStatus.AVAILABLE}), target=None, refusal=InvalidInput),
    "shrink": Transition(
        sources=frozenset({ShareStatus.AVAILABLE, ShareStatus.SHRINKING_ERROR, "shrinking_possible_data_loss_error"}),
        target=ShareStatus.SHRINKING,
        refusal=InvalidInput,
    ),
    "revert": Transition(
        sources=frozenset({ShareStatus.AVAILABLE, ShareStatus.REVERTING_ERROR}),
        target=ShareStatus.REVERTING,
        refusal=Conflict,
    ),
    "backup": Transition(
        sources=frozenset({ShareStatus.AVAILABLE}), target=ShareStatus.BACKUP_CREATING, refusal=InvalidInput
    ),
    "restore_backup": Transition(  # also again, which Manila leaves to administrators
        sources=frozenset({ShareStatus.AVAILABLE, ShareStatus.BACKUP_RESTORING_ERROR}),
        target=ShareStatus.BACKUP_RESTORING,
        refusal=InvalidInput,
    ),
    "unmanage": Transition(sources=_RESTING, target=ShareStatus.UNMANAGE_STARTING),
    "allow_access": Transition(
        sources=frozenset(ShareStatus.ALL) - _NO_RULES_IN - {ShareStatus.ERROR}, target=None, refusal=InvalidInput
    ),
    "deny_access": Transition(sources=frozenset(ShareStatus.ALL) - _NO_RULES_IN, target=None, refusal=InvalidInput),
}

SNAPSHOT: Final[Mapping[str, Transition]] = {
    "delete": Transition(
        sources=frozenset(
            {SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR, SnapshotStatus.ERROR_DELETING, "manage_error",
             "unmanage_error"}
        ),
        target=SnapshotStatus.DELETING,
        refusal=InvalidInput,
    ),
    "revert": Transition(
        sources=frozenset({SnapshotStatus.AVAILABLE}), target=SnapshotStatus.RESTORING, refusal=Conflict
    ),
    "allow_access": Transition(sources=frozenset({SnapshotStatus.AVAILABLE}), target=None, refusal=InvalidInput),
    "unmanage": Transition(
        sources=frozenset(
            {SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR, SnapshotStatus.ERROR_DELETING,
             SnapshotStatus.MANAGE_ERROR, SnapshotStatus.UNMANAGE_ERROR}
        ),
        target=SnapshotStatus.UNMANAGE_STARTING,
    ),
    # What moves with its share is left alone until that has ended.
    "force_delete": Transition(
        sources=frozenset(SnapshotStatus.ALL) - {SnapshotStatus.MIGRATING, SnapshotStatus.SERVER_MIGRATING},
        target=SnapshotStatus.DELETING,
    ),
}  # fmt: skip

BACKUP: Final[Mapping[str, Transition]] = {
    "delete": Transition(
        sources=frozenset({BackupStatus.AVAILABLE, BackupStatus.ERROR, BackupStatus.ERROR_DELETING}),
        target=BackupStatus.DELETING,
        refusal=InvalidInput,
    ),
    "restore": Transition(
        sources=frozenset({BackupStatus.AVAILABLE}), target=BackupStatus.RESTORING, refusal=InvalidInput
    ),
}

SHARE_GROUP: Final[Mapping[str, Transition]] = {
    "delete": Transition(
        sources=frozenset({ShareGroupStatus.AVAILABLE, ShareGroupStatus.ERROR, "error_deleting"}),
        target=None,
        refusal=Conflict,
    ),
    "force_delete": Transition(sources=frozenset(ShareGroupStatus.ALL), target=None),
}

SHARE_GROUP_SNAPSHOT: Final[Mapping[str, Transition]] = {
    "delete": Transition(
        sources=frozenset(
            {
                ShareGroupSnapshotStatus.AVAILABLE,
                ShareGroupSnapshotStatus.ERROR,
                ShareGroupSnapshotStatus.ERROR_DELETING,
            }
        ),
        target=ShareGroupSnapshotStatus.DELETING,
        refusal=Conflict,
    ),
    "force_delete": Transition(
        sources=frozenset(ShareGroupSnapshotStatus.ALL), target=ShareGroupSnapshotStatus.DELETING
    ),
}

SHARE_SERVER: Final[Mapping[str, Transition]] = {
    "delete": Transition(
        sources=frozenset(
            {ServerStatus.ACTIVE, ServerStatus.ERROR, ServerStatus.INACTIVE, ServerStatus.MANAGE_ERROR,
             ServerStatus.UNMANAGE_ERROR}
        ),
        target=ServerStatus.DELETING,
    ),
    "unmanage": Transition(
        sources=frozenset(
            {ServerStatus.ACTIVE, ServerStatus.ERROR, ServerStatus.MANAGE_ERROR, ServerStatus.UNMANAGE_ERROR}
        ),
        target=ServerStatus.UNMANAGE_STARTING,
        refusal=InvalidInput,
    ),
}  # fmt: skip
SHARE_SERVER_STATUSES: Final = (
    "active", "error", "deleting", "creating", "inactive", "manage_starting", "manage_error", "unmanage_starting",
    "unmanage_error",
)  # fmt: skip
SHARE_SERVER_TASK_STATES: Final = (
    "migration_starting", "migration_in_progress", "migration_completing", "migration_success", "migration_error",
    "migration_cancelled", "migration_cancel_in_progress", "migration_driver_in_progress",
    "migration_driver_phase1_done",
)  # fmt: skip
SHARE_NETWORK_STATUSES: Final = (NetworkStatus.ACTIVE, NetworkStatus.ERROR, NetworkStatus.NETWORK_CHANGE)
