"""Taking over volumes and snapshots that are not ours, and letting go of ours ("manage", "unmanage").

What is disowned keeps its file, and its record among the disowned. A file gets its new name by a second link first and
loses the old one last: whatever moment a process dies at, the content has a name that nothing of ours removes.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

import structlog

from sharewright.clouds.libvirt import image_files
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.pool import GIBIBYTE, Pools
from sharewright.clouds.libvirt.records import Record, Records, sync_directory
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import new_id

LOG = structlog.get_logger(__name__)
Kind = Literal["volume", "snapshot"]


class Adoption:
    """Every method runs under the lock of volumes."""

    def __init__(self, layout: Layout, pools: Pools, volumes: Records, snapshots: Records) -> None:
        self._pools = pools
        self._ours: dict[Kind, Records] = {"volume": volumes, "snapshot": snapshots}
        self._disowned = Records(layout.records / "disowned")

    def adopt_volume(self, reference: str, volume_id: str, name: str, tags: dict[str, str]) -> Record:
        known = self._known("volume", reference, volume_id, name)
        if known is not None:
            return known
        old_id, record = self._find("volume", reference)
        if record is None:
            record = self._loose_file(reference)
        with image_files.open_image(self._pools.path(record)) as descriptor:
            image_files.keep_writers_out(descriptor)
            format_ = record["format"] or image_files.probe_format(descriptor)
            size = _whole_gibibytes(image_files.read_size(descriptor, format_), reference)
            os.fchown(descriptor, 0, 0)
            os.fchmod(descriptor, 0o600)
        adopted = {
            "name": name,
            "size": size,
            "file": f"{volume_id}.{format_}",
            "format": format_,
            "pool": record.get("pool"),
            "tags": {**record["tags"], **tags},
            "instance_id": None,
            "source_snapshot": None,
            "ready": True,
        }
        return self._take("volume", volume_id, adopted, old_id, record, reference)

    def adopt_snapshot(self, reference: str, snapshot_id: str, name: str, tags: dict[str, str]) -> None:
        if self._known("snapshot", reference, snapshot_id, name) is not None:
            return
        old_id, record = self._find("snapshot", reference)
        if record is None:
            raise CloudObjectMissing(
                f"There is no snapshot {reference} that is nobody's.", hint="Name it by its id or by its old name."
            )
        if self._ours["volume"].get(record["volume_id"]) is None:
            raise CloudError(f"Snapshot {reference} is not one of a volume of ours.", hint="Adopt its volume first.")
        with image_files.open_image(self._pools.path(record)) as descriptor:
            image_files.read_size(descriptor, record["format"])
        adopted = {
            **record,
            "name": name,
            "file": f"{snapshot_id}.{record['format']}",
            "tags": {**record["tags"], **tags},
            "attempt": new_id(),
        }
        del adopted["kind"]
        self._take("snapshot", snapshot_id, adopted, old_id, record, reference)

    def disown_volume(self, volume_id: str, record: Record) -> None:
        self._disown("volume", volume_id, record)

    def disown_snapshot(self, snapshot_id: str, record: Record) -> None:
        self._disown("snapshot", snapshot_id, record)

    def snapshot_of(self, volume_id: str) -> str | None:
        """The name of a disowned snapshot of the volume, or None."""
        for record in self._disowned.all().values():
            if record["kind"] == "snapshot" and record["volume_id"] == volume_id:
                return str(record["name"])
        return None

    def report_rest(self) -> None:
        """At a purge: name the files that are not ours and so stay."""
        names = {record["file"]: record["name"] for record in self._disowned.all().values()}
        for path in (path for pool in self._pools.all() for path in pool.files()):
            LOG.warning("a file that is not ours was kept", path=str(path), disowned=names.get(path.name, ""))

    # ---- inside ----

    def _disown(self, kind: Kind, key: str, record: Record) -> None:
        self._disowned.put(key, {**record, "kind": kind, "tags": _foreign(record["tags"])})
        self._ours[kind].remove(key)

    def _known(self, kind: Kind, reference: str, key: str, name: str) -> Record | None:
        """Ours by that name already: the record, when it is what the reference means; CloudError otherwise."""
        records = self._ours[kind]
        record = records.get(key)
        if record is not None and reference in (key, name, _former(record)):
            self._complete(kind, record)
            return record
        named = [other for other in records.all().values() if reference in (other["name"], other["file"])]
        owner = records.get(reference) or next(iter(named), None)
        if owner is not None:
            raise CloudError(f"The {kind} {reference} is ours already, as {owner['name']}.", hint="Disown it first.")
        if record is not None:
            raise CloudError(f"There is another {kind} {name} of ours.", hint="Delete or disown that first.")
        return None

    def _find(self, kind: Kind, reference: str) -> tuple[str | None, Record | None]:
        """A disowned one, by id, by its name or by its file's."""
        for key, record in self._disowned.all().items():
            if record["kind"] == kind and reference in (key, record["name"], record["file"]):
                return key, record
        return None, None

    def _loose_file(self, reference: str) -> Record:
        """A stand-in for the record of a file that the operator put into the directory."""
        missing = CloudObjectMissing(
            f"There is no volume {reference} that is nobody's.",
            hint=f"Name a disowned one by its id or name, or a file in {self._pools.default.directory} by its name.",
        )
        if not reference or reference.startswith(".") or "/" in reference or "\0" in reference:
            raise missing
        try:
            state = self._pools.default.path(reference).lstat()
        except (OSError, ValueError):
            raise missing from None
        every = [*self._ours["volume"].all().values(), *self._ours["snapshot"].all().values()]
        if reference in {record["file"] for record in [*every, *self._disowned.all().values()]}:
            raise CloudError(f"The file {reference} is a snapshot's.", hint="Name a volume's.")
        if stat.S_ISREG(state.st_mode) and state.st_nlink != 1 and not self._half_adopted(state):
            raise CloudError(f"The file {reference} has other names, too.", hint="Copy it, and adopt the copy.")
        return {"file": reference, "format": None, "tags": {}}

    def _half_adopted(self, state: os.stat_result) -> bool:
        """Whether the other name is in our directory and no record has it: left by an adoption that died."""
        named = [path for path in self._pools.default.files() if path.lstat().st_ino == state.st_ino]
        ours = {record["file"] for record in self._ours["volume"].all().values()}
        return len(named) == state.st_nlink and not any(path.name in ours for path in named)

    def _take(self, kind: Kind, key: str, adopted: Record, old_id: str | None, old: Record, reference: str) -> Record:
        source, target = self._pools.path(old), self._pools.path(adopted)
        if source != target:
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                if not os.path.samestat(source.lstat(), target.lstat()):
                    raise CloudError(
                        f"{target}, the place for {kind} {adopted['name']}, is taken.", hint="Move that file away."
                    ) from None
            sync_directory(target.parent)
        adopted = {**adopted, "adopted": {"reference": reference, "file": old["file"], "id": old_id, "key": key}}
        self._ours[kind].put(key, adopted)
        self._complete(kind, adopted)
        return adopted

    def _complete(self, kind: Kind, record: Record) -> None:
        """What is left to do of an adoption once its record is written."""
        adopted = record.get("adopted")
        if adopted is None:
            return
        target = self._pools.path(record)
        source = target.with_name(adopted["file"])
        if source != target and _same_file(source, target):
            source.unlink()
            sync_directory(source.parent)
            self._pools.of(record).refresh()
        old_id = adopted["id"]
        if old_id is None:
            return
        if kind == "volume" and old_id != adopted["key"]:
            for key, other in self._disowned.all().items():  # its snapshots follow it
                if other["kind"] == "snapshot" and other["volume_id"] == old_id:
                    self._disowned.put(key, {**other, "volume_id": adopted["key"]})
        self._disowned.remove(old_id)


def _former(record: Record) -> str | None:
    """What its adopter called it."""
    former: str | None = record.get("adopted", {}).get("reference")
    return former


def _same_file(one: Path, other: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(one.lstat(), other.lstat())
    return False


def _foreign(tags: dict[str, str]) -> dict[str, str]:
    """Tags less our own."""
    return {key: value for key, value in tags.items() if not key.startswith("sharewright")}


def _whole_gibibytes(size: int, reference: str) -> int:
    gibibytes, rest = divmod(size, GIBIBYTE)
    if rest or not gibibytes:
        raise CloudError(
            f"{reference} has {size} bytes, which are not whole GiB.",
            hint="Enlarge it with: qemu-img resize FILE SIZE, the size with a G.",
        )
    return gibibytes
