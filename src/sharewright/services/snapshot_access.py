"""Access rules of snapshots: who may mount one, always for reading. Rows say what should be; update_snapshot_access
operations make it so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound, OverQuota
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.services import snapshots as snapshot_service
from sharewright.services.access_keys import sealed_key, show_keys
from sharewright.services.access_rules import check_ipv6, rules_for
from sharewright.services.access_types import check_access_to, check_cifs_snapshot_rule
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.policy import can_see
from sharewright.services.share_sources import COPY_SECONDS
from sharewright.services.transitions import SNAPSHOT
from sharewright.services.validation import check_access_type
from sharewright.services.work import submit_together
from sharewright.states import AccessState
from sharewright.store.tables import share_instances, share_snapshot_access_rules, share_snapshots, shares

_ALLOWING = "share_snapshot:allow_access"


def allow(
    deployment: Deployment, context: RequestContext, snapshot_id: str, values: Mapping[str, Any], *, ipv6: bool = True
) -> Record:
    """Add a rule: access_type, access_to. ``ipv6``: whether the caller may know of IPv6 rules. Manila's refusals: 400
    for a share without the capability, a snapshot that is not available, and a rule that is there already. One for the
    same client that is being removed gives way."""
    kind = check_access_type(values["access_type"])
    identifier = new_id()
    with deployment.store.begin() as tx:
        snapshot = snapshot_service.find(tx, context, snapshot_id, _ALLOWING, lock=True)
        share = _share_of(tx, snapshot)
        _refuse_with_replicas(tx, share)
        SNAPSHOT["allow_access"].check("Snapshot", snapshot_id, snapshot["status"])
        access_to = check_access_to(kind, share["protocol"], values["access_to"])
        if kind == "ip" and ":" in access_to:
            check_ipv6(tx, share["id"], access_to, ipv6=ipv6)
        check_cifs_snapshot_rule(tx, share, snapshot_id, kind)
        same = _same(tx, deployment, snapshot_id, kind, access_to)
        key = sealed_key(tx, deployment, share, access_to) if kind == "user" else None
        rules = share_snapshot_access_rules
        if same is not None:
            tx.execute(rules.delete().where(rules.c.id == same))
        tx.execute(
            rules.insert().values(
                id=identifier,
                snapshot_id=snapshot_id,
                access_type=kind,
                access_to=access_to,
                access_key=key,
                state=AccessState.QUEUED_TO_APPLY,
                created_at=utcnow(),
            )
        )
        # Some clouds copy the whole volume for the first rule.
        _begin_change(tx, deployment, context, snapshot, more_seconds=COPY_SECONDS * snapshot["size"])
        added = fetch(tx, select(rules).where(rules.c.id == identifier))
        show_keys(deployment, context, snapshot["project_id"], added, allowing=_ALLOWING)
        return added[0]


def deny(deployment: Deployment, context: RequestContext, snapshot_id: str, access_id: str) -> None:
    """Remove a rule, whatever the snapshot's status. One that is being removed already stays so."""
    rules = share_snapshot_access_rules
    with deployment.store.begin() as tx:
        snapshot = snapshot_service.find(tx, context, snapshot_id, "share_snapshot:deny_access", lock=True)
        _share_of(tx, snapshot)
        query = select(rules, share_snapshots.c.project_id).join(
            share_snapshots, share_snapshots.c.id == rules.c.snapshot_id
        )
        rule = fetch_one(tx, query.where(rules.c.id == access_id)) if is_id(access_id) else None
        if rule is None or not can_see(context, rule["project_id"]):
            raise NotFound(f"Access rule {access_id[:64]} could not be found.")
        if rule["snapshot_id"] != snapshot_id:
            raise InvalidInput(f"Access rule {access_id[:64]} is not associated with snapshot {snapshot_id}.")
        if rule["state"] in AccessState.LEAVING:
            return
        tx.execute(
            update(rules).where(rules.c.id == access_id).values(state=AccessState.QUEUED_TO_DENY, updated_at=utcnow())
        )
        _begin_change(tx, deployment, context, snapshot)


def list_rules(deployment: Deployment, context: RequestContext, snapshot_id: str) -> list[dict[str, Any]]:
    """The rules of a snapshot, oldest first."""
    rules = share_snapshot_access_rules
    with deployment.store.read() as tx:
        snapshot = snapshot_service.find(tx, context, snapshot_id, "share_snapshot:access_list")
        _share_of(tx, snapshot)
        query = select(rules).where(rules.c.snapshot_id == snapshot_id).order_by(rules.c.created_at, rules.c.id)
        found = fetch(tx, query)
    show_keys(deployment, context, snapshot["project_id"], found, allowing=_ALLOWING)
    return found


def _share_of(tx: Connection, snapshot: Record) -> dict[str, Any]:
    """The snapshot's share, which must be of a type whose snapshots can be mounted."""
    share = fetch_one(tx, select(shares).where(shares.c.id == snapshot["share_id"]))
    if share is None:
        raise NotFound(f"The share of snapshot {snapshot['id']} could not be found.")
    if not share["mount_snapshot_support"]:
        raise InvalidInput(
            f"Cannot control access to the snapshot {snapshot['id']} since the parent share {share['id']} does not"
            " support mounting its snapshots.",
            hint="Its share type needs the extra spec mount_snapshot_support = True when the share is created.",
        )
    return share


def _refuse_with_replicas(tx: Connection, share: Record) -> None:
    """Conflict: a promotion would take what clients have mounted from under them."""
    columns = share_instances.c
    query = select(columns.id).where(columns.share_id == share["id"], columns.is_main.is_(False)).limit(1)
    if tx.execute(query).first() is not None:
        raise Conflict(
            f"Snapshots of share {share['id']} cannot be mounted while it has replicas.",
            hint="Create a share from the snapshot instead, or delete the replicas.",
        )


def _same(tx: Connection, deployment: Deployment, snapshot_id: str, kind: str, client: str) -> str | None:
    """As of a share's rules: the id of the rule for that client that is being removed, if there is one."""
    rules = share_snapshot_access_rules
    found = rules_for(tx, rules, rules.c.snapshot_id, snapshot_id, kind, client)
    if found.id is not None and found.state not in AccessState.LEAVING:
        raise InvalidInput(f"Share snapshot access {kind}:{client} exists.")
    if found.id is None and found.total >= deployment.settings.api.max_access_rules:
        raise OverQuota(
            f"Snapshot {snapshot_id} has {found.total} access rules, and none may have more.",
            hint="Give access to a network instead of to each of its addresses, or remove rules.",
        )
    return None if found.id is None else str(found.id)


def _begin_change(
    tx: Connection, deployment: Deployment, context: RequestContext, snapshot: Record, *, more_seconds: float = 0.0
) -> None:
    submit_together(
        tx,
        deployment,
        context,
        "update_snapshot_access",
        "share_snapshot",
        snapshot["id"],
        more_seconds=more_seconds,
    )
