"""The size of a share: what a request may do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select

from sharewright.context import RequestContext
from sharewright.errors import Forbidden, InvalidInput, OverQuota
from sharewright.services import shares as share_service
from sharewright.services.deployment import Deployment, Record
from sharewright.services.policy import allows, authorize
from sharewright.services.records import read_maps
from sharewright.services.transitions import SHARE
from sharewright.services.work import submit
from sharewright.states import ShareStatus
from sharewright.store.quotas import check_share_size, read_limits, reserve
from sharewright.store.tables import share_instances, share_type_extra_specs

# A slow volume copies 10 MB in a second, and what changes meanwhile is copied again.
COPY_SECONDS_PER_GIB: Final = 200.0


def extend(deployment: Deployment, context: RequestContext, identifier: str, size: int, *, force: bool = False) -> None:
    """Accept a larger size (GiB): the quota for the growth, the status and the operation in one transaction.

    ``force`` (admin) does not ask whether the pool has room. Manila's refusals: 400 for a status or a size that does
    not allow it, 403 for the quota of gigabytes, 413 for that of a single share.
    """
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:extend", lock=True)
        if force:
            authorize(context, "share:force_extend", share["project_id"])
        SHARE["extend"].check("Share", identifier, share["status"])
        if size <= share["size"]:
            raise InvalidInput(
                f"New size for extend must be greater than current size. (current: {share['size']}, extended: {size})."
            )
        type_id = share["share_type_id"]
        specs = read_maps(tx, share_type_extra_specs, share_type_extra_specs.c.share_type_id, [type_id])[type_id]
        _check_largest(
            specs, size, beyond=allows(context, "share:extend_beyond_max_share_size_spec", share["project_id"])
        )
        # The owner's quota, whoever asks: it is the owner's that a deletion gives back.
        quotas, growth = deployment.settings.quotas, size - share["size"]
        limits = read_limits(tx, quotas, share["project_id"])
        check_share_size(limits, size, user_id=share["user_id"], share_type_id=type_id)
        try:
            reserve(
                tx,
                quotas,
                project_id=share["project_id"],
                user_id=share["user_id"],
                share_type_id=type_id,
                amounts={"gigabytes": growth},
            )
        except OverQuota as error:
            raise Forbidden(error.message, hint=error.hint) from None
        replicas = _count_replicas(tx, share)
        if replicas:
            reserve(
                tx,
                quotas,
                project_id=share["project_id"],
                user_id=share["user_id"],
                share_type_id=type_id,
                amounts={"replica_gigabytes": growth * replicas},
            )
        share_service.write_status(tx, identifier, ShareStatus.EXTENDING)
        payload = {"size": size, "reserved": growth, "force": force, "status": share["status"]}
        submit(tx, deployment, context, "extend_share", "share", identifier, payload)
    deployment.wake()


def shrink(deployment: Deployment, context: RequestContext, identifier: str, size: int) -> None:
    """Accept a smaller size (GiB): the status and the operation in one transaction. The quota is given back when the
    share is smaller. Manila's refusals: 400 for a status or a size that does not allow it."""
    with deployment.store.begin() as tx:
        share = share_service.find(tx, context, identifier, "share:shrink", lock=True)
        SHARE["shrink"].check("Share", identifier, share["status"])
        share_service.refuse_with_replicas(share, "shrink it")
        if not 0 < size < share["size"]:
            raise InvalidInput(
                "New size for shrink must be less than current size and greater than 0"
                f" (current: {share['size']}, new: {size})."
            )
        type_id = share["share_type_id"]
        specs = read_maps(tx, share_type_extra_specs, share_type_extra_specs.c.share_type_id, [type_id])[type_id]
        smallest = specs.get("provisioning:min_share_size")
        if smallest and size < int(smallest):
            raise InvalidInput(f"Share size {size} is less than {smallest} GiB, the share type's min_share_size.")
        share_service.write_status(tx, identifier, ShareStatus.SHRINKING)
        payload = {"size": size, "status": share["status"]}
        more = COPY_SECONDS_PER_GIB * share["size"]
        submit(tx, deployment, context, "shrink_share", "share", identifier, payload, more_seconds=more)
    deployment.wake()


def _count_replicas(tx: Connection, share: Record) -> int:
    """How many replicas grow with a share; InvalidInput when one of them cannot, as it is not available."""
    if share["replication_type"] is None:
        return 0
    columns = share_instances.c
    query = select(columns.id, columns.is_main, columns.status).where(columns.share_id == share["id"])
    found = tx.execute(query).all()
    for row in found:
        if not row.is_main and row.status != ShareStatus.AVAILABLE:
            raise InvalidInput(
                f"Replica {row.id} is in status '{row.status}', so the share cannot grow.",
                hint="Wait until it is available, or delete it.",
            )
    return len(found)


def _check_largest(specs: Mapping[str, str], size: int, *, beyond: bool) -> None:
    """The share type's largest size in GiB; who may go beyond it has another limit."""
    name = "max_share_extend_size" if beyond else "max_share_size"
    largest = specs.get(f"provisioning:{name}")
    if largest and size > int(largest):
        raise InvalidInput(f"Share size {size} is greater than {largest} GiB, the share type's {name}.")
