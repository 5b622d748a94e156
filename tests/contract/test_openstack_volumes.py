"""Cinder on Ceph when it must keep a snapshot: as it is with the older kind of clones, whose parents Ceph protects."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cloud_sites import SECONDS, OpenStackSite, TestBed

from sharewright.clouds.contract import Cloud, SnapshotSpec, VolumeSpec
from sharewright.errors import CloudError

pytestmark = pytest.mark.openstack
POOL = "volumes"


@pytest.fixture
def site(test_bed: TestBed) -> Iterator[OpenStackSite]:
    if not test_bed.ceph.exists():
        pytest.skip(f"There is no {test_bed.ceph}: only the test bed lets us make clones behind Cinder's back.")
    place = OpenStackSite(test_bed)
    yield place
    place.remove()


@pytest.fixture
def cloud(site: OpenStackSite) -> Cloud:
    return site.open()


class ProtectedClone:
    """A clone of the older kind, which holds a snapshot until it goes."""

    def __init__(self, bed: TestBed, volume_id: str, snapshot_id: str) -> None:
        self._bed = bed
        self._image = f"{POOL}/held-{snapshot_id}"
        source = f"{POOL}/volume-{volume_id}@snapshot-{snapshot_id}"
        self._rbd("clone", "--rbd-default-clone-format", 1, source, self._image)

    def remove(self) -> None:
        self._rbd("rm", "--no-progress", self._image)

    def _rbd(self, *arguments: Any) -> None:
        command = ["rbd", "--conf", str(self._bed.ceph), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_what_cinder_must_keep_goes_with_the_last_clone(test_bed: TestBed, site: OpenStackSite, cloud: Cloud) -> None:
    volumes = cloud.volumes
    volume = volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=SECONDS)
    site.write(cloud, volume.id, 65)
    snapshot = volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=SECONDS)
    clone = volumes.ensure_volume(VolumeSpec(name="c", size=1, tags={}, source_snapshot=snapshot.id), timeout=SECONDS)
    held = ProtectedClone(test_bed, volume.id, snapshot.id)
    try:
        for _ in range(2):
            volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
            volumes.delete_volume(volume.id, timeout=SECONDS)
        kept = test_bed.sdk.block_storage.get_snapshot(snapshot.id)
        assert (kept.status, kept.metadata) == ("available", {"sharewright_condemned": cloud.deployment})
        assert list(volumes.list_snapshots()) == []
        assert list(volumes.list_volumes()) == [clone]
        assert site.holds(cloud, clone.id, 65)
    finally:
        held.remove()
    volumes.delete_volume(clone.id, timeout=SECONDS)
    assert volumes.capacity().provisioned == 0


def test_a_snapshot_that_something_unknown_needs_is_kept_and_ours(
    test_bed: TestBed, site: OpenStackSite, cloud: Cloud
) -> None:
    volumes = cloud.volumes
    volume = volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=SECONDS)
    snapshot = volumes.ensure_snapshot(SnapshotSpec(name="s", volume_id=volume.id, tags={}), timeout=SECONDS)
    held = ProtectedClone(test_bed, volume.id, snapshot.id)
    try:
        with pytest.raises(CloudError, match="could not delete snapshot s; its status is available") as caught:
            volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
        assert snapshot.id in caught.value.hint
        assert list(volumes.list_snapshots()) == [snapshot]
    finally:
        held.remove()
    volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    volumes.delete_volume(volume.id, timeout=SECONDS)
