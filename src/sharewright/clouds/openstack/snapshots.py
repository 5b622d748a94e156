"""Snapshots: Cinder's. Like volumes they are told by name and tag together.

Cinder fixes the moment while a snapshot has status "creating"; as soon as it has another one, volumes can be made
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import SnapshotSpec, Tags, VolumeSnapshot, VolumeSpec, cloud_calls, cloud_requests
from sharewright.clouds.openstack.adoption import Adoption
from sharewright.clouds.openstack.cinder import AVAILABLE, CinderSnapshot, list_snapshots, metadata_of, name_of
from sharewright.clouds.openstack.condemned import needed_by_volumes
from sharewright.clouds.openstack.connection import block_storage
from sharewright.clouds.openstack.errors import NO_ROOM_TEXT
from sharewright.clouds.openstack.polling import Deadline, Wait
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing

SPOILED = frozenset({"error", "error_deleting"})
AT_ONCE = 8  # snapshots that are taken at the same time, of several
MOVING = frozenset({"creating", "deleting", "backing-up", "restoring", "updating", "unmanaging"})


class OpenStackSnapshots(Adoption):
    """The half of contract Volumes that is about snapshots."""

    def ensure_snapshot(self, spec: SnapshotSpec, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        return self._ensure(spec, Deadline(timeout))

    def ensure_snapshots(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> Sequence[VolumeSnapshot]:
        """Cinder takes one for each request, and works on several requests at a time. (Its group snapshots would need
        volumes that were put into a group of an administrator's type before, and few of its drivers take them at one
        moment; whoever freezes the file systems needs no such promise.)"""
        cloud_calls.count += 1
        deadline = Deadline(timeout)

        def ensure(spec: SnapshotSpec) -> tuple[VolumeSnapshot, int]:
            before = cloud_requests.count
            taken = self._ensure(spec, deadline)
            return taken, cloud_requests.count - before

        if not specs:
            return []
        with ThreadPoolExecutor(min(len(specs), AT_ONCE), thread_name_prefix="snapshots") as threads:
            # With the request's id, which the requests to Cinder carry.
            futures = [threads.submit(copy_context().run, ensure, spec) for spec in specs]
        results = [future.result() for future in futures]
        cloud_requests.count += sum(requests for _, requests in results)
        return [taken for taken, _ in results]

    def _ensure(self, spec: SnapshotSpec, deadline: Deadline) -> VolumeSnapshot:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        with self._connection.locks.hold(f"snapshot {spec.name}", deadline):
            found = self._connection.call(
                f"looking for snapshot {spec.name}", lambda sdk: self._snapshot_named(sdk, spec.name), deadline=deadline
            )
            if found is not None and found.volume_id != spec.volume_id:
                raise CloudError(
                    f"Snapshot {spec.name} exists, of volume {found.volume_id}, not {spec.volume_id}.",
                    hint="Delete it first.",
                )
            if found is not None and found.status in SPOILED:
                if not self._erase_snapshot(str(found.id), spec.name, deadline):
                    raise self._not_deleted("snapshot", str(found.id), spec.name, AVAILABLE)
                found = None
            if found is None:
                self._settled(spec.volume_id, deadline)  # Cinder takes none of a volume with another task in hand
                found = self._connection.create(
                    f"taking snapshot {spec.name}",
                    lambda sdk: _create(sdk, spec, tags),
                    again=lambda sdk: self._snapshot_named(sdk, spec.name),
                    deadline=deadline,
                )
            return self._await_moment(found, spec.name, deadline)

    def await_snapshot(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        wait = Wait(f"snapshot {snapshot_id} to become ready", deadline, self._paces.snapshot_made)
        while (found := self._look_at_snapshot(snapshot_id, deadline)) is not None and found.status in MOVING:
            wait.pause(str(found.status))
        if found is None:
            raise CloudObjectMissing(f"There is no snapshot {snapshot_id}.", hint="It may have been deleted.")
        if found.status == "error":
            reason = self._reason(snapshot_id)
            self._erase_snapshot(snapshot_id, name_of(found), deadline)
            raise CloudObjectMissing(
                f"Snapshot {found.name} failed and was removed: {reason or 'Cinder gives no reason'}.",
                hint=f"See the log of cinder-volume for {snapshot_id}.",
            )
        if found.status != AVAILABLE:
            raise CloudError(f"Snapshot {found.name} has status {found.status}.", hint="Delete it and take another.")
        return _snapshot(found)

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        cloud_calls.count += 1
        found = self._look_at_snapshot(snapshot_id)
        return None if found is None else _snapshot(found)

    def list_snapshots(self) -> Sequence[VolumeSnapshot]:
        cloud_calls.count += 1
        found = self._connection.call("listing snapshots", lambda sdk: self._our_snapshots(sdk))
        return [_snapshot(each) for each in found]

    def delete_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        """Cinder may have to keep it for volumes made from it; then it is condemned (see condemned.py)."""
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        found = self._look_at_snapshot(snapshot_id, deadline)
        wait = Wait(f"snapshot {snapshot_id} to become free", deadline, self._paces.snapshot_deleted)
        while found is not None and found.status in MOVING - {"deleting"}:
            wait.pause(str(found.status))
            found = self._look_at_snapshot(snapshot_id, deadline)
        if found is None:
            return
        name, requested = name_of(found), found.status == "deleting"
        if self._erase_snapshot(snapshot_id, name, deadline, requested=requested):
            return
        needed = self._connection.call("listing what needs a snapshot", needed_by_volumes, deadline=deadline)
        if snapshot_id not in needed:
            raise self._not_deleted("snapshot", snapshot_id, name, AVAILABLE)
        self._condemn("snapshot", found, deadline)

    def adopt_snapshot(self, reference: str, name: str, tags: Tags, *, timeout: float) -> VolumeSnapshot:
        cloud_calls.count += 1
        stored = tags_to_store(tags, self._deployment, name)
        deadline = Deadline(timeout)
        with self._connection.locks.hold(f"snapshot {name}", deadline):
            found = self._adoptable(
                "snapshot",
                reference,
                name,
                by_id=self._any_snapshot(reference, deadline),
                named=lambda sdk, wanted: [each for each in list_snapshots(sdk, name=wanted) if each.name == wanted],
                deadline=deadline,
            )
            if not self._is_ours(found):
                if self.look(str(found.volume_id), deadline) is None:
                    raise CloudError(
                        f"Snapshot {reference} is of volume {found.volume_id}, which is not ours.",
                        hint="Have the volume managed first.",
                    )
                self._take_over("snapshot", found, name, stored, deadline)
            return self._existing_snapshot(str(found.id), deadline)

    def disown_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        found = self._look_at_snapshot(snapshot_id, deadline)
        if found is not None:
            self._let_go("snapshot", found, deadline)

    # ---- parts ----

    def _source(self, spec: VolumeSpec, deadline: Deadline) -> str | None:
        """The snapshot that the new volume is to be made from, if any. Errors as in the contract."""
        if spec.source_snapshot is None:
            return None
        found = self._look_at_snapshot(spec.source_snapshot, deadline)
        if found is None:
            raise CloudObjectMissing(f"There is no snapshot {spec.source_snapshot}.", hint="It may have been deleted.")
        if found.status != AVAILABLE:
            raise CloudError(f"Snapshot {found.name} is not ready, but {found.status}.", hint="Await it first.")
        if spec.size < int(found.size or 0):
            raise CloudError(
                f"Volume {spec.name} cannot have {spec.size} GiB: its snapshot has {found.size}.",
                hint="Make it at least as large.",
            )
        return str(found.id)

    def _existing_snapshot(self, snapshot_id: str, deadline: Deadline) -> VolumeSnapshot:
        found = self._look_at_snapshot(snapshot_id, deadline)
        if found is None:
            raise CloudObjectMissing(f"There is no snapshot {snapshot_id}.", hint="It may have been deleted.")
        return _snapshot(found)

    def _snapshot_named(self, sdk: Sdk, name: str) -> CinderSnapshot | None:
        found = self._our_snapshots(sdk, name=name)
        found = [each for each in found if each.name == name and each.status != "deleting"]
        if len(found) > 1:
            raise CloudError(
                f"There are {len(found)} snapshots {name}: {', '.join(str(each.id) for each in found)}.",
                hint="Delete the newer ones.",
            )
        return found[0] if found else None

    def _await_moment(self, found: CinderSnapshot, name: str, deadline: Deadline) -> VolumeSnapshot:
        snapshot_id = str(found.id)
        wait = Wait(f"snapshot {name} to be taken", deadline, self._paces.snapshot_made)
        while found.status == "creating":
            wait.pause("creating")
            seen = self._look_at_snapshot(snapshot_id, deadline)
            if seen is None:
                raise CloudObjectMissing(f"Snapshot {name} was deleted while it was being taken.", hint="Try again.")
            found = seen
            if found.status == AVAILABLE:
                wait.done()
        if found.status == "error":
            reason = self._reason(snapshot_id)
            self._erase_snapshot(snapshot_id, name, deadline)
            if NO_ROOM_TEXT.search(reason):
                raise CloudCapacityExceeded(
                    f"Cinder found no room for snapshot {name}: {reason}.", hint="Add capacity, or delete shares."
                )
            raise CloudError(
                f"Cinder could not take snapshot {name}: {reason or 'it gives no reason'}.",
                hint=f"See the log of cinder-volume for {snapshot_id}.",
            )
        return _snapshot(found)


def _create(sdk: Sdk, spec: SnapshotSpec, tags: dict[str, str]) -> CinderSnapshot:
    wanted = {"name": spec.name, "volume_id": spec.volume_id, "metadata": tags}
    # "force": of volumes that are attached, too, which Cinder from 3.66 on does without being told.
    return CinderSnapshot.new(**wanted, is_forced=True).create(block_storage(sdk))


def _snapshot(found: CinderSnapshot) -> VolumeSnapshot:
    return VolumeSnapshot(
        id=str(found.id),
        name=str(found.name),
        volume_id=str(found.volume_id),
        size=int(found.size or 0),
        ready=found.status == AVAILABLE,
        tags=metadata_of(found),
    )
