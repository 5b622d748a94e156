"""Rows of resource locks, for the services of what is locked (services/resource_locks.py is the resource itself)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, delete, select

from sharewright.context import RequestContext
from sharewright.errors import Forbidden
from sharewright.identifiers import new_id, utcnow
from sharewright.services.deployment import Record, fetch
from sharewright.services.policy import authorize_owner
from sharewright.store.lookups import among_parameter, list_type, list_value
from sharewright.store.tables import resource_locks

_LOCKS: Final = resource_locks.c
_OF_RULE: Final = "Locked by access lock: {}"  # Manila's reason of the share's lock that comes with a rule's


def insert(
    tx: Connection, context: RequestContext, kind: str, resource_id: str, action: str, reason: str | None
) -> str:
    """Place a lock in the caller's name. Returns its id."""
    identifier = new_id()
    tx.execute(
        resource_locks.insert().values(
            id=identifier,
            user_id=context.user_id,
            project_id=context.project_id,
            lock_context=context_of(context),
            resource_type=kind,
            resource_id=resource_id,
            resource_action=action,
            lock_reason=reason,
            created_at=utcnow(),
        )
    )
    return identifier


def insert_for_rule(
    tx: Connection,
    context: RequestContext,
    share_id: str,
    access_id: str,
    *,
    deletion: bool,
    visibility: bool,
    reason: str | None,
) -> None:
    """The locks that a new access rule is asked for with. A rule that stays keeps its share, too."""
    if deletion:
        lock_id = insert(tx, context, "access_rule", access_id, "delete", reason)
        insert(tx, context, "share", share_id, "delete", _OF_RULE.format(lock_id))
    if visibility:
        insert(tx, context, "access_rule", access_id, "show", reason)


def locks_of(tx: Connection, resource_ids: Iterable[str], action: str) -> list[dict[str, Any]]:
    """All locks of the resources against the action."""
    identifiers = list(resource_ids)
    if not identifiers:
        return []
    dialect = tx.dialect.name
    return fetch(tx, _locks_of(dialect), {"resources": list_value(dialect, identifiers), "action": action})


@cache
def _locks_of(dialect: str) -> Select[Any]:
    wanted = among_parameter(dialect, _LOCKS.resource_id, bindparam("resources", type_=list_type(dialect)))
    return select(resource_locks).where(wanted, _LOCKS.resource_action == bindparam("action"))


def refuse_locked_share(tx: Connection, share_id: str) -> None:
    """Forbidden for a share that a lock keeps, whoever asks."""
    locks = locks_of(tx, [share_id], "delete")
    if locks:
        named = ", ".join(lock["id"] for lock in locks[:5])
        raise Forbidden(f"Resource lock/s [{named}] prevent delete action.", hint="Delete the locks first.")


def leave_rule(tx: Connection, context: RequestContext, share_id: str, access_id: str, *, unrestrict: bool) -> None:
    """Take the deletion locks from a rule that is going; what hides it stays until it is gone. Forbidden when it has
    one, but for a caller who asks to ``unrestrict`` it and may take them away."""
    locks = locks_of(tx, [access_id], "delete")
    if locks and not unrestrict:
        raise Forbidden(
            f"Cannot deny access for share '{share_id}' since it has been locked.",
            hint="Remove the locks, or deny it with unrestrict.",
        )
    for lock in locks:
        check_manipulation(context, lock, "resource_lock:delete")
    for lock in locks:
        tx.execute(delete(resource_locks).where(_LOCKS.id == lock["id"]))
        reason = _OF_RULE.format(lock["id"])
        tx.execute(delete(resource_locks).where(_LOCKS.resource_id == share_id, _LOCKS.lock_reason == reason))


def drop(tx: Connection, resource_ids: Iterable[str]) -> None:
    """Remove every lock of the resources."""
    tx.execute(delete(resource_locks).where(_LOCKS.resource_id.in_(list(resource_ids))))


def is_restricted(context: RequestContext, lock: Record) -> bool:
    """Whether what a visibility lock covers is hidden from the caller."""
    try:
        check_manipulation(context, lock, "resource_lock:bypass_locked_show_action")
    except Forbidden:
        return True
    return False


def check_manipulation(context: RequestContext, lock: Record, rule: str) -> None:
    """Forbidden when the caller may not change or take away the lock, or see past it."""
    authorize_owner(context, rule, project_id=lock["project_id"], user_id=lock["user_id"])
    mine = context_of(context)
    if (lock["lock_context"] == "admin" != mine) or (lock["lock_context"] == "service" and mine == "user"):
        raise Forbidden("Resource lock cannot be manipulated by user.", hint="Ask an administrator.")


def context_of(context: RequestContext) -> str:
    """In which role the caller places a lock, or takes one away: also of a service that asks on a user's behalf. What
    Nova locks for a user, that user cannot unlock."""
    if context.is_service or context.by_service:
        return "service"
    return "admin" if context.is_admin else "user"
