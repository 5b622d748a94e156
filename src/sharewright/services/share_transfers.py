"""Transfers: a project offers a share, and another one that has been told the key takes it over, with its snapshots.

The key is shown once and kept as a salted digest. Only shares that are not on a share network can be transferred:
a share server belongs to one project.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, select, update

from sharewright.context import RequestContext
from sharewright.errors import Forbidden, InvalidInput, NotFound
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.services import access_rules, share_types
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record, fetch, fetch_one
from sharewright.services.lists import Page, contains, fetch_page
from sharewright.services.policy import allows, authorize, can_see
from sharewright.store.quotas import check_share_size, read_limits, release, reserve, share_amounts
from sharewright.store.tables import share_snapshots, share_transfers, shares

AWAITING: Final = "awaiting_transfer"
COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: share_transfers.c[name] for name in ("id", "name", "resource_id", "created_at", "expires_at")
}
_EXACT: Final = ("id", "name", "resource_type", "resource_id", "source_project_id")
_TRANSFERS: Final = share_transfers.c


def find(tx: Connection, context: RequestContext, identifier: str, rule: str = "share_transfer:get") -> dict[str, Any]:
    """A transfer's row, for the project that offers. Raises NotFound or Forbidden."""
    authorize(context, rule)
    query = select(share_transfers).where(_TRANSFERS.id == identifier)
    row = fetch_one(tx, query) if is_id(identifier) else None
    if row is None or not can_see(context, row["source_project_id"]):
        raise NotFound(f"Transfer {identifier[:64]} could not be found.")
    authorize(context, rule, row["source_project_id"])
    return row


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return find(tx, context, identifier)


