"""Access rules: who may mount a share. Rows say what should be; update_access operations make it so."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    Table,
    and_,
    bindparam,
    case,
    exists,
    func,
    select,
    update,
)

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, NotFound, OverQuota
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.services import shares as share_service
from sharewright.services.access_keys import sealed_key, show_keys
from sharewright.services.access_types import check_access_to, check_cifs_rule, same_client
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.locks import drop, insert_for_rule, is_restricted, leave_rule, locks_of
from sharewright.services.policy import authorize, can_see
from sharewright.services.records import attach, delete_item, read_maps, write_map
from sharewright.services.transitions import SHARE
from sharewright.services.validation import check_access_level, check_access_type, check_address, check_metadata
from sharewright.services.work import submit_together
from sharewright.states import AccessRulesStatus, AccessState, ShareStatus
from sharewright.store.kept import change_row, new_row
from sharewright.store.tables import (
    share_access_metadata,
    share_access_rules,
    share_export_locations,
    share_instances,
    shares,
)

_OWNER = share_access_metadata.c.access_id
_ONE: Final = (
    select(share_access_rules, shares.c.project_id)
    .join(shares, shares.c.id == share_access_rules.c.share_id)
    .where(share_access_rules.c.id == bindparam("rule"))
)


def allow(
    deployment: Deployment,
    context: RequestContext,
    share_id: str,
    values: Mapping[str, Any],
    *,
    ipv6: bool = True,
    whole: bool = False,
) -> Record:
    """Add a rule: access_type, access_to, access_level (default rw), metadata; lock_visibility, lock_deletion and
    lock_reason. ``ipv6``: whether the caller may know of IPv6 rules; ``whole``: only while all replicas are available
    (Manila before 2.74). A rule for the same client that is being removed gives way: the client keeps its access, at
    the new level from the next update on."""
    kind = check_access_type(values["access_type"])
    level = check_access_level(values.get("access_level"))
    metadata = check_metadata(values.get("metadata") or {})
    locked = {name: bool(values.get(f"lock_{name}")) for name in ("deletion", "visibility")}
    if values.get("lock_reason") and not any(locked.values()):
        raise InvalidInput("A lock_reason needs lock_visibility or lock_deletion.")
    identifier, now = new_id(), utcnow()
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, share_id, "share:allow_access", lock=True)
        _check_state(share, "allow_access", "New access rules cannot be applied")
        if whole and share["has_replicas"]:
            _check_replicas(tx, share_id)
        access_to = check_access_to(kind, share["protocol"], values["access_to"])
        if kind == "ip" and ":" in access_to:
            check_ipv6(tx, share_id, access_to, ipv6=ipv6)
        check_cifs_rule(tx, share, kind, level)
        same = _same(tx, deployment, share_id, kind, access_to)
        key = sealed_key(tx, deployment, share, access_to) if kind == "user" else None
        if same is not None:
            tx.execute(share_access_rules.delete().where(share_access_rules.c.id == same))
        row = new_row(
            tx,
            share_access_rules,
            id=identifier,
            share_id=share_id,
            access_type=kind,
            access_to=access_to,
            access_level=level,
            access_key=key,
            state=AccessState.QUEUED_TO_APPLY,
            created_at=now,
        )
        write_map(tx, share_access_metadata, _OWNER, identifier, metadata, replace=False)
        insert_for_rule(tx, context, share_id, identifier, reason=values.get("lock_reason"), **locked)
        _begin_change(tx, deployment, context, share_id)
        if locked["visibility"]:
            return _find(tx, deployment, context, identifier)
        authorize(context, "share_access_rule:get")
        authorize(context, "share_access_rule:get", share["project_id"])
        record = {**row, "project_id": share["project_id"], "metadata": dict(sorted(metadata.items()))}
        show_keys(deployment, context, share["project_id"], [record])
        return {**record, "restricted": False}


def deny(
    deployment: Deployment, context: RequestContext, share_id: str, access_id: str, *, unrestrict: bool = False
) -> None:
    """Remove a rule. One that is being removed already stays so. ``unrestrict``: with locks that the caller may take
    away."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, share_id, "share:deny_access", lock=True)
        rule = fetch_one(
            tx,
            select(share_access_rules).where(
                share_access_rules.c.id == access_id, share_access_rules.c.share_id == share_id
            ),
        )
        if rule is None:
            raise NotFound(f"Access rule {access_id[:64]} could not be found on share {share_id}.")
        _check_state(share, "deny_access", "Access rules cannot be denied")
        if rule["state"] in AccessState.LEAVING:
            return
        leave_rule(tx, context, share_id, access_id, unrestrict=unrestrict)
        tx.execute(
            update(share_access_rules)
            .where(share_access_rules.c.id == access_id)
            .values(state=AccessState.QUEUED_TO_DENY, updated_at=utcnow())
        )
        _begin_change(tx, deployment, context, share_id)


