"""What a simulated guest serves: the shares that it has mounted, and their volumes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from ipaddress import ip_network
from typing import TypedDict

from sharewright.clouds.simulated.moving import GIBIBYTE
from sharewright.clouds.simulated.state import dump
from sharewright.guest.document import Document, Share, ShareState

INODES = 65536  # of a file system, per GiB: mkfs.ext4's


class Served:
    """The shares of one instance, inside a transaction: read at once, however many there are. ``failure``: the name of
    a step → why a test wants it to fail, or ""."""

    def __init__(self, tx: sqlite3.Connection, instance_id: str, failure: Callable[[str], str]) -> None:
        self._tx = tx
        self._instance_id = instance_id
        self._failure = failure
        volumes = tx.execute("SELECT * FROM volumes WHERE instance_id = ?", (instance_id,))
        self._volumes: dict[str, sqlite3.Row] = {row["id"]: row for row in volumes}
        shares = tx.execute("SELECT * FROM guest_shares WHERE instance_id = ?", (instance_id,))
        self._shares: dict[str, sqlite3.Row] = {row["share_id"]: row for row in shares}

    def remove_others(self, document: Document, changed: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Unexport and unmount what the document leaves out; return what is unmounted, and what is in use."""
        wanted = {share.id for share in document.shares}
        unmounted: list[str] = []
        busy: dict[str, str] = {}
        for share_id, row in self._shares.items():
            if share_id in wanted:
                continue
            if row["rules"] is not None:
                self._write("rules = NULL", share_id)
                changed.append(f"unexport {share_id}")
            failure = self._failure("guest.unmount") if row["mounted"] else None
            if failure:
                busy[share_id] = failure
                continue
            self._tx.execute(
                "DELETE FROM guest_shares WHERE instance_id = ? AND share_id = ?", (self._instance_id, share_id)
            )
            unmounted.append(share_id)
            changed.append(f"unmount {share_id}")
        return tuple(unmounted), busy

    def apply(self, share: Share, changed: list[str]) -> ShareState:
        """Format, mount, grow and export as the share says; add to ``changed`` what was done."""
        volume = self._volumes.get(share.serial)
        if volume is None:
            return _failed(share, "device_missing", f"no disk with serial {share.serial} appeared")
        formatted = False
        size = _filesystem_size(volume)
        found = volume["filesystem_uuid"]
        if found is None and share.filesystem.create:
            failure = self._failure("guest.mkfs")
            if failure:
                return _failed(share, "mkfs_failed", failure)
            self._tx.execute(
                "UPDATE volumes SET filesystem_uuid = ?, filesystem_type = ?, filesystem_size = size WHERE id = ?",
                (share.filesystem.uuid, share.filesystem.type, volume["id"]),
            )
            formatted = True
            size = volume["size"]
            changed.append(f"format {share.id}")
        elif found == share.filesystem.clone_of:
            failure = self._failure("guest.identify")
            if failure:
                return _failed(share, "clone_failed", failure)
            self._tx.execute(
                "UPDATE volumes SET filesystem_uuid = ? WHERE id = ?", (share.filesystem.uuid, volume["id"])
            )
            changed.append(f"identify {share.id}")
        elif found != share.filesystem.uuid:
            if share.filesystem.create:
                return _failed(share, "not_blank", f"the volume carries file system {found}")
            what = f"file system {found}" if found else "no file system"
            return _failed(share, "filesystem_mismatch", f"the volume carries {what}, not {share.filesystem.uuid}")
        row = self._shares.get(share.id)
        if row is not None and row["mounted"] and row["serial"] != share.serial:
            if row["serial"] != share.replaces:
                return _failed(share, "filesystem_mismatch", f"disk {row['serial']} is mounted in its place")
            failure = self._failure("guest.replace")
            if failure:
                return _failed(share, "replace_failed", failure)
            changed.append(f"let go of {row['serial']}")
        if row is None or not row["mounted"] or row["serial"] != share.serial:
            failure = self._failure("guest.mount")
            if failure:
                return _failed(share, "mount_failed", failure, formatted=formatted)
            self._tx.execute(
                "INSERT INTO guest_shares VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (instance_id, share_id) DO UPDATE SET"
                " serial = excluded.serial, filesystem_uuid = excluded.filesystem_uuid, mounted = 1",
                (self._instance_id, share.id, share.serial, share.filesystem.uuid, row["rules"] if row else None),
            )
            changed.append(f"mount {share.id}")
        size, problem = self._grow(volume, size, share, changed)
        rules, rule_errors = _rules(share)
        failure = self._failure("guest.export")
        if failure:
            return _failed(share, "export_failed", failure, formatted=formatted, mounted=True)
        if row is None or row["rules"] != dump(rules):
            self._write("rules = ?", share.id, dump(rules))
            changed.append(f"export {share.id}")
        return ShareState(
            id=share.id,
            mounted=True,
            exported=True,
            formatted=formatted,
            error=problem[0],
            message=problem[1],
            rule_errors=rule_errors,
            **_sizes(size),
        )

    def observe(self, share: Share) -> ShareState:
        """The share as it is, without changing anything."""
        volume = self._volumes.get(share.serial)
        row = self._shares.get(share.id)
        mounted = bool(row and row["mounted"] and volume is not None)
        rules, rule_errors = _rules(share)
        size = _filesystem_size(volume) if volume is not None else 0
        return ShareState(
            id=share.id,
            mounted=mounted,
            exported=bool(mounted and row and row["rules"] == dump(rules)),
            error="" if volume is not None else "device_missing",
            rule_errors=rule_errors,
            **_sizes(size if mounted else None),
        )

    def to_grow(self, share: Share) -> bool:
        """Whether the document wants a larger file system than the volume has."""
        volume = self._volumes.get(share.serial)
        return volume is not None and _filesystem_size(volume) < share.filesystem.size // GIBIBYTE

    # ---- parts ----

    def _write(self, assignment: str, share_id: str, *values: str) -> None:
        self._tx.execute(
            f"UPDATE guest_shares SET {assignment} WHERE instance_id = ? AND share_id = ?",  # noqa: S608 - constants
            (*values, self._instance_id, share_id),
        )

    def _grow(self, volume: sqlite3.Row, size: int, share: Share, changed: list[str]) -> tuple[int, tuple[str, str]]:
        """The file system's size in GiB, after growing it to what the document says; and what went wrong with that."""
        wanted = share.filesystem.size // GIBIBYTE
        if wanted <= size:
            return size, ("", "")
        if volume["size"] < wanted:
            return size, ("disk_small", f"the disk has {volume['size']} GiB, not {wanted}")
        failure = self._failure("guest.grow")
        if failure:
            return size, ("grow_failed", failure)
        self._tx.execute("UPDATE volumes SET filesystem_size = ? WHERE id = ?", (wanted, volume["id"]))
        changed.append(f"grow {share.id}")
        return wanted, ("", "")


