"""New shares: what a request may ask for, and the rows that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.affinities import keep_affinities
from sharewright.operations.type_specs import (
    REPLICATION_SPEC,
    SUPPORT,
    check_protocol_specs,
    check_size,
    instance_columns,
)
from sharewright.services import share_types as types
from sharewright.services.deployment import Deployment, Record
from sharewright.services.group_members import check_group_has_type, join_group
from sharewright.services.policy import authorize
from sharewright.services.qos_types import check_qos
from sharewright.services.records import write_map
from sharewright.services.share_places import choose_network, choose_zone, is_true, parse_hints
from sharewright.services.share_sources import COPY_SECONDS, read_source
from sharewright.services.shares import check_admin_metadata, find, read
from sharewright.services.validation import check_metadata, check_protocol
from sharewright.services.work import submit
from sharewright.states import ReplicaState, ShareStatus
from sharewright.store.kept import whole_row
from sharewright.store.quotas import check_share_size, read_limits, reserve_at_end, share_amounts
from sharewright.store.tables import share_instances, share_metadata, shares
from sharewright.store.transaction import add_row_at_end, once, write_now

# What a new share may ask for only of backends with a capability that none of ours has.
_INCAPABLE: Final = {"mount_point_name": "mount_point_name_support", "encryption_key_ref": "encryption_support"}


def create(
    deployment: Deployment, context: RequestContext, values: Mapping[str, Any], *, in_any_zone: bool = False
) -> Record:
    """Accept a new share: its rows, the quota and the operation in one transaction. ``in_any_zone``: also where its
    type's extra spec availability_zones does not name the zone.

    ``values``: size (GiB) and protocol; name, description, share_type (id or name), share_network_id,
    availability_zone, is_public, metadata, scheduler_hints (which the operation honours). With snapshot_id the share is
    made from that, with share_group_id it is in that group, and takes over what is not given.
    """
    authorize(context, "share:create")
    if values.get("is_public"):
        authorize(context, "share:create_public_share")
    protocol = check_protocol(values["protocol"], deployment.settings.enabled_share_protocols)
    metadata = check_metadata(values.get("metadata") or {})
    check_admin_metadata(context, metadata)
    for name, capability in _INCAPABLE.items():
        if values.get(name) is not None:
            raise InvalidInput(f"{name} is not supported by the share type used: it needs {capability}.")
    hints = parse_hints(values.get("scheduler_hints") or {})
    if "only_host" in hints:
        authorize(context, "share:create_on_host")

    def accept(tx: Connection) -> Record:
        source = read_source(tx, context, values)
        wanted = values if source is None else source.values
        wanted = join_group(tx, context, wanted)
        named = wanted.get("share_type")
        caller = (context.user_id, context.roles)  # not everybody may use every type
        share_type = once(tx, ("type", named, caller), lambda: types.choose(tx, deployment, context, named))
        if source is not None:
            source.check_type(share_type["id"])
        check_group_has_type(tx, wanted.get("share_group_id"), share_type["id"])
        specs = share_type["extra_specs"]
        check_size(specs, wanted["size"])
        check_protocol_specs(specs, protocol)
        check_qos(tx, specs)
        for share_id in (*hints.get("same_host", ()), *hints.get("different_host", ())):
            find(tx, context, share_id)  # of what the caller cannot see, the place is none of the caller's business
        zone = choose_zone(tx, {} if in_any_zone else specs, wanted.get("availability_zone"))
        network_id = choose_network(tx, context, specs, wanted.get("share_network_id"), zone)
        seconds = 0.0
        scheduling: dict[str, Any] = {"scheduler_hints": hints} if hints else {}
        if source is not None:
            seconds = COPY_SECONDS * wanted["size"]
            # Where its snapshot is.
            scheduling = {"scheduler_hints": {**hints, "only_host": source.host}}
        record: Record = insert(
            tx,
            deployment,
            context,
            {**wanted, "protocol": protocol, "availability_zone": zone, "share_network_id": network_id},
            share_type,
            source.instance if source is not None else instance_columns(specs),
            scheduling | ({"in_any_zone": True} if in_any_zone else {}),
            snapshot_id=source.snapshot_id if source is not None else None,
            more_seconds=seconds,
        )
        if metadata or hints:
            write_now(tx)
            write_map(tx, share_metadata, share_metadata.c.share_id, record["id"], metadata, replace=False)
            keep_affinities(tx, record["id"], hints)
        if hints:  # some of them are metadata now
            record = read(tx, context, record["id"], paths=False)
        else:
            told = {"share_type_name": share_type["name"], "has_replicas": False}
            record = {**record, **told, "metadata": dict(sorted(metadata.items()))}
        return {**record, "export_location": None}

    # Those of one project that come at once are accepted in one transaction, but for those that look at more rows.
    is_plain = not (metadata or hints or values.get("snapshot_id") or values.get("share_group_id"))
    record = deployment.store.together(("create_share", context.project_id) if is_plain else None, accept)
    deployment.wake()
    return record


def insert(
    tx: Connection,
    deployment: Deployment,
    context: RequestContext,
    values: Mapping[str, Any],
    share_type: Record,
    instance: Mapping[str, Any],
    payload: Mapping[str, Any],
    *,
    more_seconds: float = 0.0,
    **columns: Any,
) -> dict[str, Any]:
    """Write the rows of a new share with its quota and its operation as the transaction ends, and return its own.
    ``values`` as of :func:`create`, checked; ``columns``: what else its row says, ``instance``: what its instance's
    does."""
    identifier, now = new_id(), utcnow()
    quotas, size, specs = deployment.settings.quotas, values["size"], share_type["extra_specs"]
    limits = once(tx, ("limits", context.project_id), lambda: read_limits(tx, quotas, context.project_id))
    check_share_size(limits, size, user_id=context.user_id, share_type_id=share_type["id"])
    placed = {name: values.get(name) for name in ("availability_zone", "share_network_id")}
    row = {
        "id": identifier,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": values.get("name"),
        "description": values.get("description"),
        "size": size,
        "protocol": values["protocol"],
        "is_public": bool(values.get("is_public")),
        "share_type_id": share_type["id"],
        "status": ShareStatus.CREATING,
        "share_group_id": values.get("share_group_id") or None,
        "created_at": now,
        **placed,
        **type_columns(specs),
        **columns,
    }
    share = whole_row(shares, row)
    add_row_at_end(tx, shares, **share)
    add_row_at_end(
        tx,
        share_instances,
        id=new_id(),
        share_id=identifier,
        status=ShareStatus.CREATING,
        size=size,
        replica_state=first_state(specs),
        created_at=now,
        **placed,
        **instance,
    )
    submit(
        tx, deployment, context, "create_share", "share", identifier, payload, more_seconds=more_seconds, at_end=True
    )
    amounts = share_amounts(size, replicated=REPLICATION_SPEC in specs)
    # Last of all: every request of the project waits for these rows.
    reserve_at_end(
        tx,
        limits,
        project_id=context.project_id,
        user_id=context.user_id,
        share_type_id=share_type["id"],
        amounts=amounts,
    )
    return share


def type_columns(specs: Mapping[str, str]) -> Record:
    """What a type says of a new share, as columns of its row."""
    return {"replication_type": specs.get(REPLICATION_SPEC), **{name: is_true(specs, name) for name in SUPPORT}}


def first_state(specs: Mapping[str, str]) -> str | None:
    """The replica_state of a new share's only instance."""
    return ReplicaState.ACTIVE if REPLICATION_SPEC in specs else None
