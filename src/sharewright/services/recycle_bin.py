"""The recycle bin: shares that were deleted softly. They are served on, nothing about them changes, and they are
deleted when their time is over (operations/maintenance.py)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import update

from sharewright.context import RequestContext
from sharewright.errors import Forbidden
from sharewright.identifiers import utcnow
from sharewright.services.deployment import Deployment
from sharewright.services.locks import refuse_locked_share
from sharewright.services.shares import find, refuse_with_backups, refuse_with_replicas, refuse_with_snapshots
from sharewright.states import ShareStatus
from sharewright.store.tables import shares

_STATUSES: Final = (ShareStatus.AVAILABLE, ShareStatus.ERROR, "inactive")


def soft_delete(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Put a share into the bin for ``worker.soft_deleted_share_seconds``."""
    now = utcnow()
    with deployment.store.begin() as tx:
        share = find(tx, context, identifier, "share:soft_delete", lock=True)
        if share["is_soft_deleted"]:
            raise Forbidden("The share has been soft deleted already.")
        refuse_locked_share(tx, identifier)
        if share["status"] not in _STATUSES:
            raise Forbidden(f"Share status must be one of {', '.join(_STATUSES)}; it is '{share['status']}'.")
        if share["share_group_id"]:
            raise Forbidden(f"Share {identifier} is in share group {share['share_group_id']}.")
        refuse_with_replicas(share, "delete it")
        refuse_with_snapshots(tx, identifier)
        refuse_with_backups(tx, identifier)
        until = now + timedelta(seconds=deployment.settings.worker.soft_deleted_share_seconds)
        tx.execute(
            update(shares)
            .where(shares.c.id == identifier)
            .values(is_soft_deleted=True, scheduled_to_be_deleted_at=until, updated_at=now)
        )


def restore(deployment: Deployment, context: RequestContext, identifier: str) -> bool:
    """Take a share out of the bin again. False: it was not in it."""
    now = utcnow()
    with deployment.store.begin() as tx:
        share = find(tx, context, identifier, "share:restore", lock=True)
        if not share["is_soft_deleted"]:
            return False
        if share["scheduled_to_be_deleted_at"] <= now:
            raise Forbidden(f"Share {identifier} has expired in the recycle bin and is being deleted.")
        tx.execute(
            update(shares)
            .where(shares.c.id == identifier)
            .values(is_soft_deleted=False, scheduled_to_be_deleted_at=None, updated_at=now)
        )
        return True
