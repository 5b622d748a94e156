"""What only OpenStack has: roles, refusals in the services' own words, boot volumes, server groups, images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cloud_sites import FILES, SECONDS, TestBed, empty_disk

from sharewright.clouds.contract import Flavor, InstanceSpec, VolumeSpec
from sharewright.clouds.openstack.cloud import OpenStackCloud
from sharewright.clouds.openstack.images import Source
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import new_id
from sharewright.progress import NoProgress

pytestmark = pytest.mark.openstack
TAGS = {"sharewright_backend": "b", "sharewright_owner": "share_server:1"}
VOLUME = VolumeSpec(name="manila-share-1", size=1, tags=TAGS, volume_type="rbd", availability_zone="nova")


@pytest.fixture
def cloud(test_bed: TestBed) -> Iterator[OpenStackCloud]:
    """As a user with the role "member" and no other."""
    identity = test_bed.sdk.identity
    name, password = f"{test_bed.name}-member", new_id()
    with ExitStack() as stack:
        user = identity.create_user(name=name, password=password, domain_id="default")
        stack.callback(identity.delete_user, user)
        project = identity.find_project(test_bed.name, ignore_missing=False)
        identity.assign_project_role_to_user(project, user, identity.find_role("member", ignore_missing=False))
        settings = msgspec.structs.replace(test_bed.settings, username=name, password=password)
        cloud = OpenStackCloud(settings, deployment=name)
        stack.callback(cloud.close)
        stack.callback(cloud.purge, NoProgress())
        yield cloud


def instance_spec(cloud: OpenStackCloud, image: str, **flavor: object) -> InstanceSpec:
    return InstanceSpec(
        name=f"{cloud.deployment}-vm",
        image=image,
        flavor=replace(Flavor(name="m1.small"), **flavor),  # type: ignore[arg-type]
        ports=(),
        files=FILES,
        tags=TAGS,
        availability_zone="nova",
    )


def test_a_member_boots_from_a_volume(cloud: OpenStackCloud, tmp_path: Path) -> None:
    capacity = cloud.volumes.capacity()
    assert capacity.total == 1000  # the quota: pools are for administrators
    image = cloud.images.upload(Source(disk=empty_disk(tmp_path), min_ram=0), NoProgress())
    assert cloud.images.upload(Source(disk=tmp_path / "empty.qcow2", min_ram=0), NoProgress()) == image
    volume = cloud.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    spec = instance_spec(cloud, "", boot_volume_size=1, boot_volume_type="rbd", server_group="soft-anti-affinity")
    instance = cloud.compute.ensure_instance(spec, timeout=2 * SECONDS)
    assert instance.running
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    assert [each.id for each in cloud.volumes.list_volumes()] == [volume.id]  # the boot volume is Nova's
    assert cloud.volumes.capacity().provisioned == 2
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) == volume


def test_refusals_are_explained(test_bed: TestBed, cloud: OpenStackCloud) -> None:
    compute, volumes = cloud.compute, cloud.volumes
    spec = instance_spec(cloud, test_bed.image)
    with pytest.raises(CloudObjectMissing, match="no flavor huge"):
        compute.ensure_instance(replace(spec, flavor=Flavor(name="huge")), timeout=SECONDS)
    with pytest.raises(CloudError, match="availability zone is not available"):
        compute.ensure_instance(replace(spec, availability_zone="mars"), timeout=SECONDS)
    with pytest.raises(CloudError, match="image"):
        compute.ensure_instance(replace(spec, image=new_id()), timeout=SECONDS)
    with pytest.raises(CloudObjectMissing, match="image upload"):
        compute.ensure_instance(replace(spec, image=""), timeout=SECONDS)
    with pytest.raises(CloudObjectMissing, match="mars"):
        volumes.ensure_volume(replace(VOLUME, volume_type="mars"), timeout=SECONDS)
    with pytest.raises(CloudError, match="mars"):
        volumes.ensure_volume(replace(VOLUME, availability_zone="mars"), timeout=SECONDS)
    with pytest.raises(CloudCapacityExceeded, match="weighted backend"):
        volumes.ensure_volume(replace(VOLUME, size=900), timeout=SECONDS)
    assert list(volumes.list_volumes()) == []
    assert list(compute.list_instances()) == []


def test_the_kernel_form(cloud: OpenStackCloud, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"no kernel")
    initrd.write_bytes(b"no initrd")
    source = Source(
        disk=empty_disk(tmp_path), kernel=kernel, initrd=initrd, kernel_arguments="root=LABEL=root", min_ram=0
    )
    image = cloud.images.upload(source, NoProgress())
    assert cloud.images.upload(source, NoProgress()) == image
    with pytest.raises(CloudError, match="Nova could not make server"):  # QEMU takes no such kernel
        cloud.compute.ensure_instance(instance_spec(cloud, image), timeout=2 * SECONDS)
    assert list(cloud.compute.list_instances()) == []
