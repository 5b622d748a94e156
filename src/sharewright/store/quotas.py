"""Quotas: limits, and usage that changes in the transaction of the request that causes it.

Usage is kept three times for each resource: of the project, of the user in the project, and of the share type in the
project, because a limit may be set on each. ``reserve`` adds to all of them with one statement and then compares, so
that two requests at once cannot both take the last place: on PostgreSQL the second waits on the locked rows, on SQLite
on the writer. ``release`` gives back; the story that removes a row calls it in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import Connection, TextClause, and_, bindparam, or_, select, text

from sharewright.errors import OverQuota
from sharewright.settings import Quotas
from sharewright.store.tables import quota_usages, quotas
from sharewright.store.transaction import act_at_end, once

UNLIMITED: Final = -1
RESOURCES: Final = Quotas.__struct_fields__
# What only a project or a user has a quota of; a share type has none (Manila's rule).
NOT_BY_SHARE_TYPE: Final = frozenset({"share_networks", "share_groups", "share_group_snapshots", "encryption_keys"})
DEFAULT_CLASS: Final = "default"

# Manila's class name of the refusal, with its text; clients look for the name.
_REFUSALS: Final = {
    "shares": "ShareLimitExceeded: Maximum number of shares allowed ({limit}) exceeded.",
    "gigabytes": "ShareSizeExceedsAvailableQuota: Requested share exceeds allowed project/user or share type"
    " gigabytes quota ({limit} GiB).",
    "share_networks": "ShareNetworksLimitExceeded: Maximum number of share-networks allowed ({limit}) exceeded.",
    "share_groups": "ShareGroupsLimitExceeded: Maximum number of share groups allowed ({limit}) exceeded.",
    "share_group_snapshots": "ShareGroupSnapshotsLimitExceeded: Maximum number of share group snapshots allowed"
    " ({limit}) exceeded.",
    "share_replicas": "ShareReplicasLimitExceeded: Maximum number of allowed share-replicas ({limit}) exceeded.",
    "replica_gigabytes": "ShareReplicaSizeExceedsAvailableQuota: Requested share replica exceeds allowed project/user"
    " or share type gigabytes quota ({limit} GiB).",
    "backups": "BackupLimitExceeded: Maximum number of backups allowed ({limit}) exceeded.",
    "backup_gigabytes": "ShareBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota"
    " ({limit} GiB).",
    "snapshots": "SnapshotLimitExceeded: Maximum number of snapshots allowed ({limit}) exceeded.",
    "snapshot_gigabytes": "SnapshotSizeExceedsAvailableQuota: Requested snapshot exceeds allowed project/user or share"
    " type snapshot gigabytes quota ({limit} GiB).",
}
_SCOPES: Final = {"project": "the project", "user": "the user", "share_type": "the share type"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one project, with what is set for its users and share types. Every value is a count or UNLIMITED."""

    project: Mapping[str, int]
    users: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    share_types: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of_user(self, user_id: str) -> dict[str, int]:
        """A user's limits: its own where set, else the project's."""
        return {**self.project, **self.users.get(user_id, {})}

    def of_share_type(self, share_type_id: str) -> dict[str, int]:
        """A share type's limits: its own where set, else the project's; without what a type has no quota of."""
        both = {**self.project, **self.share_types.get(share_type_id, {})}
        return {name: value for name, value in both.items() if name not in NOT_BY_SHARE_TYPE}


def read_defaults(tx: Connection, settings: Quotas) -> dict[str, int]:
    """The default limits: those of the class "default" where set, else the configuration's."""
    rows = tx.execute(
        select(quotas.c.resource, quotas.c.hard_limit).where(
            quotas.c.scope == "class", quotas.c.scope_id == DEFAULT_CLASS
        )
    )
    return {name: getattr(settings, name) for name in RESOURCES} | {row.resource: row.hard_limit for row in rows}