def deny_all(tx: Connection, deployment: Deployment, context: RequestContext, share_id: str) -> None:
    """Remove every rule of a share, and what locks them: for a project that takes it over. Its row is locked."""
    rules = share_access_rules.c
    found = list(tx.scalars(select(rules.id).where(rules.share_id == share_id)))
    if found:
        drop(tx, found)
        tx.execute(
            update(share_access_rules)
            .where(rules.share_id == share_id)
            .values(state=AccessState.QUEUED_TO_DENY, updated_at=utcnow())
        )
        _begin_change(tx, deployment, context, share_id)


def change_level(deployment: Deployment, context: RequestContext, access_id: str, level: str | None) -> Record:
    """Give a rule another access level, in place: its client keeps its access."""
    wanted = check_access_level(level)
    with deployment.store.begin() as tx:
        rule = _find(tx, deployment, context, access_id, "share_access_rule:update")
        if rule["access_level"] == wanted:
            return rule
        share = share_service.find(tx, context, rule["share_id"], lock=True)
        _check_state(share, "allow_access", "Access rules cannot be updated")
        check_cifs_rule(tx, share, rule["access_type"], wanted, but=access_id)
        changed = tx.execute(
            update(share_access_rules)
            .where(share_access_rules.c.id == access_id, share_access_rules.c.state.not_in(AccessState.LEAVING))
            .values(access_level=wanted, state=AccessState.QUEUED_TO_APPLY, updated_at=utcnow())
        )
        if not changed.rowcount:
            raise InvalidInput(f"Access rule {access_id} is being removed.")
        _begin_change(tx, deployment, context, share["id"])
        return _find(tx, deployment, context, access_id)


def list_rules(
    deployment: Deployment,
    context: RequestContext,
    share_id: str,
    filters: Mapping[str, Any] | None = None,
    *,
    rule: str = "share_access_rule:index",
) -> list[dict[str, Any]]:
    """The rules of a share, oldest first, with their metadata. ``filters``: metadata; access_type, access_level,
    access_to, access_key. Of those hidden from the caller none is found by what is hidden."""
    filters = filters or {}
    _check_filters(filters)
    statement = (
        select(share_access_rules)
        .where(share_access_rules.c.share_id == share_id)
        .order_by(share_access_rules.c.created_at, share_access_rules.c.id)
    )
    for name in ("access_type", "access_level"):
        if name in filters:
            statement = statement.where(share_access_rules.c[name] == filters[name])
    if "access_to" in filters:
        statement = statement.where(func.lower(share_access_rules.c.access_to) == same_client(filters["access_to"]))
    for key, value in filters.get("metadata", {}).items():
        item = share_access_metadata
        statement = statement.where(
            exists().where(item.c.access_id == share_access_rules.c.id, item.c.key == key, item.c.value == value)
        )
    with deployment.store.read() as tx:
        share = share_service.find(tx, context, share_id, rule)
        found = _complete(tx, deployment, context, share["project_id"], fetch(tx, statement))
    if "access_key" in filters:
        found = [each for each in found if each["access_key"] == filters["access_key"]]
    if "access_to" in filters or "access_key" in filters:
        found = [each for each in found if not each["restricted"]]
    return found


def show(deployment: Deployment, context: RequestContext, access_id: str) -> Record:
    with deployment.store.read() as tx:
        return _find(tx, deployment, context, access_id)


def write_metadata(deployment: Deployment, context: RequestContext, access_id: str, values: Any) -> dict[str, str]:
    """Set keys of a rule's metadata; returns all."""
    checked = check_metadata(values)
    with deployment.store.begin() as tx:
        _find(tx, deployment, context, access_id, "share_access_metadata:update")
        write_map(tx, share_access_metadata, _OWNER, access_id, checked, replace=False)
        return read_maps(tx, share_access_metadata, _OWNER, [access_id])[access_id]


def delete_metadata(deployment: Deployment, context: RequestContext, access_id: str, key: str) -> None:
    with deployment.store.begin() as tx:
        _find(tx, deployment, context, access_id, "share_access_metadata:delete")
        delete_item(tx, share_access_metadata, _OWNER, access_id, key)


