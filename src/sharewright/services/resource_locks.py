"""Resource locks: what keeps shares and access rules from being deleted, and access rules from being read.

Who placed a lock in which role decides who may take it away: a user's own, an administrator's only administrators, a
service's (Nova's, say) services and administrators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import is_id, utcnow
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, contains, count, fetch_page
from sharewright.services.locks import check_manipulation, insert
from sharewright.services.policy import authorize, can_see
from sharewright.services.validation import parse_moment
from sharewright.services.visible import of_projects
from sharewright.store.tables import resource_locks, share_access_rules, shares

ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {"share": ("delete",), "access_rule": ("delete", "show")}
COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: resource_locks.c[name]
    for name in ("id", "created_at", "updated_at", "resource_id", "resource_type", "resource_action", "user_id")
}
_EXACT: Final = (
    "id", "user_id", "resource_id", "resource_type", "lock_context", "resource_action", "lock_reason",
)  # fmt: skip
# In these nothing is left to be kept from deletion.
_PASSING: Final[Mapping[str, frozenset[str]]] = {
    "share": frozenset(
        {"deleting", "error_deleting", "unmanage_starting", "manage_error", "unmanage_error", "unmanaged", "deleted"}
    ),
    "access_rule": frozenset({"queued_to_deny", "denying", "error"}),
}
_LOCKS: Final = resource_locks.c
MAXIMUM_REASON: Final = 1023  # characters


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "resource_lock:get", *, lock: bool = False
) -> dict[str, Any]:
    """A lock's row. NotFound for other projects, but for administrators and services."""
    statement = select(resource_locks).where(_LOCKS.id == identifier)
    row = fetch_one(tx, statement.with_for_update() if lock else statement) if is_id(identifier) else None
    if row is None or not (can_see(context, row["project_id"]) or context.is_service):
        raise NotFound(f"Resource lock {identifier[:64]} could not be found.")
    authorize(context, rule, None if context.is_service else row["project_id"])
    return row


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return find(tx, context, identifier)


def list_locks(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
    detail: bool = True,
    with_count: bool = False,
) -> tuple[list[dict[str, Any]], int | None]:
    """The locks of a project (administrators and services: of all). One statement, two with a count."""
    authorize(context, "resource_lock:get_all")
    rule = "resource_lock:get_all_projects"
    statement = select(resource_locks).where(
        *of_projects(context, _LOCKS.project_id, filters, rule=rule, all_projects=all_projects)
    )
    statement = statement.where(*(_LOCKS[name] == filters[name] for name in _EXACT if name in filters))
    if "lock_reason~" in filters:
        statement = statement.where(contains(_LOCKS.lock_reason, filters["lock_reason~"]))
    if "created_since" in filters:
        statement = statement.where(_LOCKS.created_at >= parse_moment(filters["created_since"], "created_since"))
    if "created_before" in filters:
        statement = statement.where(_LOCKS.created_at <= parse_moment(filters["created_before"], "created_before"))
    with deployment.store.read() as tx:
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=_LOCKS.id)
        return records, count(tx, statement) if with_count else None


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """Lock a resource: resource_id; resource_type (share), resource_action (delete), lock_reason."""
    authorize(context, "resource_lock:create")
    kind = values.get("resource_type") or "share"
    action = values.get("resource_action") or "delete"
    _check(kind, action, values.get("lock_reason"))
    with deployment.store.begin() as tx:
        state = _state_of(tx, context, kind, values["resource_id"])
        _check_state(kind, action, state)
        if action == "show":
            _refuse_second(tx, values["resource_id"])
        return find(tx, context, insert(tx, context, kind, values["resource_id"], action, values.get("lock_reason")))


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change resource_action and lock_reason; null takes the reason away."""
    with deployment.store.begin() as tx:
        row = find(tx, context, identifier, lock=True)
        action = values.get("resource_action") or "delete"
        _check(row["resource_type"], action, values.get("lock_reason"))
        check_manipulation(context, row, "resource_lock:update")
        changed = {key: values[key] for key in ("resource_action", "lock_reason") if key in values}
        if changed.get("resource_action") is None:
            changed.pop("resource_action", None)
        else:
            if action == "show" != row["resource_action"]:
                _refuse_second(tx, row["resource_id"], InvalidInput)
            _check_state(row["resource_type"], action, _state_of(tx, context, row["resource_type"], row["resource_id"]))
        tx.execute(update(resource_locks).where(_LOCKS.id == identifier).values(**changed, updated_at=utcnow()))
        return find(tx, context, identifier)


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    with deployment.store.begin() as tx:
        row = find(tx, context, identifier, lock=True)
        check_manipulation(context, row, "resource_lock:delete")
        tx.execute(delete(resource_locks).where(_LOCKS.id == identifier))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _check(kind: str, action: str, reason: str | None) -> None:
    if kind not in ACTIONS:
        raise InvalidInput(f"'resource_type' must be one of {', '.join(ACTIONS)}.")
    if action not in ACTIONS[kind]:
        raise InvalidInput(f"'resource_action' can only be one of {', '.join(ACTIONS[kind])}.")
    if reason is not None and len(reason) > MAXIMUM_REASON:
        raise InvalidInput(f"'lock_reason' can contain a maximum of {MAXIMUM_REASON} characters.")


def _state_of(tx: Connection, context: RequestContext, kind: str, resource_id: str) -> str:
    """The status of the resource, which the caller must see. InvalidInput when there is none."""
    found: Any = None
    if is_id(resource_id) and kind == "share":
        try:
            share = share_service.find(tx, context, resource_id, lock=True)
            if share["is_public"] and not (can_see(context, share["project_id"]) or context.is_service):
                raise NotFound("It is another project's.")
            return str(share["status"])
        except NotFound:
            found = None
    elif is_id(resource_id):
        found = tx.execute(
            select(share_access_rules.c.state, shares.c.project_id)
            .join(shares, shares.c.id == share_access_rules.c.share_id)
            .where(share_access_rules.c.id == resource_id)
        ).first()
    if found is None or not (can_see(context, found.project_id) or context.is_service):
        raise InvalidInput("No such resource found.")
    return str(found.state)


def _check_state(kind: str, action: str, state: str) -> None:
    if action == "delete" and state in _PASSING[kind]:
        raise Conflict(f"Resource status '{state}' is not suitable for locking.")


def _refuse_second(tx: Connection, resource_id: str, refusal: type[Conflict | InvalidInput] = Conflict) -> None:
    query = select(_LOCKS.id).where(_LOCKS.resource_id == resource_id, _LOCKS.resource_action == "show").limit(1)
    if tx.execute(query).first() is not None:
        raise refusal("The visibility of the resource is locked already.")
