"""Every rule of clouds/contract.py, against every cloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

import pytest
from cloud_sites import SECONDS, Site, instance_spec, make_network, make_port, smaller

from sharewright.clouds.contract import (
    TAG_DEPLOYMENT,
    Cloud,
    Instance,
    PortSpec,
    ServiceSubnetSpec,
    SnapshotSpec,
    Subnet,
    TenantNetworks,
    Volume,
    VolumeSnapshot,
    VolumeSpec,
    cloud_calls,
)
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import is_id, new_id

T = TypeVar("T")
TAGS = {"sharewright_backend": "b", "sharewright_owner": "share_instance:1"}


def volume_spec(name: str = "manila-share-1", size: int = 1) -> VolumeSpec:
    return VolumeSpec(name=name, size=size, tags=TAGS)


def make_volume(cloud: Cloud, name: str = "manila-share-1", size: int = 1) -> Volume:
    return cloud.volumes.ensure_volume(volume_spec(name, size), timeout=SECONDS)


def snapshot_spec(volume: Volume, name: str = "manila-snapshot-1") -> SnapshotSpec:
    return SnapshotSpec(name=name, volume_id=volume.id, tags=TAGS)


def make_snapshot(cloud: Cloud, volume: Volume, name: str = "manila-snapshot-1") -> VolumeSnapshot:
    snapshot = cloud.volumes.ensure_snapshot(snapshot_spec(volume, name), timeout=SECONDS)
    return cloud.volumes.await_snapshot(snapshot.id, timeout=SECONDS)


def make_clone(cloud: Cloud, snapshot_id: str, name: str = "manila-share-clone", size: int = 1) -> Volume:
    spec = VolumeSpec(name=name, size=size, tags=TAGS, source_snapshot=snapshot_id)
    return cloud.volumes.ensure_volume(spec, timeout=SECONDS)


def service_subnet(site: Site, cloud: Cloud, name: str = "service") -> Subnet:
    spec = ServiceSubnetSpec(name=f"{cloud.deployment}-{name}", cidr=smaller(site.cidr()), tags=TAGS)
    return cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)


def at_once(*work: Callable[[], T]) -> list[T]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(piece) for piece in work]]


# ---- volumes ----


def test_ensure_volume_twice_is_one_volume(site: Site, cloud: Cloud) -> None:
    first = make_volume(cloud)
    assert make_volume(cloud) == first
    assert make_volume(site.open()) == first
    assert first.size == 1
    assert first.instance_id is None
    assert first.tags == {**TAGS, TAG_DEPLOYMENT: cloud.deployment}
    assert [volume.id for volume in cloud.volumes.list_volumes()] == [first.id]


def test_serials_are_unique_and_full_length(cloud: Cloud) -> None:
    serials = {make_volume(cloud, f"v{number}").serial for number in range(5)}
    assert len(serials) == 5
    assert all(is_id(serial) for serial in serials)


def test_volume_of_another_size_is_a_contradiction(cloud: Cloud) -> None:
    make_volume(cloud)
    with pytest.raises(CloudError, match="exists with 1 GiB"):
        make_volume(cloud, size=2)
    assert [volume.size for volume in cloud.volumes.list_volumes()] == [1]


def test_found_volume_equals_the_made_one(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    assert site.open().volumes.find_volume(volume.id) == volume
    assert cloud.volumes.find_volume(new_id()) is None
    assert cloud.volumes.find_volume("../../etc/passwd") is None


def test_deleting_a_volume_twice_or_never_made_succeeds(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    cloud.volumes.delete_volume(new_id(), timeout=SECONDS)
    cloud.volumes.delete_volume("no such thing", timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) is None
    assert list(cloud.volumes.list_volumes()) == []


def test_capacity_counts_what_is_promised(cloud: Cloud) -> None:
    before = cloud.volumes.capacity()
    assert before.total
    assert before.free is not None
    assert 0 < before.free <= before.total
    volume = make_volume(cloud, size=2)
    assert cloud.volumes.capacity().provisioned == before.provisioned + 2
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert cloud.volumes.capacity().provisioned == before.provisioned


def test_a_volume_too_large_is_refused_and_leaves_nothing(cloud: Cloud) -> None:
    with pytest.raises(CloudCapacityExceeded) as caught:
        make_volume(cloud, size=10**6)
    assert caught.value.hint
    assert list(cloud.volumes.list_volumes()) == []


def test_an_extended_volume_has_its_size_everywhere(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    for _ in range(2):
        assert cloud.volumes.extend_volume(volume.id, 3, timeout=SECONDS) == replace(volume, size=3)
        assert site.open().volumes.find_volume(volume.id) == replace(volume, size=3)
    assert make_volume(cloud, size=3).id == volume.id


def test_a_volume_is_never_shrunk(cloud: Cloud) -> None:
    volume = make_volume(cloud, size=2)
    with pytest.raises(CloudError, match="never shrunk"):
        cloud.volumes.extend_volume(volume.id, 1, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) == volume


def test_extending_beyond_all_room_changes_nothing(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    with pytest.raises(CloudCapacityExceeded) as caught:
        cloud.volumes.extend_volume(volume.id, 10**6, timeout=SECONDS)
    assert caught.value.hint
    assert cloud.volumes.find_volume(volume.id) == volume


def test_extending_what_is_not_there(cloud: Cloud) -> None:
    for missing in (new_id(), "no such thing"):
        with pytest.raises(CloudObjectMissing):
            cloud.volumes.extend_volume(missing, 2, timeout=SECONDS)


def test_threads_make_one_volume(cloud: Cloud) -> None:
    volumes = at_once(*[lambda: make_volume(cloud)] * 8)
    assert len({volume.id for volume in volumes}) == 1
    assert len(cloud.volumes.list_volumes()) == 1


def test_another_deployments_tag_is_refused(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match="deployment"):
        cloud.volumes.ensure_volume(
            VolumeSpec(name="v", size=1, tags={TAG_DEPLOYMENT: "somebody-else"}), timeout=SECONDS
        )
    assert list(cloud.volumes.list_volumes()) == []


# ---- snapshots ----


def test_ensure_snapshot_twice_is_one_snapshot(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    first = make_snapshot(cloud, volume)
    assert make_snapshot(cloud, volume) == first
    assert make_snapshot(site.open(), volume) == first
    assert first.ready
    assert (first.name, first.volume_id, first.size) == ("manila-snapshot-1", volume.id, 1)
    assert first.tags == {**TAGS, TAG_DEPLOYMENT: cloud.deployment}
    assert list(site.open().volumes.list_snapshots()) == [first]
    assert site.open().volumes.find_snapshot(first.id) == first
    assert cloud.volumes.find_volume(volume.id) == volume


def test_threads_make_one_snapshot(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    snapshots = at_once(*[lambda: make_snapshot(cloud, volume)] * 4)
    assert len({snapshot.id for snapshot in snapshots}) == 1
    assert len(cloud.volumes.list_snapshots()) == 1


def test_a_snapshot_of_what_is_not_there(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    for missing in (new_id(), "no such thing", make_volume(site.open("other")).id):
        with pytest.raises(CloudObjectMissing):
            make_snapshot(cloud, replace(volume, id=missing))
        with pytest.raises(CloudObjectMissing):
            cloud.volumes.await_snapshot(missing, timeout=SECONDS)
        with pytest.raises(CloudObjectMissing):
            make_clone(cloud, missing)
        assert cloud.volumes.find_snapshot(missing) is None
    assert list(cloud.volumes.list_snapshots()) == []
    assert [item.id for item in cloud.volumes.list_volumes()] == [volume.id]


def test_a_snapshot_of_another_volume_is_a_contradiction(cloud: Cloud) -> None:
    first, second = make_volume(cloud, "v1"), make_volume(cloud, "v2")
    snapshot = make_snapshot(cloud, first)
    with pytest.raises(CloudError, match="exists"):
        make_snapshot(cloud, second)
    assert list(cloud.volumes.list_snapshots()) == [snapshot]


def test_another_deployments_snapshot_tag_is_refused(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    spec = SnapshotSpec(name="s", volume_id=volume.id, tags={TAG_DEPLOYMENT: "somebody-else"})
    with pytest.raises(CloudError, match="deployment"):
        cloud.volumes.ensure_snapshot(spec, timeout=SECONDS)
    assert list(cloud.volumes.list_snapshots()) == []


def test_snapshots_of_other_deployments_are_neither_listed_nor_deleted(site: Site, cloud: Cloud) -> None:
    other = site.open("other")
    snapshot = make_snapshot(other, make_volume(other))
    assert list(cloud.volumes.list_snapshots()) == []
    assert cloud.volumes.find_snapshot(snapshot.id) is None
    cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    cloud.volumes.disown_snapshot(snapshot.id, timeout=SECONDS)
    assert list(other.volumes.list_snapshots()) == [snapshot]


def test_deleting_a_snapshot_twice_or_never_made_succeeds(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    snapshot = make_snapshot(cloud, volume)
    for each in (snapshot.id, snapshot.id, new_id(), "no such thing"):
        cloud.volumes.delete_snapshot(each, timeout=SECONDS)
    assert cloud.volumes.find_snapshot(snapshot.id) is None
    assert list(cloud.volumes.list_snapshots()) == []
    assert make_snapshot(cloud, volume).id in {each.id for each in cloud.volumes.list_snapshots()}


def test_a_volume_with_snapshots_is_not_deleted(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    snapshot = make_snapshot(cloud, volume)
    with pytest.raises(CloudError, match="snapshot") as caught:
        cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert caught.value.hint
    assert cloud.volumes.find_volume(volume.id) == volume
    assert cloud.volumes.find_snapshot(snapshot.id) == snapshot
    cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert list(cloud.volumes.list_volumes()) == []


def test_a_snapshot_keeps_its_moment_and_its_size(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    site.write(cloud, volume.id, 65)
    first = make_snapshot(cloud, volume, "s1")
    site.write(cloud, volume.id, 66)
    second = make_snapshot(cloud, volume, "s2")
    cloud.volumes.extend_volume(volume.id, 2, timeout=SECONDS)
    site.write(cloud, volume.id, 67)
    assert make_snapshot(cloud, volume, "s1") == first
    clones = [make_clone(cloud, snapshot.id, snapshot.name) for snapshot in (first, second)]
    assert [clone.size for clone in clones] == [1, 1]
    assert site.holds(cloud, clones[0].id, 65)
    assert site.holds(cloud, clones[1].id, 66)
    assert site.holds(cloud, volume.id, 67)


def test_snapshots_of_an_attached_volume(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    attached = replace(volume, instance_id=instance.id)
    snapshots = [make_snapshot(cloud, volume, name) for name in ("s1", "s2")]
    assert cloud.volumes.find_volume(volume.id) == attached
    cloud.volumes.delete_snapshot(snapshots[0].id, timeout=SECONDS)
    assert list(cloud.volumes.list_snapshots()) == [snapshots[1]]
    assert cloud.volumes.extend_volume(volume.id, 2, timeout=SECONDS) == replace(attached, size=2)
    assert cloud.volumes.find_snapshot(snapshots[1].id) == snapshots[1]
    cloud.compute.reboot_instance(instance.id, timeout=SECONDS)
    cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    assert list(cloud.volumes.list_snapshots()) == [snapshots[1]]
    assert cloud.volumes.find_volume(volume.id) == replace(volume, size=2)


def take_together(cloud: Cloud, volumes: Sequence[Volume]) -> list[VolumeSnapshot]:
    specs = [snapshot_spec(volume, f"of-{volume.name}") for volume in volumes]
    taken = cloud.volumes.ensure_snapshots(specs, timeout=SECONDS)
    assert [each.name for each in taken] == [spec.name for spec in specs]
    return [cloud.volumes.await_snapshot(each.id, timeout=SECONDS) for each in taken]


def test_several_snapshots_together(site: Site, cloud: Cloud) -> None:
    volumes = [make_volume(cloud, f"v{number}", number) for number in (1, 2, 3)]
    for number, volume in enumerate(volumes):
        site.write(cloud, volume.id, 65 + number)
    early = make_snapshot(cloud, volumes[1], "of-v2")
    taken = take_together(cloud, volumes)
    assert [(each.volume_id, each.size, each.ready) for each in taken] == [
        (volume.id, volume.size, True) for volume in volumes
    ]
    assert taken[1] == early, "its moment is that of the call that made it"
    assert take_together(site.open(), volumes[::-1]) == taken[::-1]
    assert {each.id for each in site.open().volumes.list_snapshots()} == {each.id for each in taken}
    for number, snapshot in enumerate(taken):
        site.write(cloud, volumes[number].id, 90)
        clone = make_clone(cloud, snapshot.id, f"clone-{number}", volumes[number].size)
        assert site.holds(cloud, clone.id, 65 + number)
    assert list(cloud.volumes.ensure_snapshots([], timeout=SECONDS)) == []


def test_several_snapshots_of_which_one_cannot_be(cloud: Cloud) -> None:
    """The caller takes away what was made, and may have them again."""
    volumes = [make_volume(cloud, name) for name in ("v1", "v2")]
    gone = replace(volumes[0], id=new_id(), name="v3")
    with pytest.raises(CloudObjectMissing):
        take_together(cloud, [volumes[0], gone, volumes[1]])
    for each in cloud.volumes.list_snapshots():
        assert each.name in ("of-v1", "of-v2")
        cloud.volumes.delete_snapshot(each.id, timeout=SECONDS)
    assert len(take_together(cloud, volumes)) == 2


def test_several_snapshots_of_attached_volumes(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volumes = [make_volume(cloud, name) for name in ("v1", "v2")]
    for volume in volumes:
        cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    taken = take_together(cloud, volumes)
    assert [(each.volume_id, each.ready) for each in taken] == [(volume.id, True) for volume in volumes]
    cloud.volumes.delete_snapshot(taken[0].id, timeout=SECONDS)
    assert list(cloud.volumes.list_snapshots()) == [taken[1]]
    assert cloud.volumes.extend_volume(volumes[0].id, 2, timeout=SECONDS).size == 2
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    assert cloud.volumes.find_snapshot(taken[1].id) == taken[1]


# ---- volumes from snapshots ----


def test_a_clone_begins_with_the_snapshots_content(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    site.write(cloud, volume.id, 65)
    snapshot = make_snapshot(cloud, volume)
    clone = make_clone(cloud, snapshot.id, size=2)
    assert clone == make_clone(site.open(), snapshot.id, size=2)
    assert clone == site.open().volumes.find_volume(clone.id)
    assert clone.tags == {**TAGS, TAG_DEPLOYMENT: cloud.deployment}
    assert clone.size == 2
    assert is_id(clone.serial)
    assert clone.serial != volume.serial
    assert site.holds(cloud, clone.id, 65)
    assert site.holds(cloud, clone.id, 0, gibibyte=1)
    site.write(cloud, clone.id, 66)
    assert site.holds(cloud, volume.id, 65), "a copy, not the volume itself"
    assert site.holds(cloud, make_clone(cloud, snapshot.id, "another").id, 65)


def test_a_clone_is_never_smaller_than_its_snapshot(cloud: Cloud) -> None:
    snapshot = make_snapshot(cloud, make_volume(cloud, size=2))
    with pytest.raises(CloudError) as caught:
        make_clone(cloud, snapshot.id, size=1)
    assert caught.value.hint
    assert len(cloud.volumes.list_volumes()) == 1


def test_a_blank_volume_is_no_clone(cloud: Cloud) -> None:
    """Who asks for a copy and is given what somebody made without one would serve the wrong data."""
    snapshot = make_snapshot(cloud, make_volume(cloud))
    make_volume(cloud, "blank")
    with pytest.raises(CloudError, match="not from snapshot"):
        make_clone(cloud, snapshot.id, "blank")


def test_a_clone_outlives_its_snapshot_and_its_volume(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    site.write(cloud, volume.id, 65)
    snapshot = make_snapshot(cloud, volume)
    clone = make_clone(cloud, snapshot.id)
    for _ in range(2):
        cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    assert site.open().volumes.find_snapshot(snapshot.id) is None
    assert list(cloud.volumes.list_snapshots()) == []
    for _ in range(2):
        cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert site.open().volumes.find_volume(volume.id) is None
    assert list(cloud.volumes.list_volumes()) == [clone]
    assert make_clone(cloud, snapshot.id) == clone, "a repeated call after all that"
    assert site.holds(cloud, clone.id, 65)
    # The names are free, and a clone has snapshots of its own.
    again = make_snapshot(cloud, clone)
    assert again.volume_id == clone.id
    grandchild = make_clone(cloud, again.id, "manila-share-grandchild")
    cloud.volumes.delete_snapshot(again.id, timeout=SECONDS)
    cloud.volumes.delete_volume(clone.id, timeout=SECONDS)
    assert list(cloud.volumes.list_volumes()) == [grandchild]
    assert site.holds(cloud, grandchild.id, 65)
    cloud.volumes.delete_volume(grandchild.id, timeout=SECONDS)
    assert list(cloud.volumes.list_volumes()) == []
    assert cloud.volumes.capacity().provisioned == 0


# ---- adopting and disowning ----


def test_a_disowned_volume_is_let_alone_and_adopted_again(site: Site, cloud: Cloud) -> None:
    volume = make_volume(cloud)
    site.write(cloud, volume.id, 65)
    for identifier in (volume.id, volume.id, new_id(), "no such thing"):
        cloud.volumes.disown_volume(identifier, timeout=SECONDS)
    assert list(site.open().volumes.list_volumes()) == []
    assert site.open().volumes.find_volume(volume.id) is None
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing):
        cloud.volumes.extend_volume(volume.id, 2, timeout=SECONDS)
    tags = {**TAGS, "sharewright_owner": "share_instance:2"}
    adopted = cloud.volumes.adopt_volume(volume.id, "manila-share-2", tags, timeout=SECONDS)
    assert (adopted.name, adopted.size, adopted.instance_id) == ("manila-share-2", 1, None)
    assert adopted.tags == {**tags, TAG_DEPLOYMENT: cloud.deployment}
    assert list(site.open().volumes.list_volumes()) == [adopted]
    assert site.open().volumes.find_volume(adopted.id) == adopted
    assert site.holds(cloud, adopted.id, 65)
    assert make_volume(cloud, "manila-share-2") == adopted


@pytest.mark.parametrize("by", ["id", "name"])
def test_adopting_a_volume_twice_succeeds(site: Site, cloud: Cloud, by: str) -> None:
    volume = make_volume(cloud)
    cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    reference = volume.id if by == "id" else volume.name
    first = cloud.volumes.adopt_volume(reference, "manila-share-2", TAGS, timeout=SECONDS)
    assert site.open().volumes.adopt_volume(reference, "manila-share-2", TAGS, timeout=SECONDS) == first
    assert list(cloud.volumes.list_volumes()) == [first]


def test_only_what_is_nobodys_is_adopted(site: Site, cloud: Cloud) -> None:
    ours, other = make_volume(cloud), site.open("other")
    theirs = make_volume(other, "manila-share-theirs")
    for missing in (new_id(), "no such thing", "../../etc/passwd", ""):
        with pytest.raises(CloudObjectMissing):
            cloud.volumes.adopt_volume(missing, "manila-share-2", TAGS, timeout=SECONDS)
    for reference in (ours.id, ours.name, theirs.id, theirs.name):
        with pytest.raises(CloudError) as caught:
            cloud.volumes.adopt_volume(reference, "manila-share-2", TAGS, timeout=SECONDS)
        assert caught.value.hint
    assert cloud.volumes.adopt_volume(ours.id, ours.name, TAGS, timeout=SECONDS) == ours
    assert list(cloud.volumes.list_volumes()) == [ours]
    assert list(other.volumes.list_volumes()) == [theirs]


def test_a_name_of_ours_is_not_given_to_an_adopted_volume(cloud: Cloud) -> None:
    ours, disowned = make_volume(cloud, "v1"), make_volume(cloud, "v2")
    cloud.volumes.disown_volume(disowned.id, timeout=SECONDS)
    with pytest.raises(CloudError):
        cloud.volumes.adopt_volume(disowned.id, "v1", TAGS, timeout=SECONDS)
    assert list(cloud.volumes.list_volumes()) == [ours]
    assert cloud.volumes.adopt_volume(disowned.id, "v2", TAGS, timeout=SECONDS).size == disowned.size


def test_an_attached_volume_is_not_disowned(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="attached to instance"):
        cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) == replace(volume, instance_id=instance.id)
    cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
    cloud.volumes.disown_volume(volume.id, timeout=SECONDS)
    adopted = cloud.volumes.adopt_volume(volume.id, volume.name, TAGS, timeout=SECONDS)
    cloud.compute.attach_volume(instance.id, adopted.id, timeout=SECONDS)
    found = cloud.volumes.find_volume(adopted.id)
    assert found is not None
    assert found.instance_id == instance.id


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_disowned_snapshot_is_let_alone_and_adopted_again(site: Site, cloud: Cloud, by: str) -> None:
    volume = make_volume(cloud)
    site.write(cloud, volume.id, 65)
    snapshot = make_snapshot(cloud, volume)
    site.write(cloud, volume.id, 66)
    for identifier in (snapshot.id, snapshot.id, new_id(), "no such thing"):
        cloud.volumes.disown_snapshot(identifier, timeout=SECONDS)
    assert list(site.open().volumes.list_snapshots()) == []
    assert site.open().volumes.find_snapshot(snapshot.id) is None
    cloud.volumes.delete_snapshot(snapshot.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="snapshot"):  # whose data it is part of
        cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    reference = snapshot.id if by == "id" else snapshot.name
    for missing in (new_id(), "no such thing", ""):
        with pytest.raises(CloudObjectMissing):
            cloud.volumes.adopt_snapshot(missing, "manila-snapshot-2", TAGS, timeout=SECONDS)
    adopted = cloud.volumes.adopt_snapshot(reference, "manila-snapshot-2", TAGS, timeout=SECONDS)
    assert cloud.volumes.adopt_snapshot(reference, "manila-snapshot-2", TAGS, timeout=SECONDS) == adopted
    assert (adopted.name, adopted.volume_id, adopted.size, adopted.ready) == ("manila-snapshot-2", volume.id, 1, True)
    assert adopted.tags == {**TAGS, TAG_DEPLOYMENT: cloud.deployment}
    assert list(site.open().volumes.list_snapshots()) == [adopted]
    assert site.holds(cloud, make_clone(cloud, adopted.id).id, 65)


def test_only_snapshots_that_are_nobodys_are_adopted(site: Site, cloud: Cloud) -> None:
    other = site.open("other")
    ours = make_snapshot(cloud, make_volume(cloud))
    theirs = make_snapshot(other, make_volume(other), "manila-snapshot-theirs")
    unadopted = make_snapshot(other, make_volume(other), "manila-snapshot-loose")
    other.volumes.disown_snapshot(unadopted.id, timeout=SECONDS)
    for reference in (ours.id, ours.name, theirs.id, theirs.name, unadopted.id):  # the last: of a volume not ours
        with pytest.raises(CloudError) as caught:
            cloud.volumes.adopt_snapshot(reference, "manila-snapshot-2", TAGS, timeout=SECONDS)
        assert caught.value.hint
    assert cloud.volumes.adopt_snapshot(ours.id, ours.name, TAGS, timeout=SECONDS) == ours
    assert list(cloud.volumes.list_snapshots()) == [ours]
    assert list(other.volumes.list_snapshots()) == [theirs]
    other.volumes.adopt_snapshot(unadopted.id, unadopted.name, TAGS, timeout=SECONDS)  # so that it is removed


# ---- only ours ----


def test_other_deployments_are_neither_listed_nor_deleted(site: Site, cloud: Cloud) -> None:
    other = site.open("other")
    volume = make_volume(other)
    network = make_network(site, other)
    service = service_subnet(site, other)
    port = make_port(other, service)
    instance = other.compute.ensure_instance(instance_spec(site, other, port), timeout=SECONDS)
    assert isinstance(cloud.networks, TenantNetworks)
    assert isinstance(other.networks, TenantNetworks)

    assert list(cloud.volumes.list_volumes()) == []
    assert list(cloud.networks.list_networks()) == []
    assert list(cloud.networks.list_service_subnets()) == []
    assert list(cloud.networks.list_ports()) == []
    assert list(cloud.compute.list_instances()) == []
    assert cloud.volumes.find_volume(volume.id) is None
    assert cloud.compute.find_instance(instance.id) is None

    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.networks.delete_service_subnet(service.id, timeout=SECONDS)
    cloud.networks.delete_network(network.id)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert [item.id for item in other.volumes.list_volumes()] == [volume.id]
    assert [item.id for item in other.networks.list_networks()] == [network.id]
    assert [item.id for item, _ in other.networks.list_service_subnets()] == [service.id]
    assert [item.id for item in other.networks.list_ports()] == [port.id]
    assert [item.id for item in other.compute.list_instances()] == [instance.id]


# ---- tenants' networks ----


def test_network_and_its_subnet_are_found(site: Site, cloud: Cloud) -> None:
    network = make_network(site, cloud)
    (subnet,) = network.subnets
    assert is_id(network.id)
    assert is_id(subnet.id)
    assert subnet.gateway == subnet.cidr.network_address + 1
    again = site.open()
    assert again.networks.find_subnet(network.id, None) == subnet
    assert again.networks.find_subnet(network.id, subnet.id) == subnet
    assert again.networks.find_subnet(network.id, network.id) == subnet
    assert again.networks.find_subnet(network.id, new_id()) is None
    assert again.networks.find_subnet(new_id(), None) is None
    assert again.networks.find_subnet("no such thing", None) is None
    assert isinstance(again.networks, TenantNetworks)
    assert list(again.networks.list_networks()) == [network]


def test_two_networks_of_one_name_are_refused(site: Site, cloud: Cloud) -> None:
    network = make_network(site, cloud)
    assert isinstance(cloud.networks, TenantNetworks)
    with pytest.raises(CloudError, match="exists already"):
        cloud.networks.create_network(network.name, site.cidr())


def test_network_in_use_is_not_deleted(site: Site, cloud: Cloud) -> None:
    network = make_network(site, cloud)
    port = make_port(cloud, network.subnets[0])
    assert isinstance(cloud.networks, TenantNetworks)
    with pytest.raises(CloudError, match="still has port"):
        cloud.networks.delete_network(network.id)
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.networks.delete_network(network.id)
    cloud.networks.delete_network(network.id)
    assert list(cloud.networks.list_networks()) == []
    assert cloud.networks.find_subnet(network.id, None) is None


def test_project_of_a_network_is_kept(site: Site, cloud: Cloud) -> None:
    assert isinstance(cloud.networks, TenantNetworks)
    cloud.networks.create_network(f"{cloud.deployment}-p", site.cidr(), project_id="project")
    assert [network.project_id for network in cloud.networks.list_networks()] == ["project"]


def test_a_network_is_for_its_project(site: Site, cloud: Cloud) -> None:
    assert isinstance(cloud.networks, TenantNetworks)
    find = cloud.networks.find_subnet
    theirs = cloud.networks.create_network(f"{cloud.deployment}-q", site.cidr(), project_id="red")
    assert find(theirs.id, None) is not None
    assert find(theirs.id, None, project_id="red") is not None
    assert find(theirs.id, None, project_id="blue") is None


# ---- service subnets ----


def test_ensure_service_subnet_twice_is_one(site: Site, cloud: Cloud) -> None:
    spec = ServiceSubnetSpec(name=f"{cloud.deployment}-s", cidr=smaller(site.cidr()), tags=TAGS)
    first = cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    assert site.open().networks.ensure_service_subnet(spec, timeout=SECONDS) == first
    assert first.cidr == spec.cidr
    ((subnet, tags),) = cloud.networks.list_service_subnets()
    assert subnet == first
    assert tags == {**TAGS, TAG_DEPLOYMENT: cloud.deployment}


def test_service_subnets_do_not_overlap(site: Site, cloud: Cloud) -> None:
    cidr = smaller(site.cidr())
    for name in ("a", "b"):
        spec = ServiceSubnetSpec(name=f"{cloud.deployment}-{name}", cidr=cidr, tags=TAGS)
        if name == "a":
            cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
        else:
            with pytest.raises(CloudError, match="overlap"):
                cloud.networks.ensure_service_subnet(spec, timeout=SECONDS)
    assert len(cloud.networks.list_service_subnets()) == 1


def test_service_subnet_with_another_range_is_a_contradiction(site: Site, cloud: Cloud) -> None:
    service_subnet(site, cloud)
    with pytest.raises(CloudError, match="exists with"):
        service_subnet(site, cloud)


def test_service_subnets_are_no_tenants_networks(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    assert cloud.networks.find_subnet(subnet.network_id, None) is None
    assert isinstance(cloud.networks, TenantNetworks)
    assert list(cloud.networks.list_networks()) == []
    cloud.networks.delete_network(subnet.network_id)
    assert len(cloud.networks.list_service_subnets()) == 1


def test_the_admin_network_is_a_network_that_is_there(site: Site, cloud: Cloud) -> None:
    network = make_network(site, cloud, "admin")
    (subnet,) = network.subnets
    found = cloud.networks.find_admin_network(network.id, subnet.id)
    assert found is not None
    assert (found.subnet.id, found.subnet.cidr) == (subnet.id, subnet.cidr)
    assert found.management, "an empty list would admit everybody"
    assert cloud.networks.find_admin_network(network.id, new_id()) is None
    assert cloud.networks.find_admin_network(new_id(), subnet.id) is None
    ours = service_subnet(site, cloud)
    assert cloud.networks.find_admin_network(ours.network_id, ours.id) is None


def test_service_subnet_is_deleted_when_empty(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    port = make_port(cloud, subnet)
    with pytest.raises(CloudError, match="still has port"):
        cloud.networks.delete_service_subnet(subnet.id, timeout=SECONDS)
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.networks.delete_service_subnet(subnet.id, timeout=SECONDS)
    cloud.networks.delete_service_subnet(subnet.id, timeout=SECONDS)
    cloud.networks.delete_service_subnet(new_id(), timeout=SECONDS)
    assert list(cloud.networks.list_service_subnets()) == []


# ---- ports ----


def test_ports_are_unique_and_stable(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    ports = [make_port(cloud, subnet, f"p{number}") for number in range(4)]
    assert len({port.address for port in ports}) == 4
    assert len({port.mac for port in ports}) == 4
    assert all(port.address in subnet.cidr for port in ports)
    for source in cloud.networks.management_sources(subnet):
        assert source.prefixlen < source.max_prefixlen or source.network_address not in {p.address for p in ports}
    assert subnet.gateway not in {port.address for port in ports}
    again = site.open()
    assert [make_port(again, subnet, f"p{number}") for number in range(4)] == ports
    assert sorted(again.networks.list_ports(), key=lambda port: port.name) == ports


def test_a_freed_address_is_used_again(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    ports = [make_port(cloud, subnet, f"p{number}") for number in range(13)]  # all there are
    cloud.networks.delete_port(ports[4].id, timeout=SECONDS)
    cloud.networks.delete_port(ports[4].id, timeout=SECONDS)
    assert make_port(cloud, subnet, "p13").address == ports[4].address
    assert make_port(cloud, subnet, "p1") == ports[1]


def test_a_port_is_made_again_with_its_address(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    make_port(cloud, subnet, "p0")
    port = make_port(cloud, subnet, "p1")
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    spec = PortSpec(
        name=port.name, subnet=subnet, tags=TAGS, allowed_tcp=(22,), address=port.address, mac=port.mac, outgoing=False
    )
    again = cloud.networks.ensure_port(spec, timeout=SECONDS)
    assert again.address == port.address
    assert cloud.networks.ensure_port(spec, timeout=SECONDS) == again


def test_service_ports_are_reachable_from_somewhere(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    assert cloud.networks.management_sources(subnet)
    port = make_port(cloud, subnet)
    address = cloud.networks.ensure_reachable(port, timeout=SECONDS)
    assert site.open().networks.ensure_reachable(port, timeout=SECONDS) == address


def test_a_subnet_without_free_addresses_says_so(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)  # a /28: 16 less network, broadcast, host
    for number in range(13):
        make_port(cloud, subnet, f"p{number}")
    with pytest.raises(CloudCapacityExceeded, match="No free address"):
        make_port(cloud, subnet, "p13")
    assert len(cloud.networks.list_ports()) == 13


def test_a_wanted_address_is_given_once(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    wanted = ip_address(int(subnet.cidr.network_address) + 9)

    def ensure(name: str) -> object:
        spec = PortSpec(name=f"{cloud.deployment}-{name}", subnet=subnet, tags=TAGS, allowed_tcp=(22,), address=wanted)
        return cloud.networks.ensure_port(spec, timeout=SECONDS).address

    assert ensure("a") == wanted
    assert ensure("a") == wanted
    with pytest.raises(CloudError, match="not free"):
        ensure("b")


def test_threads_get_different_addresses(site: Site, cloud: Cloud) -> None:
    subnet = make_network(site, cloud).subnets[0]
    ports = at_once(*[lambda number=number: make_port(cloud, subnet, f"p{number}") for number in range(8)])
    assert len({port.address for port in ports}) == 8


def test_port_on_a_missing_subnet_is_an_error(site: Site, cloud: Cloud) -> None:
    subnet = make_network(site, cloud).subnets[0]
    assert isinstance(cloud.networks, TenantNetworks)
    cloud.networks.delete_network(subnet.network_id)
    with pytest.raises(CloudObjectMissing):
        make_port(cloud, subnet)
    assert list(cloud.networks.list_ports()) == []


# ---- instances ----


def test_ensure_instance_twice_is_one_running_instance(site: Site, cloud: Cloud) -> None:
    spec = instance_spec(site, cloud, make_port(cloud, service_subnet(site, cloud)))
    first = cloud.compute.ensure_instance(spec, timeout=SECONDS)
    assert first.running
    assert first.failure == ""
    assert first.tags == {**spec.tags, TAG_DEPLOYMENT: cloud.deployment}
    again = site.open()
    assert again.compute.ensure_instance(spec, timeout=SECONDS) == first
    assert again.compute.find_instance(first.id) == first
    assert list(again.compute.list_instances()) == [first]


def test_instance_with_other_ports_is_a_contradiction(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    cloud.compute.ensure_instance(instance_spec(site, cloud, make_port(cloud, subnet, "a")), timeout=SECONDS)
    with pytest.raises(CloudError, match="other ports"):
        cloud.compute.ensure_instance(instance_spec(site, cloud, make_port(cloud, subnet, "b")), timeout=SECONDS)


def test_an_instance_gets_further_ports_while_it_runs(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    first, second, third = (make_port(cloud, subnet, name) for name in "abc")
    made = cloud.compute.ensure_instance(instance_spec(site, cloud, first), timeout=SECONDS)
    for ports in ((first, second), (first, second, third)):
        for _ in range(2):
            again = cloud.compute.ensure_instance(instance_spec(site, cloud, *ports), timeout=SECONDS)
            assert (again.id, again.running) == (made.id, True)
        found = site.open().compute.find_instance(made.id)
        assert found is not None
        assert found.macs is None or found.macs == {port.mac for port in ports}
    with pytest.raises(CloudError):
        cloud.networks.delete_port(third.id, timeout=SECONDS)
    with pytest.raises(CloudError):
        cloud.compute.ensure_instance(instance_spec(site, cloud, first, second), timeout=SECONDS)
    cloud.compute.reboot_instance(made.id, timeout=SECONDS)
    cloud.compute.ensure_instance(instance_spec(site, cloud, first, second, third), timeout=SECONDS)
    cloud.compute.delete_instance(made.id, timeout=SECONDS)
    for port in (first, second, third):
        cloud.networks.delete_port(port.id, timeout=SECONDS)


def test_a_port_that_two_plug_in_at_once_is_plugged_in(site: Site, cloud: Cloud) -> None:
    """Two processes that know nothing of each other; whoever comes second has nothing to do."""
    subnet = service_subnet(site, cloud)
    first, second = (make_port(cloud, subnet, name) for name in "ab")
    made = cloud.compute.ensure_instance(instance_spec(site, cloud, first), timeout=SECONDS)
    spec, other = instance_spec(site, cloud, first, second), site.open()
    found = at_once(*[lambda each=each: each.compute.ensure_instance(spec, timeout=SECONDS) for each in (cloud, other)])
    assert [(each.id, each.running) for each in found] == [(made.id, True)] * 2
    plugged = other.compute.find_instance(made.id)
    assert plugged is not None
    assert plugged.macs is None or plugged.macs == {port.mac for port in (first, second)}


def test_a_port_is_detached_and_remains(site: Site, cloud: Cloud) -> None:
    subnet = service_subnet(site, cloud)
    first, second = (make_port(cloud, subnet, name) for name in "ab")
    made = cloud.compute.ensure_instance(instance_spec(site, cloud, first, second), timeout=SECONDS)
    site.power_off(cloud, made.id)  # nothing runs in it that could let go of the NIC
    for _ in range(2):
        cloud.compute.detach_port(made.id, second.id, timeout=SECONDS)
    assert second.id in {port.id for port in cloud.networks.list_ports()}
    again = cloud.compute.ensure_instance(instance_spec(site, cloud, first), timeout=SECONDS)
    assert (again.id, again.running) == (made.id, True)
    cloud.networks.delete_port(second.id, timeout=SECONDS)
    cloud.compute.detach_port(made.id, second.id, timeout=SECONDS)
    cloud.compute.detach_port(new_id(), first.id, timeout=SECONDS)


def test_instance_with_a_missing_port_leaves_nothing(site: Site, cloud: Cloud) -> None:
    port = make_port(cloud, service_subnet(site, cloud))
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing):
        cloud.compute.ensure_instance(instance_spec(site, cloud, port), timeout=SECONDS)
    assert list(cloud.compute.list_instances()) == []


def test_deleted_instance_is_gone_and_keeps_its_volumes(site: Site, cloud: Cloud) -> None:
    port = make_port(cloud, service_subnet(site, cloud))
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud, port), timeout=SECONDS)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="in use"):
        cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    cloud.compute.delete_instance(instance.id, timeout=SECONDS)
    assert cloud.compute.find_instance(instance.id) is None
    assert cloud.volumes.find_volume(volume.id) == volume
    cloud.networks.delete_port(port.id, timeout=SECONDS)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)


def test_calls_on_missing_instances(cloud: Cloud) -> None:
    volume = make_volume(cloud)
    for missing in (new_id(), "no such thing"):
        cloud.compute.delete_instance(missing, timeout=SECONDS)
        cloud.compute.detach_volume(missing, volume.id, timeout=SECONDS)
        assert cloud.compute.find_instance(missing) is None
        assert cloud.compute.console_log(missing) == ""
        with pytest.raises(CloudObjectMissing):
            cloud.compute.start_instance(missing, timeout=SECONDS)
        with pytest.raises(CloudObjectMissing):
            cloud.compute.reboot_instance(missing, timeout=SECONDS)
        with pytest.raises(CloudObjectMissing):
            cloud.compute.attach_volume(missing, volume.id, timeout=SECONDS)


# ---- attachments ----


def test_attach_and_detach_are_idempotent(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volume = make_volume(cloud)
    for _ in range(2):
        cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
        found = site.open().volumes.find_volume(volume.id)
        assert found is not None
        assert found.instance_id == instance.id
    with pytest.raises(CloudError, match="attached to instance"):
        cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    for _ in range(2):
        cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
        assert cloud.volumes.find_volume(volume.id) == volume
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing):
        cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)


def test_an_attached_volume_is_extended(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    expected = replace(volume, size=2, instance_id=instance.id)
    assert cloud.volumes.extend_volume(volume.id, 2, timeout=SECONDS) == expected
    assert site.open().volumes.find_volume(volume.id) == expected
    cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) == replace(volume, size=2)


def test_volume_attached_elsewhere_is_refused(site: Site, cloud: Cloud) -> None:
    first = cloud.compute.ensure_instance(instance_spec(site, cloud, name="a"), timeout=SECONDS)
    second = cloud.compute.ensure_instance(instance_spec(site, cloud, name="b"), timeout=SECONDS)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(first.id, volume.id, timeout=SECONDS)
    with pytest.raises(CloudError, match="attached to instance"):
        cloud.compute.attach_volume(second.id, volume.id, timeout=SECONDS)
    cloud.compute.detach_volume(second.id, volume.id, timeout=SECONDS)
    found = cloud.volumes.find_volume(volume.id)
    assert found is not None
    assert found.instance_id == first.id
    cloud.compute.delete_instance(first.id, timeout=SECONDS)
    cloud.compute.attach_volume(second.id, volume.id, timeout=SECONDS)


def operators_machine(site: Site, name: str = "nas") -> Instance:
    """A machine that this deployment did not make."""
    elsewhere = site.open("operator")
    spec = instance_spec(site, elsewhere, name=name)
    return elsewhere.compute.ensure_instance(replace(spec, tags={}), timeout=SECONDS)


def test_a_named_machine_takes_volumes_and_nothing_else(site: Site, cloud: Cloud) -> None:
    machine = operators_machine(site)
    found = cloud.compute.find_named_instance(machine.id)
    assert found is not None
    assert (found.id, found.name, found.running) == (machine.id, machine.name, True)
    assert cloud.compute.find_named_instance(machine.name) == found
    volume = make_volume(cloud)
    for _ in range(2):
        cloud.compute.attach_volume(machine.id, volume.id, timeout=SECONDS)
        held = site.open().volumes.find_volume(volume.id)
        assert held is not None
        assert held.instance_id == machine.id
    with pytest.raises(CloudError, match="attached to instance"):
        cloud.volumes.delete_volume(volume.id, timeout=SECONDS)
    assert cloud.volumes.extend_volume(volume.id, 2, timeout=SECONDS).size == 2
    # Whoever made it starts, stops and deletes it; we do not.
    assert list(cloud.compute.list_instances()) == []
    assert cloud.compute.find_instance(machine.id) is None
    for refused in (cloud.compute.start_instance, cloud.compute.reboot_instance):
        with pytest.raises(CloudObjectMissing):
            refused(machine.id, timeout=SECONDS)
    cloud.compute.delete_instance(machine.id, timeout=SECONDS)
    again = site.open("operator").compute
    assert again.find_instance(machine.id) == machine
    again.reboot_instance(machine.id, timeout=SECONDS)
    held = cloud.volumes.find_volume(volume.id)
    assert held is not None
    assert held.instance_id == machine.id
    for _ in range(2):
        cloud.compute.detach_volume(machine.id, volume.id, timeout=SECONDS)
    cloud.volumes.delete_volume(volume.id, timeout=SECONDS)


def test_volumes_of_a_named_machine_that_is_gone(site: Site, cloud: Cloud) -> None:
    machine = operators_machine(site)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(machine.id, volume.id, timeout=SECONDS)
    site.open("operator").compute.delete_instance(machine.id, timeout=SECONDS)
    assert cloud.compute.find_named_instance(machine.id) is None
    cloud.compute.detach_volume(machine.id, volume.id, timeout=SECONDS)
    assert cloud.volumes.find_volume(volume.id) == volume
    second = operators_machine(site)
    cloud.compute.attach_volume(second.id, volume.id, timeout=SECONDS)


def test_snapshots_of_a_volume_of_a_named_machine(site: Site, cloud: Cloud) -> None:
    machine = operators_machine(site)
    volume = make_volume(cloud)
    cloud.compute.attach_volume(machine.id, volume.id, timeout=SECONDS)
    snapshot = make_snapshot(cloud, volume)
    assert snapshot.ready
    assert make_clone(cloud, snapshot.id).size == 1


def test_share_servers_are_nobodys_to_name(site: Site, cloud: Cloud) -> None:
    other = site.open("other")
    for place in (cloud, other):
        made = place.compute.ensure_instance(instance_spec(site, place), timeout=SECONDS)
        for reference in (made.id, made.name):
            with pytest.raises(CloudError, match="is a share server"):
                cloud.compute.find_named_instance(reference)
    for missing in (new_id(), "no such thing"):
        assert cloud.compute.find_named_instance(missing) is None


def test_reboot_keeps_volumes(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volumes = [make_volume(cloud, f"v{number}") for number in range(3)]
    for volume in volumes:
        cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)
    cloud.compute.detach_volume(instance.id, volumes[1].id, timeout=SECONDS)
    cloud.compute.reboot_instance(instance.id, timeout=SECONDS)
    assert cloud.compute.find_instance(instance.id) == instance
    holders = {volume.name: volume.instance_id for volume in cloud.volumes.list_volumes()}
    assert holders == {"v0": instance.id, "v1": None, "v2": instance.id}
    cloud.compute.start_instance(instance.id, timeout=SECONDS)


def test_forty_volumes_on_one_instance(site: Site, cloud: Cloud) -> None:
    instance = cloud.compute.ensure_instance(instance_spec(site, cloud), timeout=SECONDS)
    volumes = [make_volume(cloud, f"v{number}") for number in range(40)]

    def attach(volume: Volume) -> None:
        cloud.compute.attach_volume(instance.id, volume.id, timeout=SECONDS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attach, volumes))
    assert {volume.instance_id for volume in cloud.volumes.list_volumes()} == {instance.id}
    cloud.compute.reboot_instance(instance.id, timeout=SECONDS)
    for volume in volumes[::2]:
        cloud.compute.detach_volume(instance.id, volume.id, timeout=SECONDS)
    assert sum(volume.instance_id == instance.id for volume in cloud.volumes.list_volumes()) == 20


def test_calls_are_counted(cloud: Cloud) -> None:
    before = cloud_calls.count
    make_volume(cloud)
    cloud.volumes.capacity()
    cloud.networks.list_ports()
    assert cloud_calls.count - before == 3
