"""The volume of a share that changes its size."""

from __future__ import annotations

from sharewright.clouds.contract import Cloud
from sharewright.drivers.generic.records import InstanceRecord
from sharewright.errors import CloudObjectMissing


def grow_volume(cloud: Cloud, record: InstanceRecord, size: int, *, timeout: float) -> str:
    """Make sure that a share's volume has at least ``size`` GiB and return its id.

    It may have more: an extension that failed behind this point has grown it, volumes never shrink, and the next one
    may ask for less. The file system gets the size that is asked for, not the volume's.
    """
    volume = cloud.volumes.find_volume(record.volume_id) if record.volume_id is not None else None
    if volume is None:
        raise CloudObjectMissing(
            f"The volume of share instance {record.id} does not exist any more.",
            hint="Its data are gone with it. Delete the share.",
        )
    if volume.size < size:
        volume = cloud.volumes.extend_volume(volume.id, size, timeout=timeout)
    return volume.id