def _filesystem_size(volume: sqlite3.Row) -> int:
    """In GiB. A file made before file systems had sizes: they fill their volumes."""
    return int(volume["filesystem_size"] or volume["size"])


class _Sizes(TypedDict):
    bytes_total: int | None
    bytes_used: int | None
    inodes_total: int | None
    inodes_used: int | None


def _sizes(size: int | None) -> _Sizes:
    """Of a file system of that many GiB without files; None: of one that is not mounted."""
    if size is None:
        return {"bytes_total": None, "bytes_used": None, "inodes_total": None, "inodes_used": None}
    return {"bytes_total": size * GIBIBYTE, "bytes_used": 0, "inodes_total": size * INODES, "inodes_used": 11}


def _failed(share: Share, error: str, message: str, *, formatted: bool = False, mounted: bool = False) -> ShareState:
    return ShareState(id=share.id, mounted=mounted, exported=False, formatted=formatted, error=error, message=message)


def _rules(share: Share) -> tuple[list[list[str]], dict[str, str]]:
    """The rules in force, sorted, and why the others are not."""
    rules: list[list[str]] = []
    wrong: dict[str, str] = {}
    for rule in share.rules:
        level = "ro" if share.read_only else rule.access_level
        if rule.access_type == "user":
            rules.append([rule.access_to, level])
            continue
        try:
            rules.append([str(ip_network(rule.access_to)), level])
        except ValueError as error:
            wrong[rule.id] = f"not an address: {error}"
    return sorted(rules), wrong
