"""What the guest says about use, kept in the store, where any process finds it: sizes and traffic of each share,
clients and operations of each server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, select

from sharewright.guest.document import ShareState, State, Usage
from sharewright.identifiers import utcnow
from sharewright.store.tables import share_instances, share_servers

# Columns of share_instances with the fields of ShareState of the same names.
COLUMNS: Final = ("bytes_total", "bytes_used", "inodes_total", "inodes_used", "bytes_read", "bytes_written")
# NFSv4 operations that are told apart (RFC 8881, section 16.2), by number; the others are summed up.
NFS_OPERATIONS: Final = {
    3: "access", 4: "close", 5: "commit", 6: "create", 9: "getattr", 12: "lock", 15: "lookup", 18: "open", 25: "read",
    26: "readdir", 28: "remove", 29: "rename", 34: "setattr", 38: "write",
}  # fmt: skip
# SMB2 commands ([MS-SMB2] 2.2.1.2) by Samba's names; what a guest may name besides is summed up.
SMB_OPERATIONS: Final = {
    "smb2_negprot": "negotiate", "smb2_sesssetup": "session_setup", "smb2_logoff": "logoff",
    "smb2_tcon": "tree_connect", "smb2_tdis": "tree_disconnect", "smb2_create": "create", "smb2_close": "close",
    "smb2_flush": "flush", "smb2_read": "read", "smb2_write": "write", "smb2_lock": "lock", "smb2_ioctl": "ioctl",
    "smb2_cancel": "cancel", "smb2_keepalive": "echo", "smb2_find": "query_directory", "smb2_notify": "change_notify",
    "smb2_getinfo": "query_info", "smb2_setinfo": "set_info", "smb2_break": "oplock_break",
}  # fmt: skip


def share_usage(share: ShareState) -> dict[str, int | None]:
    """The columns of a share instance that the guest's answer fills."""
    return {name: getattr(share, name) for name in COLUMNS}


def changed_usage(tx: Connection, state: State) -> Sequence[Mapping[str, Any]]:
    """The rows of share_instances whose columns differ from what the guest says; for :func:`write_usage`."""
    told = {share.id: share_usage(share) for share in state.shares}
    columns = [share_instances.c[name] for name in COLUMNS]
    rows = tx.execute(select(share_instances.c.id, *columns).where(share_instances.c.id.in_(told))).mappings()
    return [
        {"instance": row["id"], **told[row["id"]]}
        for row in rows
        if any(row[name] != value for name, value in told[row["id"]].items())
    ]


def write_usage(tx: Connection, server_id: str, changes: Sequence[Mapping[str, Any]], state: State) -> None:
    """In a fenced transaction."""
    if changes:
        tx.execute(
            share_instances.update()
            .where(share_instances.c.id == bindparam("instance"))
            .values({name: bindparam(name) for name in COLUMNS}),
            list(changes),
        )
    if state.usage is not None:
        values = server_usage(state, state.usage)
        tx.execute(
            share_servers.update().where(share_servers.c.id == server_id).values(usage=values, usage_at=utcnow())
        )


def server_usage(state: State, usage: Usage) -> dict[str, Any]:
    """What the store keeps of it, under names of ours only: a guest is in the reach of its tenant."""
    shares = {share.id for share in state.shares}
    return {
        **msgspec.structs.asdict(usage),
        "nfs_operations": _named(usage.nfs_operations),
        "smb_operations": _named_smb(usage.smb_operations),
        "smb_connections": {share: count for share, count in usage.smb_connections.items() if share in shares},
    }


def _named(counts: Sequence[int]) -> dict[str, int]:
    named = {name: counts[number] for number, name in NFS_OPERATIONS.items() if number < len(counts)}
    return {**named, "other": sum(counts) - sum(named.values())} if named else {}


def _named_smb(counts: Mapping[str, int]) -> dict[str, int]:
    named = {name: counts[key] for key, name in SMB_OPERATIONS.items() if key in counts}
    others = sum(counts.values()) - sum(named.values())
    return {**named, "other": others} if others > 0 else named