_LIMITS: Final = select(quotas).where(
    or_(
        quotas.c.scope_id == bindparam("project"),
        and_(quotas.c.scope == "class", quotas.c.scope_id == DEFAULT_CLASS),
    )
)


def read_limits(tx: Connection, settings: Quotas, project_id: str) -> Limits:
    """All limits of a project, in one statement."""
    rows = tx.execute(_LIMITS, {"project": project_id}).all()
    project = {name: getattr(settings, name) for name in RESOURCES}
    project |= {row.resource: row.hard_limit for row in rows if row.scope == "class"}
    project |= {row.resource: row.hard_limit for row in rows if row.scope == "project"}
    users: dict[str, dict[str, int]] = {}
    share_types: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.scope == "user":
            users.setdefault(row.user_id, {})[row.resource] = row.hard_limit
        elif row.scope == "share_type":
            share_types.setdefault(row.share_type_id, {})[row.resource] = row.hard_limit
    return Limits(project, users, share_types)


def read_usage(tx: Connection, project_id: str, *, user_id: str = "", share_type_id: str = "") -> dict[str, int]:
    """What is in use, for every resource: of the project, or of the user or the share type in it."""
    rows = tx.execute(
        select(quota_usages.c.resource, quota_usages.c.in_use).where(
            quota_usages.c.project_id == project_id,
            quota_usages.c.user_id == user_id,
            quota_usages.c.share_type_id == share_type_id,
        )
    )
    return dict.fromkeys(RESOURCES, 0) | {row.resource: row.in_use for row in rows}


def reserve(
    tx: Connection,
    settings: Quotas,
    *,
    project_id: str,
    user_id: str,
    amounts: Mapping[str, int],
    share_type_id: str = "",
) -> None:
    """Take ``amounts`` (resource → count or GiB, positive) from the quotas. Raises OverQuota; the caller's transaction
    must then be rolled back, which undoes what was counted."""
    _take(tx, read_limits(tx, settings, project_id), (project_id, user_id, share_type_id), amounts)


def reserve_at_end(
    tx: Connection, limits: Limits, *, project_id: str, user_id: str, amounts: Mapping[str, int], share_type_id: str
) -> None:
    """The same as the transaction ends, at once with what else it takes for the same user and share type. ``limits``:
    the project's."""
    owner = (project_id, user_id, share_type_id)
    taken: dict[tuple[str, str, str], Counter[str]] = once(tx, "reservations", dict)
    if owner not in taken:
        taken[owner] = Counter()
        act_at_end(tx, partial(_take, tx, limits, owner, taken[owner]))
    taken[owner].update(amounts)


def share_amounts(size: int, *, replicated: bool) -> dict[str, int]:
    """What one share of ``size`` GiB takes; one that may have replicas is the first of them, as in Manila."""
    amounts = {"shares": 1, "gigabytes": size}
    return amounts | replica_amounts(size) if replicated else amounts


def replica_amounts(size: int) -> dict[str, int]:
    """What one replica of ``size`` GiB takes."""
    return {"share_replicas": 1, "replica_gigabytes": size}


def backup_amounts(size: int) -> dict[str, int]:
    """What one backup of ``size`` GiB takes."""
    return {"backups": 1, "backup_gigabytes": size}


def check_share_size(limits: Limits, size: int, *, user_id: str, share_type_id: str) -> None:
    """Raise OverQuota when one share of ``size`` GiB is larger than per_share_gigabytes allows."""
    name = "per_share_gigabytes"
    for limit in (
        limits.project[name],
        limits.users.get(user_id, {}).get(name, UNLIMITED),
        limits.share_types.get(share_type_id, {}).get(name, UNLIMITED),
    ):
        if limit != UNLIMITED and size > limit:
            raise OverQuota(
                f"ShareSizeExceedsLimit: Requested share size {size} is larger than maximum allowed limit {limit}.",
                hint="Ask for a smaller share, or ask an administrator for a larger per_share_gigabytes quota.",
            )


