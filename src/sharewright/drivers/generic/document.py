"""Build the document of one share server from the store: everything it should serve, as of one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import structlog
from sqlalchemy import Connection, and_, bindparam, or_, select

from sharewright.drivers.generic.mounts import Mount, mounts_on, rules_in_force
from sharewright.drivers.generic.moves import moves_on
from sharewright.errors import ConfigurationError, NotFound
from sharewright.guest.document import Document, Filesystem, Firewall, Rule, Share
from sharewright.states import WRITABLE, AccessState, ShareStatus
from sharewright.store.database import Store
from sharewright.store.tables import (
    share_access_rules,
    share_instances,
    share_servers,
    share_snapshot_access_rules,
    shares,
)

log = structlog.get_logger()
GIBIBYTE: Final = 2**30
SMB_PORT: Final = 445
REVERTING: Final = (
    ShareStatus.REVERTING, ShareStatus.REVERTING_ERROR,
    ShareStatus.BACKUP_RESTORING, ShareStatus.BACKUP_RESTORING_ERROR,
)  # fmt: skip


_NEXT_GENERATION: Final = (
    share_servers.update()
    .where(share_servers.c.id == bindparam("server"))
    .values(generation=share_servers.c.generation + 1)
    .returning(share_servers.c.generation)
)
_GENERATION: Final = select(share_servers.c.generation).where(share_servers.c.id == bindparam("server"))
_INSTANCES: Final = (
    select(
        share_instances.c.id,
        share_instances.c.share_id,
        share_instances.c.volume_serial,
        share_instances.c.filesystem_type,
        share_instances.c.filesystem_uuid,
        share_instances.c.filesystem_ready,
        share_instances.c.size,
        share_instances.c.squash,
        share_instances.c.clone_of,
        share_instances.c.taken_over,
        share_instances.c.old_volume_serial,
        shares.c.status,  # a replica is reverted with its share and says nothing of it
        share_instances.c.volume_attached,
        share_instances.c.wanted,
        share_instances.c.smb_encryption,
        share_instances.c.is_main,
        shares.c.replication_type,
        shares.c.protocol,
    )
    .join(shares, shares.c.id == share_instances.c.share_id)
    .where(
        share_instances.c.share_server_id == bindparam("server"),
        or_(
            and_(share_instances.c.wanted.is_(True), share_instances.c.volume_attached.is_(True)),
            share_instances.c.clone_of.is_not(None),
        ),
    )
    .order_by(share_instances.c.created_at, share_instances.c.id)
)
_RULES: Final = (
    select(
        share_access_rules.c.id,
        share_access_rules.c.share_id,
        share_access_rules.c.access_type,
        share_access_rules.c.access_to,
        share_access_rules.c.access_level,
        share_access_rules.c.access_key,
    )
    .where(
        share_access_rules.c.share_id.in_(
            select(share_instances.c.share_id).where(share_instances.c.share_server_id == bindparam("server"))
        ),
        share_access_rules.c.state.in_((AccessState.QUEUED_TO_APPLY, AccessState.APPLYING, AccessState.ACTIVE)),
    )
    .order_by(share_access_rules.c.created_at, share_access_rules.c.id)
)


def build_document(
    store: Store,
    server_id: str,
    firewall: Firewall | None,
    open_key: Callable[[str], str],
    *,
    network: Any = None,
    borrowed: bool = False,
    advance: bool = True,
) -> Document:
    """The whole desired state of a server; ``firewall`` and ``network`` are its service instance's. Raises NotFound
    when its row is gone. ``open_key`` opens a rule's sealed access key, or raises ConfigurationError; the guest then
    refuses that rule.

    Taking the next generation locks the server's row, so documents of one server are read one after another: the one
    with the higher generation has seen everything that the lower one saw. ``advance=False`` (for observing) reads
    without taking a number.
    """
    with store.begin() if advance else store.read() as tx:
        if advance:
            generation = tx.execute(_NEXT_GENERATION, {"server": server_id}).scalar_one_or_none()
        else:
            generation = tx.execute(_GENERATION, {"server": server_id}).scalar_one_or_none()
        if generation is None:
            raise NotFound(f"Share server {server_id} does not exist any more.")
        instances = tx.execute(_INSTANCES, {"server": server_id}).all()
        # Volumes that somebody else made: what is on them is not known before the guest has looked.
        unknown = [row for row in instances if row.filesystem_uuid is None]
        instances = [row for row in instances if row.filesystem_uuid is not None]
        # Copies that may carry another share's UUID still, whether they are attached already or not.
        doubled = {row.clone_of for row in instances if row.clone_of is not None and not row.filesystem_ready}
        mounts = mounts_on(tx, server_id)
        doubled |= {mount.parent_uuid for mount in mounts if not mount.filesystem_ready}
        served = [mount for mount in mounts if mount.is_served]
        snapshot_rules = _snapshot_rules(tx, served, open_key)
        moves = moves_on(tx, server_id)
        rules_by_share: dict[str, list[Rule]] = defaultdict(list)
        for rule in tx.execute(_RULES, {"server": server_id}):
            rules_by_share[rule.share_id].append(_rule(rule, rule.access_level, open_key))
    smb = any(row.protocol == "CIFS" and row.wanted and row.volume_attached for row in instances)
    return Document(
        server_id=server_id,
        generation=generation,
        firewall=None if firewall is None else _narrowed(firewall, smb=smb),
        network=network,
        borrowed=borrowed,
        shares=tuple(
            Share(
                id=row.id,
                serial=row.volume_serial,
                # The journal's word that the volume is new is filesystem_ready = false, and that we made it; the guest
                # formats only if the volume is blank as well, and merely uses one that already carries this UUID.
                filesystem=Filesystem(
                    row.filesystem_type,
                    row.filesystem_uuid,
                    create=not row.filesystem_ready and row.clone_of is None and row.taken_over,
                    size=row.size * GIBIBYTE,
                    clone_of="" if row.filesystem_ready else row.clone_of or "",
                ),
                protocol=row.protocol,
                # Clients write to active replicas only; what they would write to another would be lost.
                rules=tuple(
                    rule
                    if row.is_main or row.replication_type == WRITABLE
                    else msgspec.structs.replace(rule, access_level="ro")
                    for rule in rules_by_share[row.share_id]
                ),
                squash=row.squash,
                # A reverted share's next volume begins with the UUID that its present one may have.
                by_serial=row.filesystem_uuid in doubled or row.status in REVERTING,
                replaces=row.old_volume_serial or "",
                encryption=row.smb_encryption or "",
                successor=moves[row.id].successor if row.id in moves else None,
            )
            for row in instances
            if row.wanted and row.volume_attached
        )
        + tuple(_snapshot_share(mount, snapshot_rules.get(mount.snapshot_id, ())) for mount in served),
        look=tuple(row.volume_serial for row in unknown if row.wanted and row.volume_attached),
    )


def _snapshot_share(mount: Mount, rules: Sequence[Rule]) -> Share:
    """A snapshot that clients mount. It began as a copy, so it is never formatted; and nobody writes to it."""
    return Share(
        id=mount.id,
        serial=str(mount.volume_serial),
        filesystem=Filesystem(
            mount.filesystem_type,  # type: ignore[arg-type]
            mount.filesystem_uuid,
            clone_of="" if mount.filesystem_ready else mount.parent_uuid,
        ),
        protocol=mount.protocol,  # type: ignore[arg-type]
        rules=tuple(rules),
        squash=mount.squash,  # type: ignore[arg-type]
        encryption=mount.smb_encryption or "",  # type: ignore[arg-type]
        read_only=True,
    )


def _snapshot_rules(
    tx: Connection, mounts: Sequence[Mount], open_key: Callable[[str], str]
) -> Mapping[str, Sequence[Rule]]:
    """Snapshot → its rules."""
    found: dict[str, list[Rule]] = defaultdict(list)
    snapshots = [mount.snapshot_id for mount in mounts]
    rows = rules_in_force(tx, share_snapshot_access_rules.c.snapshot_id.in_(snapshots)) if snapshots else []
    for row in rows:
        found[row.snapshot_id].append(_rule(row, "ro", open_key))
    return found


def _rule(row: Any, level: Literal["rw", "ro"], open_key: Callable[[str], str]) -> Rule:
    """A row as the guest knows it: the name of a user, which the row has as it was given, is that of an account."""
    return Rule(row.id, row.access_to.lower(), level, access_type=row.access_type, access_key=_opened(row, open_key))


def _opened(rule: Any, open_key: Callable[[str], str]) -> str:
    if rule.access_key is None:
        return ""
    try:
        return open_key(rule.access_key)
    except ConfigurationError as error:
        log.error("the access key of a rule cannot be opened", access_rule=rule.id, reason=error.message)
        return ""


def _narrowed(firewall: Firewall, *, smb: bool) -> Firewall:
    """A server's firewall with the SMB port open only while it serves SMB shares. The NFS port stays: behind a closed
    one, clients of a share that is gone would wait for ever."""
    others = tuple(port for port in firewall.client_ports if port != SMB_PORT)
    return msgspec.structs.replace(firewall, client_ports=(*others, SMB_PORT) if smb else others)
