"""Rows that the stories of replicas read and write in the same way, and the drivers that can have replicas.

Operations on a replica have its share's key: they run one at a time with everything else that is done to the share.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from sharewright.drivers.contract import ReplicationDriver, ShareDriver
from sharewright.errors import SharewrightError, Unsupported
from sharewright.operations.contract import Operation
from sharewright.operations.create_share import find_driver
from sharewright.operations.messages import Action, Detail, Resource, write_message
from sharewright.operations.share_rows import ShareRow, read_shares, write_replica
from sharewright.states import WRITABLE, ReplicaState, ShareStatus
from sharewright.store.tables import share_instances, shares

RESOURCE = "share_replica"


def key_of(share_id: str) -> str:
    """The key of an operation on a replica of a share."""
    return f"share:{share_id}"


def read_replica(tx: Connection, replica_id: str) -> tuple[ShareRow, ShareRow] | None:
    """A replica and the share's main instance, which it may be itself; None when it is gone."""
    query = select(share_instances.c.share_id).where(share_instances.c.id == replica_id)
    share_id = tx.execute(query).scalar_one_or_none()
    instances = read_shares(tx, share_id) if share_id is not None else []
    replica = next((each for each in instances if each.instance_id == replica_id), None)
    return None if replica is None else (replica, instances[0])


def lock_replica(tx: Connection, replica_id: str) -> tuple[ShareRow, ShareRow] | None:
    """The same, with the share locked until the transaction ends."""
    found = read_replica(tx, replica_id)
    if found is None:
        return None
    tx.execute(select(shares.c.id).where(shares.c.id == found[0].id).with_for_update())
    return read_replica(tx, replica_id)


def state_of(tx: Connection, share_id: str, *, in_sync: bool) -> str:
    """The state of a replica that is not its share's main instance, by what its driver says of it."""
    query = select(shares.c.replication_type).where(shares.c.id == share_id)
    if not in_sync:
        return ReplicaState.OUT_OF_SYNC
    return ReplicaState.ACTIVE if tx.execute(query).scalar() == WRITABLE else ReplicaState.IN_SYNC


def find_replication_driver(drivers: Mapping[str, ShareDriver], backend: str) -> ReplicationDriver:
    """The backend's driver. Unsupported when it keeps no replicas, SharewrightError when there is none."""
    driver = find_driver(drivers, backend)
    if not isinstance(driver, ReplicationDriver):
        raise Unsupported(
            f"The driver of backend {backend} keeps no replicas.",
            hint="A share type that says replication_type keeps its shares off such backends.",
        )
    return driver


def fail_replica(
    tx: Connection,
    operation: Operation,
    error: SharewrightError,
    *,
    action: Action,
    detail: Detail = Detail.UNKNOWN_ERROR,
    **values: object,
) -> None:
    """Write a replica's error state (columns of its row), and the message that says why."""
    found = lock_replica(tx, operation.resource_id)
    if found is None:
        return
    replica, _ = found
    if replica.instance_status == ShareStatus.DELETING and values.get("status") == ShareStatus.ERROR:
        values = {name: value for name, value in values.items() if name != "status"}  # its deletion is to come
    write_replica(tx, replica.instance_id, **values)
    write_message(
        tx,
        operation,
        project_id=replica.project_id,
        resource_id=replica.instance_id,
        resource_type=Resource.SHARE_REPLICA,
        action=action,
        detail=detail,
        error=error,
    )
