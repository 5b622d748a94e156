"""What it means for a new share to be in a share group: what it takes over, and Manila's refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, NotFound
from sharewright.identifiers import is_id
from sharewright.services.deployment import Record, fetch_one
from sharewright.states import ShareGroupStatus
from sharewright.store.tables import share_group_share_types, share_groups


def join_group(tx: Connection, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """The values of a request for a share, with the network and the zone of the group that it names. Another network or
    zone than the group's, or a group that is not available, is refused (400). The group stays while the transaction
    lasts."""
    identifier = values.get("share_group_id")
    if not identifier:
        return values
    group = None
    if is_id(identifier):
        group = fetch_one(tx, select(share_groups).where(share_groups.c.id == identifier).with_for_update(read=True))
    if group is None or group["project_id"] != context.project_id:
        raise NotFound(f"Share group {str(identifier)[:64]} could not be found.")
    if group["status"] != ShareGroupStatus.AVAILABLE:
        raise InvalidInput(f"Share group {identifier} is in status '{group['status']}'; it must be available.")
    taken = {}
    for name, what in (("share_network_id", "share network"), ("availability_zone", "availability zone")):
        taken[name] = values.get(name) or group[name]
        if group[name] is not None and taken[name] != group[name]:
            raise InvalidInput(
                f"A share in share group {identifier} must have the group's {what}, which is {group[name]}.",
                hint="Leave it out, and the share gets it.",
            )
    return {**values, **taken}


def check_group_has_type(tx: Connection, identifier: str | None, share_type_id: str) -> None:
    """InvalidInput when the group named is for other share types."""
    if not identifier:
        return
    members = share_group_share_types.c
    allowed = tx.execute(select(members.share_type_id).where(members.share_group_id == identifier)).scalars().all()
    if share_type_id not in allowed:
        raise InvalidInput(
            f"The specified share type (requested: {share_type_id}) is not supported by the specified share group"
            f" (supported: {', '.join(sorted(allowed))})."
        )


def check_named_group(share: Record, named: str | None) -> None:
    """InvalidInput when a share that is in a group is to be deleted and the request does not name that group."""
    if share["share_group_id"] and named != share["share_group_id"]:
        said = f"Must provide 'share_group_id' when deleting a share in a share group: {share['share_group_id']}"
        raise InvalidInput(said if not named else f"{said}, not {named[:64]}.")
