"""Volumes: Cinder's. Their names are not unique there, so ours are told by name and tag together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from openstack.block_storage.v3.stats import Pools
from openstack.block_storage.v3.volume import Volume as CinderVolume
from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import Capacity, Tags, Volume, VolumeSpec, cloud_calls
from sharewright.clouds.openstack.cinder import AVAILABLE, DETACHING, IN_USE, MOVING, metadata_of, name_of
from sharewright.clouds.openstack.connection import Connection, block_storage
from sharewright.clouds.openstack.errors import NO_ROOM_TEXT, status_of
from sharewright.clouds.openstack.polling import Deadline, Paces, Wait
from sharewright.clouds.openstack.snapshots import OpenStackSnapshots
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing

log = structlog.get_logger()


class OpenStackVolumes(OpenStackSnapshots):
    """Contract Volumes."""

    def __init__(self, connection: Connection, deployment: str, paces: Paces) -> None:
        super().__init__(connection, deployment, paces)
        self._sees_pools = True

    # ---- the contract ----

    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        deadline = Deadline(timeout)
        with self._connection.locks.hold(f"volume {spec.name}", deadline):
            found = self._connection.call(
                f"looking for volume {spec.name}", lambda sdk: self._named(sdk, spec.name), deadline=deadline
            )
            if found is not None and found.status == "error":  # its creation failed, nobody has written to it
                self._erase_volume(str(found.id), spec.name, deadline)
                found = None
            if found is not None and found.size != spec.size:
                raise CloudError(
                    f"Volume {spec.name} exists with {found.size} GiB, not {spec.size}.", hint="Delete it first."
                )
            if found is not None and spec.source_snapshot not in (None, found.snapshot_id):
                raise CloudError(
                    f"Volume {spec.name} exists, and not from snapshot {spec.source_snapshot}.", hint="Delete it first."
                )
            if found is None:
                source = self._source(spec, deadline)
                found = self._connection.create(
                    f"making volume {spec.name}",
                    lambda sdk: block_storage(sdk).create_volume(
                        name=spec.name,
                        size=spec.size,
                        metadata=tags,
                        **_given(
                            volume_type=spec.volume_type, availability_zone=spec.availability_zone, snapshot_id=source
                        ),
                    ),
                    again=lambda sdk: self._named(sdk, spec.name),
                    deadline=deadline,
                )
            return self._await_creation(found, spec.name, deadline)

    def find_volume(self, volume_id: str) -> Volume | None:
        cloud_calls.count += 1
        found = self.look(volume_id)
        return None if found is None else _volume(found)

    def list_volumes(self) -> Sequence[Volume]:
        cloud_calls.count += 1
        found = self._connection.call("listing volumes", lambda sdk: self._our_volumes(sdk))
        return [_volume(each) for each in found]

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        found = self.look(volume_id, deadline)
        wait = Wait(f"volume {volume_id} to become free", deadline, self._paces.volume_deleted)
        while found is not None and found.status in MOVING - {"deleting"}:
            wait.pause(str(found.status))
            found = self.look(volume_id, deadline)
        if found is None:
            return
        _refuse_held(found)
        snapshots = self._snapshots_of(volume_id, deadline)
        kept = [each for each in snapshots if not self._is_condemned(each)]
        if kept:
            raise CloudError(
                f"Volume {found.name} has {len(kept)} snapshot{'s' if len(kept) > 1 else ''}:"
                f" {', '.join(map(name_of, kept[:3]))}{', …' if len(kept) > 3 else ''}.",
                hint="Delete those first.",
            )
        if snapshots:
            self._condemn("volume", found, deadline)
            self.collect(deadline)
            return
        self._erase_volume(volume_id, str(found.name), deadline, requested=found.status == "deleting")
        if found.snapshot_id:
            self.collect(deadline)

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        """Attached volumes too (Cinder 3.42): Cinder tells Nova, and Nova the guest, once the status is back."""
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        found = self._settled(volume_id, deadline)
        name, before = str(found.name), int(found.size or 0)
        if size < before:
            raise CloudError(
                f"Volume {name} has {before} GiB and is never shrunk to {size}.", hint="Make a smaller one and copy."
            )
        if found.status not in (AVAILABLE, IN_USE):
            raise self._not_extended(volume_id, name, size, str(found.status))
        if size == before:
            return _volume(found)

        def action(sdk: Sdk) -> None:
            """Repeatable: a lost answer may hide that Cinder is at it, or done."""
            seen = block_storage(sdk).get_volume(volume_id)
            if seen.status != "extending" and (seen.size or 0) < size:
                block_storage(sdk).extend_volume(volume_id, size)

        self._connection.call(f"extending volume {name} to {size} GiB", action, deadline=deadline)
        found = self._settled(volume_id, deadline)
        if found.status not in (AVAILABLE, IN_USE) or int(found.size or 0) < size:
            raise self._not_extended(volume_id, name, size, str(found.status))
        return _volume(found)

    def adopt_volume(
        self, reference: str, name: str, tags: Tags, *, timeout: float, holder: str | None = None
    ) -> Volume:
        cloud_calls.count += 1
        stored = tags_to_store(tags, self._deployment, name)
        deadline = Deadline(timeout)
        with self._connection.locks.hold(f"volume {name}", deadline):
            found = self._adoptable(
                "volume",
                reference,
                name,
                by_id=self._any_volume(reference, deadline),
                named=lambda sdk, wanted: [
                    each for each in block_storage(sdk).volumes(name=wanted) if each.name == wanted
                ],
                deadline=deadline,
            )
            if not self._is_ours(found):
                _refuse_held(found, besides=holder)
                self._take_over("volume", found, name, stored, deadline)
            return _volume(self._settled(str(found.id), deadline))

    def disown_volume(self, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        try:
            found = self._settled(volume_id, deadline)
        except CloudObjectMissing:
            return
        _refuse_held(found)
        self._let_go("volume", found, deadline)

    def capacity(self, volume_type: str | None = None) -> Capacity:
        """Total and free room of Cinder's pools (of those that take the type), where our user may see them (role
        admin), and never more than our project's quota leaves; ``provisioned`` is what our project has in volumes and
        snapshots, of any type."""
        cloud_calls.count += 1
        limits = self._connection.call(
            "asking for Cinder's limits", lambda sdk: block_storage(sdk).get_limits().absolute
        )
        used = float(limits.total_gigabytes_used or 0)
        quota = limits.max_total_volume_gigabytes
        total, free = self._pools(volume_type)
        left: float | None = None
        if quota is not None and quota >= 0:
            left = max(0.0, quota - used)
            total = float(quota) if total is None else min(total, float(quota))
            free = left if free is None else min(free, left)
        count = limits.max_total_volumes
        if count is not None and 0 <= count <= (limits.total_volumes_used or 0):
            left = free = 0.0
        return Capacity(total=total, free=free, provisioned=used, quota=left)

    # ---- for compute ----

    def release(self, volume_id: str, instance_id: str, deadline: Deadline) -> None:
        """End attachments to an instance that Nova does not know (any more). Cinder itself asks Nova whether that is
        so."""

        def action(sdk: Sdk) -> None:
            for each in list(block_storage(sdk).attachments(volume_id=volume_id)):
                if each.instance == instance_id:
                    block_storage(sdk).delete_attachment(each.id)

        self._connection.call(f"releasing volume {volume_id} from a missing instance", action, deadline=deadline)

    def take_back_detaching(self, volume_id: str, name: str, deadline: Deadline) -> None:
        """Make a volume in-use again whose detaching did not come to an end (Cinder's action os-roll_detaching). One
        that has come to it meanwhile is left alone."""

        def action(sdk: Sdk) -> None:
            if block_storage(sdk).get_volume(volume_id).status == DETACHING:
                body = {"os-roll_detaching": None}
                block_storage(sdk).post(f"/volumes/{volume_id}/action", json=body, raise_exc=True)

        log.warning("a volume is stuck while it is detached; beginning anew", volume=name)
        self._connection.call(f"taking back the detaching of volume {name}", action, deadline=deadline)

    # ---- parts ----

    def _named(self, sdk: Sdk, name: str) -> CinderVolume | None:
        found = [each for each in self._our_volumes(sdk, name=name) if each.name == name and each.status != "deleting"]
        if len(found) > 1:
            raise CloudError(
                f"There are {len(found)} volumes {name}: {', '.join(str(each.id) for each in found)}.",
                hint="Delete the ones that no instance has.",
            )
        return found[0] if found else None

    def _await_creation(self, found: CinderVolume, name: str, deadline: Deadline) -> Volume:
        volume_id = str(found.id)
        wait = Wait(f"volume {name} to become available", deadline, self._paces.volume_made)
        while found.status in ("creating", "downloading"):
            wait.pause(str(found.status))
            seen = self.look(volume_id, deadline)
            if seen is None:
                raise CloudObjectMissing(f"Volume {name} was deleted while it was being made.", hint="Try again.")
            found = seen
            if found.status == AVAILABLE:
                wait.done()
        if found.status == "error":
            reason = self._reason(volume_id)
            self._erase_volume(volume_id, name, deadline)
            if NO_ROOM_TEXT.search(reason):
                raise CloudCapacityExceeded(
                    f"Cinder found no room for volume {name}: {reason}.", hint="Add capacity, or delete shares."
                )
            raise CloudError(
                f"Cinder could not make volume {name}: {reason or 'it gives no reason'}.",
                hint=f"See the logs of cinder-scheduler and cinder-volume for {volume_id}.",
            )
        return _volume(found)

    def _not_extended(self, volume_id: str, name: str, size: int, status: str) -> CloudError:
        reason = self._reason(volume_id)
        message = f"Cinder did not extend volume {name} to {size} GiB; its status is {status}."
        message += f" {reason or 'It gives no reason'}."
        if status != "error_extending" and NO_ROOM_TEXT.search(reason):
            return CloudCapacityExceeded(message, hint="Add capacity, or delete shares.")
        return CloudError(
            message,
            hint=f"See the log of cinder-volume for {volume_id}; an administrator resets the status when its size is"
            " known to be right (openstack volume set --state).",
        )

    def _pools(self, volume_type: str | None) -> tuple[float | None, float | None]:
        """Total and free GiB of all pools, or of those that take a type; None when unknown, or not for us to see."""
        if not self._sees_pools:
            return None, None
        try:
            pools = self._connection.call("asking for Cinder's pools", lambda sdk: _list_pools(sdk, volume_type))
        except CloudError as error:
            if status_of(error) != 403:
                raise
            self._sees_pools = False
            return None, None
        sizes = [dict(each.capabilities or {}) for each in pools]
        return _sum(sizes, "total_capacity_gb"), _sum(sizes, "free_capacity_gb")


def _list_pools(sdk: Sdk, volume_type: str | None) -> list[Pools]:
    """All pools, or those of the backend that a type names. Cinder's own filter by type (3.35) fails for pools that are
    provisioned thinly: its capacity filter adds a size that this request has not."""
    pools = list(block_storage(sdk).backend_pools())
    if volume_type is None:
        return pools
    found = [each for each in block_storage(sdk).types() if volume_type in (each.name, each.id)]
    if not found:
        raise CloudObjectMissing(
            f"Cinder has no volume type {volume_type} that Sharewright's project may use.",
            hint="openstack volume type list shows them; set the backend's volume_type and volume_types.",
        )
    wanted = (found[0].extra_specs or {}).get("volume_backend_name")
    return [each for each in pools if wanted in (None, (each.capabilities or {}).get("volume_backend_name"))]


def holders(volume: CinderVolume) -> list[str]:
    """The instances that Cinder says have the volume."""
    return [str(each["server_id"]) for each in volume.attachments or () if each.get("server_id")]


def _refuse_held(found: CinderVolume, *, besides: str | None = None) -> None:
    held = [each for each in holders(found) if each != besides]
    if held:
        raise CloudError(f"Volume {found.name} is attached to instance {held[0]}.", hint="Detach it first.")


def _volume(found: CinderVolume) -> Volume:
    held = holders(found)
    return Volume(
        id=str(found.id),
        name=str(found.name),
        size=int(found.size or 0),
        serial=str(found.id),
        tags=metadata_of(found),
        instance_id=held[0] if held else None,
    )


def _given(**values: str | None) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _sum(pools: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """None when a pool says "unknown" or "infinite", or there is none."""
    values = [pool.get(key) for pool in pools]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return float(sum(values))  # type: ignore[arg-type]  # just checked
