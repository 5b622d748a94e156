"""Snapshots: copies of volumes' files.

Of a volume that no running machine has, the file is copied within the call, as a clone where the file system can. Of
one in use QEMU copies it while the guest writes on (block_jobs.py). A record says how far things are:

* neither ``begun`` nor ``ready``: its moment was never fixed, or the call that fixes it is at work, holding the volume.
* ``begun``: a job fixed the moment; ``instance_id``, ``run`` and ``total`` tell which job.
* ``ready``: the file is complete and on the disk.

``attempt`` tells one making from the next, so that who looked at an older one changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Protocol

import libvirt
import structlog

from sharewright.clouds.contract import SnapshotSpec, VolumeSnapshot, VolumeSpec
from sharewright.clouds.libvirt import block_jobs, disks, image_files
from sharewright.clouds.libvirt.connection import MISSING, Connection
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.pool import GIBIBYTE, Pools
from sharewright.clouds.libvirt.records import Locks, Record, Records
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing, CloudUnavailable, DeadlineExceeded
from sharewright.identifiers import derived_id, new_id, short_hash

LOG = structlog.get_logger(__name__)
LOCK = "volumes"


class HeldVolumes(Protocol):
    """What snapshots need of volumes; see LibvirtVolumes."""

    def held(self, *volume_ids: str, timeout: float) -> AbstractContextManager[None]: ...
    def present(self, volume_id: str) -> Record: ...
    def running(self, volume_id: str, record: Record) -> Any: ...


class Snapshots:
    """The snapshots' part of contract Volumes. Ids are derived from names."""

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        locks: Locks,
        pools: Pools,
        volumes: HeldVolumes,
        domain: Callable[[str], Any],
    ) -> None:
        self._connection = connection
        self._deployment = layout.deployment
        self._locks = locks
        self._pools = pools
        self._volumes = volumes
        self._domain = domain
        self.records = Records(layout.records / "snapshots")
        # By instance: the snapshots of the last job that was begun there, until it is known how they ended.
        self._jobs = Records(layout.records / "jobs")

    def ensure(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> list[VolumeSnapshot]:
        """Of different volumes. Those of one machine that are missing get the same moment."""
        end = time.monotonic() + timeout
        wanted = {derived_id(self._deployment, "snapshot", spec.name): spec for spec in specs}
        with self._volumes.held(*(spec.volume_id for spec in specs), timeout=timeout):
            records = {key: self._existing(key, spec) for key, spec in wanted.items()}
            missing = {key: wanted[key] for key, record in records.items() if record is None}
            made = self._make(missing, end)
        return [_snapshot(key, made.get(key) or record or {}) for key, record in records.items()]

    def wait(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        end = time.monotonic() + timeout
        for _ in block_jobs.pauses(end):
            record = self._get(snapshot_id)
            if record["ready"]:
                return _snapshot(snapshot_id, record)
            if record["begun"]:
                concluded = self._conclude(snapshot_id, record)
            else:
                concluded = self._await_making(snapshot_id, record, end)
            if concluded is None:
                raise CloudObjectMissing(
                    f"Snapshot {record['name']} has failed: copying it was interrupted.", hint="Take it again."
                )
            if concluded["ready"]:
                return _snapshot(snapshot_id, concluded)
        raise DeadlineExceeded(f"Snapshot {snapshot_id} was not ready within {timeout:g} s.")

    def find(self, snapshot_id: str) -> VolumeSnapshot | None:
        record = self.records.get(snapshot_id)
        if record is None or (record["ready"] and not self._pools.path(record).exists()):
            return None
        return _snapshot(snapshot_id, record)

    def present(self, snapshot_id: str) -> VolumeSnapshot:
        return _snapshot(snapshot_id, self._get(snapshot_id))

    def list(self) -> Sequence[VolumeSnapshot]:
        return [_snapshot(key, record) for key, record in self.records.all().items()]

    def delete(self, snapshot_id: str, *, timeout: float) -> None:
        end = time.monotonic() + timeout
        record = self.records.get(snapshot_id)
        if record is None:
            return
        with self._volumes.held(record["volume_id"], timeout=timeout):
            record = self.records.get(snapshot_id)
            if record is not None:
                self._abort(record, end)
                self._remove(snapshot_id, record)

    # ---- for volumes and purge ----

    def of_volume(self, volume_id: str) -> str | None:
        """The name of a snapshot of the volume, or None."""
        found = (record["name"] for record in self.records.all().values() if record["volume_id"] == volume_id)
        return next(found, None)

    def open_source(self, stack: ExitStack, spec: VolumeSpec) -> tuple[int, str]:
        """The file of the snapshot that a volume is to be made from, open, and its format. Whoever deletes the snapshot
        from now on leaves us the content."""
        assert spec.source_snapshot is not None  # noqa: S101 (callers have looked)
        record = self._get(spec.source_snapshot)
        if not record["ready"]:
            raise CloudError(f"Snapshot {record['name']} is not ready yet.", hint="Wait for it first.")
        if record["size"] > spec.size:
            raise CloudError(
                f"Volume {spec.name} of {spec.size} GiB is too small for snapshot {record['name']}.",
                hint=f"It needs {record['size']} GiB.",
            )
        descriptor = stack.enter_context(image_files.open_image(self._pools.path(record)))
        image_files.read_size(descriptor, record["format"])  # QEMU wrote it: no other file may be drawn in
        return descriptor, record["format"]

    def purge(self) -> None:
        """Under the lock of volumes, when no machine runs any more."""
        for snapshot_id, record in self.records.all().items():
            with self._connection.use(f"deleting snapshot {record['name']}"):
                self._pools.of(record).remove(record["file"])
            self.records.remove(snapshot_id)

    # ---- making ----

    def _existing(self, snapshot_id: str, spec: SnapshotSpec) -> Record | None:
        """The record of a snapshot that is there or being copied; None: it has to be made."""
        record = self.records.get(snapshot_id)
        if record is not None and record["volume_id"] != spec.volume_id:
            raise CloudError(
                f"Snapshot {spec.name} exists, of volume {record['volume_id']}, not {spec.volume_id}.",
                hint="Delete it first.",
            )
        if record is not None and record["ready"]:
            self._check_file(record)
        elif record is not None:
            record = self._conclude(snapshot_id, record) if record["begun"] else None
        return record

    def _make(self, specs: Mapping[str, SnapshotSpec], end: float) -> dict[str, Record]:
        """Snapshots with the present moment, in the place of those that failed; all, or none of these."""
        prepared: dict[str, Record] = {}
        made: dict[str, Record] = {}
        running: dict[str, dict[str, Record]] = {}  # by instance: one job for all of its disks
        domains: dict[str, Any] = {}
        try:
            for key, spec in specs.items():
                record, volume, domain = self._prepare(key, spec, prepared, end)
                if domain is None:
                    made[key] = self._copy(key, record, volume, end)
                else:
                    running.setdefault(record["instance_id"], {})[key] = record
                    domains[record["instance_id"]] = domain
            for instance_id, records in running.items():
                made |= self._begin(domains[instance_id], records, end)
        except BaseException:
            for key, record in prepared.items():
                with suppress(CloudError, DeadlineExceeded):
                    self._abort(record, end)
                    self._remove(key, record)
            raise
        return made

    def _prepare(
        self, snapshot_id: str, spec: SnapshotSpec, prepared: dict[str, Record], end: float
    ) -> tuple[Record, Record, Any]:
        """The record of a snapshot that is about to be made, written and put into ``prepared``; its volume's; and the
        running domain that has the volume, or None."""
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        volume = self._volumes.present(spec.volume_id)
        domain = self._volumes.running(spec.volume_id, volume)
        old = self.records.get(snapshot_id)
        if old is not None:
            self._abort(old, end)
        format_ = volume["format"] if domain is None else block_jobs.FORMAT
        record: Record = {
            "name": spec.name,
            "volume_id": spec.volume_id,
            "size": volume["size"],
            "file": f"{snapshot_id}.{format_}",
            "format": format_,
            "pool": volume.get("pool"),
            "tags": tags,
            "attempt": new_id(),
            "instance_id": None if domain is None else volume["instance_id"],
            "begun": False,
            "ready": False,
        }
        with self._locks.hold(LOCK):
            if old is not None:
                self._unlink(old)
            elif self._pools.path(record).exists():
                raise CloudError(
                    f"{self._pools.path(record)}, the place for snapshot {spec.name}, is not ours.",
                    hint="Adopt it (manage) or move it away.",
                )
            prepared[snapshot_id] = record
            self.records.put(snapshot_id, record)
        return record, volume, domain

    def _copy(self, snapshot_id: str, record: Record, volume: Record, end: float) -> Record:
        what = f"snapshot {record['name']}"
        with image_files.open_image(self._pools.path(volume)) as source:
            image_files.keep_writers_out(source)
            size = image_files.read_size(source, volume["format"])
            image_files.copy_image(
                source,
                self._pools.path(record),
                end=end,
                check_room=lambda needed: self._pools.of(record).check_room(needed, what),
            )
        return self._update({**record, "size": _gibibytes(size), "begun": True, "ready": True}, snapshot_id)

    def _begin(self, domain: Any, records: Mapping[str, Record], end: float) -> dict[str, Record]:
        """One job for these snapshots of disks of one domain, once no other one runs: their moment is the same."""
        instance_id = next(iter(records.values()))["instance_id"]
        for _ in block_jobs.pauses(end):
            with (
                self._locks.hold(_jobs_lock(instance_id), timeout=max(0.0, end - time.monotonic())),
                self._connection.use("taking a snapshot"),
            ):
                self._conclude_last(instance_id)
                if not block_jobs.running(domain):
                    return self._begin_now(domain, instance_id, records)
        raise DeadlineExceeded(
            "Another snapshot of a disk of the same virtual machine was still being copied.", hint="Try again."
        )

    def _begin_now(self, domain: Any, instance_id: str, records: Mapping[str, Record]) -> dict[str, Record]:
        volumes = {key: self._volumes.present(record["volume_id"]) for key, record in records.items()}
        needed: Counter[str | None] = Counter()
        for volume in volumes.values():
            with image_files.open_image(self._pools.path(volume)) as descriptor:
                needed[volume.get("pool")] += image_files.allocated(descriptor)
        for name, more in needed.items():
            self._pools.named(name).check_room(more, "a snapshot")
        sizes = {key: disks.size(domain, record["volume_id"]) for key, record in records.items()}
        begun = {
            key: {
                **record,
                "size": _gibibytes(sizes[key]),
                "run": domain.ID(),
                "total": sum(sizes.values()),
            }
            for key, record in records.items()
        }
        self._jobs.put(instance_id, {"snapshots": list(records)})
        try:
            block_jobs.begin(domain, {record["volume_id"]: self._pools.path(record) for record in records.values()})
        except libvirt.libvirtError as error:
            if error.get_error_code() in MISSING or not _active(domain):
                raise CloudUnavailable(
                    "The virtual machine stopped while a snapshot was taken.", hint="Try again."
                ) from error
            raise
        return {key: self._update({**record, "begun": True}, key) for key, record in begun.items()}

    # ---- how it ended ----

    def _conclude(self, snapshot_id: str, record: Record) -> Record | None:
        """The record of a begun snapshot as it is now; None when it has failed, and is gone then."""
        with self._connection.use(f"looking at snapshot {record['name']}"):
            ended = self._ended(record)
        if ended is None:
            return record
        if ended:
            image_files.sync_file(self._pools.path(record))
            return self._update({**record, "ready": True}, snapshot_id)
        self._remove(snapshot_id, record)
        return None

    def _ended(self, record: Record) -> bool | None:
        """Whether the snapshot's job has succeeded; None while it runs. What nobody can tell has failed: nothing but
        QEMU's own word makes a copy complete."""
        domain = self._domain(record["instance_id"])
        if domain is None or domain.ID() != record["run"]:
            return False
        file = str(self._pools.path(record))
        if file in block_jobs.running(domain).values():
            return None
        outcome = block_jobs.last_outcome(domain)
        success = outcome is not None and outcome.success and outcome.size == record["total"]
        if not success:
            LOG.warning("a snapshot has failed", snapshot=record["name"], reason=outcome.reason if outcome else "")
        return success and self._pools.path(record).exists()

    def _conclude_last(self, instance_id: str) -> None:
        """Before another job: libvirt tells how the last one ended, but not how the one before it did."""
        job = self._jobs.get(instance_id)
        if job is None:
            return
        records = {key: self.records.get(key) for key in job["snapshots"]}
        for key, record in records.items():
            if record is not None and record["begun"] and not record["ready"]:
                concluded = None
                with suppress(CloudObjectMissing):  # deleted meanwhile
                    concluded = self._conclude(key, record)
                if concluded is not None and not concluded["ready"]:
                    return  # it runs
        self._jobs.remove(instance_id)

    def _await_making(self, snapshot_id: str, record: Record, end: float) -> Record | None:
        """Let the call that makes it finish; None when there is no such call, and so no snapshot."""
        with self._volumes.held(record["volume_id"], timeout=max(0.0, end - time.monotonic())):
            current = self.records.get(snapshot_id)
            if current is None or current["begun"]:
                return current
            self._abort(current, end)
            self._remove(snapshot_id, current)
            return None

    def _abort(self, record: Record, end: float) -> None:
        """End the job that writes the snapshot's file, if there is one; return when it is gone."""
        if record["ready"] or record["instance_id"] is None:
            return
        file = str(self._pools.path(record))
        with (
            self._locks.hold(_jobs_lock(record["instance_id"]), timeout=max(0.0, end - time.monotonic())),
            self._connection.use(f"ending the copying of snapshot {record['name']}"),
        ):
            for _ in block_jobs.pauses(end):
                domain = self._domain(record["instance_id"])
                if domain is None or file not in block_jobs.running(domain).values():
                    return
                block_jobs.abort(domain)
        raise DeadlineExceeded(f"Copying snapshot {record['name']} did not end in time.")

    # ---- records and files ----

    def _get(self, snapshot_id: str) -> Record:
        record = self.records.get(snapshot_id)
        if record is None:
            raise CloudObjectMissing(f"There is no snapshot {snapshot_id}.", hint="It may have failed or been deleted.")
        if record["ready"]:
            self._check_file(record)
        return record

    def _check_file(self, record: Record) -> None:
        path = self._pools.path(record)
        if not path.exists():
            raise CloudObjectMissing(
                f"The file {path} of snapshot {record['name']} is gone.", hint="Delete the snapshot."
            )

    def _update(self, record: Record, snapshot_id: str) -> Record:
        """Write the record unless the snapshot was deleted or made anew meanwhile."""
        with self._locks.hold(LOCK):
            current = self.records.get(snapshot_id)
            if current is None or current["attempt"] != record["attempt"]:
                raise CloudObjectMissing(f"Snapshot {record['name']} was deleted meanwhile.", hint="Take it again.")
            self.records.put(snapshot_id, record)
        return record

    def _remove(self, snapshot_id: str, record: Record) -> None:
        with self._locks.hold(LOCK):
            current = self.records.get(snapshot_id)
            if current is None or current["attempt"] != record["attempt"]:
                return
            # Who dies after this leaves a snapshot that is not ready and can still be deleted.
            self.records.put(snapshot_id, {**current, "begun": False, "ready": False})
            self._unlink(current)
            self.records.remove(snapshot_id)

    def _unlink(self, record: Record) -> None:
        try:
            self._pools.path(record).unlink(missing_ok=True)
        except OSError as error:
            raise CloudError(
                f"Cannot delete {self._pools.path(record)}: {error.strerror}.", hint="Remove it by hand."
            ) from error


def _jobs_lock(instance_id: str) -> str:
    return f"jobs-{short_hash(instance_id)}"


def _gibibytes(size: int) -> int:
    """Rounded up: a volume made from it must hold all of it."""
    return -(-size // GIBIBYTE)


def _active(domain: Any) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError:
        return False


def _snapshot(snapshot_id: str, record: Record) -> VolumeSnapshot:
    return VolumeSnapshot(
        id=snapshot_id,
        name=record["name"],
        volume_id=record["volume_id"],
        size=record["size"],
        ready=record["ready"],
        tags=record["tags"],
    )