def release(
    tx: Connection, *, project_id: str, user_id: str, amounts: Mapping[str, int], share_type_id: str = ""
) -> None:
    """Give ``amounts`` (positive) back. Never goes below zero. Call once, where the row is deleted."""
    _add(tx, project_id, user_id, share_type_id, {name: -amount for name, amount in amounts.items()})


def count_size_change(
    tx: Connection, *, project_id: str, user_id: str, share_type_id: str, resource: str, change: int
) -> None:
    """Count GiB more or less of what exists already, whatever the limit."""
    if change:
        _add(tx, project_id, user_id, share_type_id, {resource: change})


def _take(tx: Connection, limits: Limits, owner: tuple[str, str, str], amounts: Mapping[str, int]) -> None:
    """``owner``: project, user, share type."""
    project_id, user_id, share_type_id = owner
    of_user = limits.users.get(user_id, {})
    of_type = limits.share_types.get(share_type_id, {})
    for row in _add(tx, project_id, user_id, share_type_id, amounts):
        if row["user_id"]:
            scope, limit = "user", of_user.get(row["resource"], UNLIMITED)
        elif row["share_type_id"]:
            scope, limit = "share_type", of_type.get(row["resource"], UNLIMITED)
        else:
            scope, limit = "project", limits.project[row["resource"]]
        if limit != UNLIMITED and row["in_use"] > limit and amounts[row["resource"]] > 0:
            raise _refusal(row["resource"], limit, scope)


def _refusal(resource: str, limit: int, scope: str) -> OverQuota:
    text = _REFUSALS.get(resource, "OverQuota: Quota exceeded for resource {resource} ({limit}).")
    return OverQuota(
        text.format(limit=limit, resource=resource),
        hint=f"The limit is that of {_SCOPES[scope]}. Delete what is not needed, or ask an administrator for more.",
    )


def _add(
    tx: Connection, project_id: str, user_id: str, share_type_id: str, amounts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Add to (or take from) the usage rows and return them as they are then."""
    owners = [("", ""), (user_id, ""), ("", share_type_id)]
    # One order for everybody: transactions lock the rows in it and cannot wait for each other in a circle.
    rows = [
        (resource, user, share_type)
        for resource in sorted(amounts)
        for user, share_type in sorted(set(owners))
        if not (share_type and resource in NOT_BY_SHARE_TYPE)
    ]
    if not rows:
        return []
    parameters: dict[str, Any] = {"project": project_id}
    for number, (resource, user, share_type) in enumerate(rows):
        parameters |= {
            f"user_{number}": user,
            f"share_type_{number}": share_type,
            f"resource_{number}": resource,
            f"initial_{number}": max(amounts[resource], 0),
        }
    for number, (resource, amount) in enumerate(sorted(amounts.items())):
        parameters |= {f"kind_{number}": resource, f"more_{number}": amount}
    statement = _add_statement(len(rows), len(amounts))
    return [dict(row) for row in tx.execute(statement, parameters).mappings()]


@cache
def _add_statement(rows: int, kinds: int) -> TextClause:
    """The statement for so many rows, of so many resources. In words, because SQLAlchemy does not keep a statement with
    several rows, but puts it together again each time."""
    values = ", ".join(
        f"(:project, :user_{row}, :share_type_{row}, :resource_{row}, :initial_{row})" for row in range(rows)
    )
    more = " ".join(f"WHEN :kind_{kind} THEN CAST(:more_{kind} AS INTEGER)" for kind in range(kinds))
    total = f"quota_usages.in_use + CASE quota_usages.resource {more} END"
    return text(  # made of numbers of ours alone
        "INSERT INTO quota_usages (project_id, user_id, share_type_id, resource, in_use)"  # noqa: S608
        f" VALUES {values}"
        " ON CONFLICT (project_id, user_id, share_type_id, resource)"
        f" DO UPDATE SET in_use = CASE WHEN {total} < 0 THEN 0 ELSE {total} END"
        " RETURNING project_id, user_id, share_type_id, resource, in_use"
    )