def _find(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    access_id: str,
    rule_name: str = "share_access_rule:get",
) -> dict[str, Any]:
    authorize(context, rule_name)
    rule = None
    if is_id(access_id):
        rule = fetch_one(tx, _ONE, {"rule": access_id})
    if rule is None or not can_see(context, rule["project_id"]):
        raise NotFound(f"Access rule {access_id[:64]} could not be found.")
    authorize(context, rule_name, rule["project_id"])
    return _complete(tx, deployment, context, rule["project_id"], [rule])[0]


def _complete(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    project_id: str,
    rules: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    show_keys(deployment, context, project_id, rules)
    identifiers = [rule["id"] for rule in rules]
    attach(rules, "metadata", read_maps(tx, share_access_metadata, _OWNER, identifiers))
    hidden = {lock["resource_id"] for lock in locks_of(tx, identifiers, "show") if is_restricted(context, lock)}
    for rule in rules:
        rule["restricted"] = rule["id"] in hidden
    return rules


def _check_filters(filters: Mapping[str, Any]) -> None:
    kind, client = filters.get("access_type"), filters.get("access_to")
    if kind is not None:
        check_access_type(kind)
    if client is not None and kind is None:
        raise InvalidInput("'access_type' parameter must be provided when specifying 'access_to'.")
    if client is not None and kind == "ip":
        check_address(client)
    if "access_level" in filters:
        check_access_level(filters["access_level"])


def _check_state(share: Record, action: str, refused: str) -> None:
    if not share["host"]:
        raise InvalidInput(f"{refused} while the share lacks a valid host (status '{share['status']}').")
    SHARE[action].check("Share", share["id"], share["status"])


def _check_replicas(tx: Connection, share_id: str) -> None:
    columns = share_instances.c
    query = select(columns.id).where(columns.share_id == share_id, columns.status != ShareStatus.AVAILABLE)
    found = tx.execute(query.limit(1)).scalar_one_or_none()
    if found is not None:
        raise InvalidInput(
            f"New access rules cannot be applied while the share's replica {found} is not available.",
            hint="Use microversion 2.74 or later.",
        )


def _same(tx: Connection, deployment: Deployment, share_id: str, kind: str, address: str) -> str | None:
    """The id of the share's rule for that client that is being removed, if there is one. Raises InvalidInput for one
    that is not, OverQuota when the share has all the rules that it may have."""
    found = rules_for(tx, share_access_rules, share_access_rules.c.share_id, share_id, kind, address)
    if found.id is not None and found.state not in AccessState.LEAVING:
        raise InvalidInput(f"Share access {kind}:{address} exists.")
    if found.id is None and found.total >= deployment.settings.api.max_access_rules:
        raise OverQuota(
            f"Share {share_id} has {found.total} access rules, and no share may have more.",
            hint="Give access to a network instead of to each of its addresses, or remove rules.",
        )
    return None if found.id is None else str(found.id)


def rules_for(
    tx: Connection, rules: Table, owner: ColumnElement[str], owner_id: str, kind: str, client: str
) -> Row[Any]:
    """How many rules the owner has (total), and the one for that client (id and state, or None each)."""
    return tx.execute(_rules_for(rules, owner), {"owner": owner_id, "kind": kind, "client": same_client(client)}).one()


@cache
def _rules_for(rules: Table, owner: ColumnElement[str]) -> Executable:
    mine = and_(rules.c.access_type == bindparam("kind"), func.lower(rules.c.access_to) == bindparam("client"))
    return select(
        func.count().label("total"),
        func.max(case((mine, rules.c.id))).label("id"),
        func.max(case((mine, rules.c.state))).label("state"),
    ).where(owner == bindparam("owner"))


def check_ipv6(tx: Connection, share_id: str, address: str, *, ipv6: bool) -> None:
    """A rule for clients that can never reach the share would be shown as active and mean nothing."""
    if not ipv6:
        raise InvalidInput(f"Invalid IP access: IPv6 address {address} needs API microversion 2.38 or later.")
    paths = tx.scalars(
        select(share_export_locations.c.path)
        .join(share_instances, share_instances.c.id == share_export_locations.c.share_instance_id)
        .where(share_instances.c.share_id == share_id)
    )
    if not any(path.startswith("[") for path in paths):
        raise InvalidInput(
            f"IPv6 address {address} is not supported: the share has IPv4 export locations only.",
            hint="Give the client's IPv4 address.",
        )


def _begin_change(tx: Connection, deployment: Deployment, context: RequestContext, share_id: str) -> None:
    change_row(tx, shares, share_id, access_rules_status=AccessRulesStatus.SYNCING)
    submit_together(tx, deployment, context, "update_access", "share", share_id)
