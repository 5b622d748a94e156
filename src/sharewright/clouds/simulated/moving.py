"""Shares that move to another volume, as guest/program/moving.py does it: the copy has an identity of its own, and gets
that of the share's next file system at the switch, which alone decides which of both is served."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from sharewright.guest.document import Filesystem, Share

GIBIBYTE = 2**30
Failure = Callable[[str], str]  # name of a step → why it fails, or ""


def settle(
    tx: sqlite3.Connection, instance_id: str, share: Share, failure: Failure | None
) -> tuple[Share, dict[str, str]]:
    """The share on the volume that it is served from, and the fields of its state that tell of the move. ``failure``
    None: only look."""
    new = share.successor
    if new is None:
        return share, {}
    moved = msgspec.structs.replace(
        share,
        serial=new.serial,
        filesystem=Filesystem(share.filesystem.type, new.uuid, size=new.size),
        replaces=share.serial,
    )
    row = tx.execute(
        "SELECT filesystem_uuid FROM volumes WHERE id = ? AND instance_id = ?", (new.serial, instance_id)
    ).fetchone()
    if row is None:
        known = tx.execute(
            "SELECT 1 FROM guest_shares WHERE instance_id = ? AND share_id = ? AND filesystem_uuid = ?",
            (instance_id, share.id, share.filesystem.uuid),
        ).fetchone()
        return (share if new.step == "copy" or known else moved), {"move": ""}
    if row["filesystem_uuid"] == new.uuid:
        return moved, {"move": "moved"}
    if new.step == "cancel":
        return share, {"move": "stopped"}
    copied = row["filesystem_uuid"] == new.copy_uuid
    if failure is None:
        return share, {"move": "ready" if copied else ""}
    if not copied:
        for step, state in (("guest.fit", "does_not_fit"), ("guest.copy", "failed")):
            if reason := failure(step):
                return share, {"move": state, "move_message": reason}
        _write(tx, new.serial, new.copy_uuid, new.size)
        return share, {"move": "copying"}
    if new.step == "copy":
        return share, {"move": "ready"}
    for step, state in (("guest.part", "in_use"), ("guest.switch", "late")):
        if reason := failure(step):
            _write(tx, new.serial, None, 0)  # copied again
            return share, {"move": state, "move_message": reason}
    _write(tx, new.serial, new.uuid, new.size)
    return moved, {"move": "moved"}


def _write(tx: sqlite3.Connection, volume_id: str, uuid: str | None, size: int) -> None:
    tx.execute(
        "UPDATE volumes SET filesystem_uuid = ?, filesystem_type = 'ext4', filesystem_size = ? WHERE id = ?",
        (uuid, size // GIBIBYTE or None, volume_id),
    )