def list_transfers(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The transfers that a project offers (an administrator: all). One statement."""
    authorize(context, "share_transfer:get_all")
    statement = select(share_transfers)
    if not (all_projects and allows(context, "share_transfer:get_all_tenant")):
        statement = statement.where(_TRANSFERS.source_project_id == context.project_id)
    statement = statement.where(*(_TRANSFERS[name] == filters[name] for name in _EXACT if name in filters))
    if "name~" in filters:
        statement = statement.where(contains(_TRANSFERS.name, filters["name~"]))
    with deployment.store.read() as tx:
        return fetch_page(tx, statement, page, columns=COLUMNS, identifier=_TRANSFERS.id)


def create(deployment: Deployment, context: RequestContext, share_id: str, name: str | None) -> Record:
    """Offer a share. The record has ``auth_key``, this once."""
    authorize(context, "share_transfer:create")
    identifier, salt, key = new_id(), secrets.token_hex(8), secrets.token_hex(16)
    with deployment.store.begin() as tx:
        try:
            share = share_service.find(tx, context, share_id, "share_transfer:create", lock=True)
        except NotFound:
            raise InvalidInput("Share specified was not found.") from None
        if share["status"] != "available":
            raise InvalidInput(f"Share's status must be available; it is '{share['status']}'.")
        if share["share_network_id"]:
            raise InvalidInput("Shares exported over share networks cannot be transferred.")
        if share["share_group_id"]:
            raise InvalidInput("Shares within share groups cannot be transferred.")
        if share["has_replicas"]:
            raise InvalidInput("Shares with replicas cannot be transferred.", hint="Delete them first.")
        _check_snapshots(_snapshots(tx, share_id))
        try:
            share_service.refuse_with_backups(tx, share_id)  # which would stay this project's
        except Forbidden as error:
            raise InvalidInput(error.message, hint=error.hint) from None
        tx.execute(update(shares).where(shares.c.id == share_id).values(status=AWAITING, updated_at=utcnow()))
        tx.execute(
            share_transfers.insert().values(
                id=identifier,
                name=name,
                resource_type="share",
                resource_id=share_id,
                source_project_id=share["project_id"],
                salt=salt,
                key_digest=_digest(salt, key),
                created_at=utcnow(),
            )
        )
        return {**find(tx, context, identifier), "auth_key": key}


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Take an offer back; the share is available again."""
    with deployment.store.begin() as tx:
        transfer = find(tx, context, identifier, "share_transfer:delete")
        share = share_service.find(tx, context, transfer["resource_id"], lock=True)
        if share["status"] != AWAITING:
            raise Forbidden(f"Share {share['id']} is in status '{share['status']}', not '{AWAITING}'.")
        tx.execute(update(shares).where(shares.c.id == share["id"]).values(status="available", updated_at=utcnow()))
        tx.execute(delete(share_transfers).where(_TRANSFERS.id == identifier))


def accept(
    deployment: Deployment, context: RequestContext, identifier: str, key: str, *, clear_access_rules: bool
) -> None:
    """Take over the share that is offered, with its snapshots: they count in the caller's quotas from now on."""
    authorize(context, "share_transfer:accept")
    with deployment.store.begin() as tx:
        query = select(share_transfers).where(_TRANSFERS.id == identifier).with_for_update()
        transfer = fetch_one(tx, query) if is_id(identifier) else None
        if transfer is None:
            raise NotFound(f"Transfer {identifier[:64]} could not be found.")
        if not hmac.compare_digest(_digest(transfer["salt"], key), transfer["key_digest"]):
            raise InvalidInput(f"Invalid auth key: it is not that of transfer {identifier}.")
        share = fetch_one(tx, select(shares).where(shares.c.id == transfer["resource_id"]).with_for_update())
        if share is None or share["status"] != AWAITING:
            raise InvalidInput(f"The share of transfer {identifier} does not wait for it any more.")
        try:
            share_types.choose(tx, deployment, context, share["share_type_id"])
        except NotFound:
            raise InvalidInput("The share's type is not public, and this project has no access to it.") from None
        snapshots = _snapshots(tx, share["id"])
        _check_snapshots(snapshots)
        _move_quotas(tx, deployment, context, share, snapshots)
        owner = {"project_id": context.project_id, "user_id": context.user_id, "updated_at": utcnow()}
        tx.execute(update(shares).where(shares.c.id == share["id"]).values(status="available", **owner))
        tx.execute(update(share_snapshots).where(share_snapshots.c.share_id == share["id"]).values(**owner))
        tx.execute(delete(share_transfers).where(_TRANSFERS.id == identifier))
        if clear_access_rules:
            access_rules.deny_all(tx, deployment, context, share["id"])
    deployment.wake()


# ---- parts -----------------------------------------------------------------------------------------------------------


def _digest(salt: str, key: str) -> str:
    return hmac.new(salt.encode(), key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _snapshots(tx: Connection, share_id: str) -> list[dict[str, Any]]:
    return fetch(tx, select(share_snapshots).where(share_snapshots.c.share_id == share_id))


def _check_snapshots(snapshots: Sequence[Record]) -> None:
    for snapshot in snapshots:
        if snapshot["status"] != "available":
            raise InvalidInput(f"Snapshot {snapshot['id']} is in status '{snapshot['status']}', not 'available'.")


def _move_quotas(
    tx: Connection, deployment: Deployment, context: RequestContext, share: Record, snapshots: Sequence[Record]
) -> None:
    settings, type_id = deployment.settings.quotas, share["share_type_id"]
    limits = read_limits(tx, settings, context.project_id)
    check_share_size(limits, share["size"], user_id=context.user_id, share_type_id=type_id)
    amounts = share_amounts(share["size"], replicated=share["replication_type"] is not None)
    owners = [(share["user_id"], amounts)]
    owners += [(each["user_id"], {"snapshots": 1, "snapshot_gigabytes": each["size"]}) for each in snapshots]
    for user_id, given in owners:
        reserve(
            tx, settings, project_id=context.project_id, user_id=context.user_id, share_type_id=type_id, amounts=given
        )
        release(tx, project_id=share["project_id"], user_id=user_id, share_type_id=type_id, amounts=given)
