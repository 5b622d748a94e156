"""Snapshots, copies and adoption on OpenStack, against a small Cinder on loopback that has bad days."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openstack_fake import PASSWORD, PROJECT, FakeOpenStack

from sharewright.clouds.contract import SnapshotSpec, VolumeSpec
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.polling import Deadline, Paces
from sharewright.clouds.openstack.volumes import OpenStackVolumes
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable, DeadlineExceeded
from sharewright.identifiers import new_id
from sharewright.settings import OpenStack

SECONDS = 30.0
DEPLOYMENT = "tests"
TAGS = {"sharewright_owner": "share_snapshot_instance:1"}
OURS = {"sharewright": DEPLOYMENT, **TAGS}
CONDEMNED = {"sharewright_condemned": DEPLOYMENT}


@pytest.fixture
def fake() -> Iterator[FakeOpenStack]:
    fake = FakeOpenStack()
    yield fake
    fake.close()


@pytest.fixture
def volumes(fake: FakeOpenStack) -> Iterator[OpenStackVolumes]:
    settings = OpenStack(auth_url=f"{fake.url}/identity/v3", username="sharewright", password=PASSWORD)
    connection = Connection(settings)
    yield OpenStackVolumes(connection, DEPLOYMENT, Paces(server=0.0, volume=0.0))
    connection.close()


def snapshot_spec(volume_id: str, name: str = "manila-snapshot-1") -> SnapshotSpec:
    return SnapshotSpec(name=name, volume_id=volume_id, tags=TAGS)


def clone_spec(snapshot_id: str, size: int = 1) -> VolumeSpec:
    return VolumeSpec(name="manila-share-clone", size=size, tags=TAGS, source_snapshot=snapshot_id)


# ---- snapshots ----


@pytest.mark.parametrize("status", ["available", "in-use"])
def test_a_new_snapshot_takes_few_requests(fake: FakeOpenStack, volumes: OpenStackVolumes, status: str) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT, status=status)
    volumes.list_volumes()  # logs in
    fake.requests.clear()
    snapshot = volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS)
    assert [each.method for each in fake.requests] == ["GET", "GET", "POST", "GET", "GET"]
    assert snapshot.ready
    assert fake.snapshots[snapshot.id]["metadata"] == OURS
    fake.requests.clear()
    assert volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS) == snapshot
    assert [each.method for each in fake.requests] == ["GET"]
    assert volumes.await_snapshot(snapshot.id, timeout=SECONDS) == snapshot


@pytest.mark.parametrize("status", [504, 0])
def test_a_lost_answer_makes_no_second_snapshot(fake: FakeOpenStack, volumes: OpenStackVolumes, status: int) -> None:
    fake.fail("POST", "/snapshots$", status, moment="after")
    snapshot = volumes.ensure_snapshot(snapshot_spec(fake.add_volume("v", DEPLOYMENT)), timeout=SECONDS)
    assert list(fake.snapshots) == [snapshot.id]
    assert len(fake.asked("POST", "/snapshots$")) == 1


def test_the_return_waits_for_the_moment(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.looks = 1000
    with pytest.raises(DeadlineExceeded, match="the last status was creating"):
        volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=1.0)
    (snapshot_id,) = fake.snapshots
    found = volumes.find_snapshot(snapshot_id)
    assert found is not None
    assert not found.ready
    fake.snapshots[snapshot_id]["looks"] = 1
    assert volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS).id == snapshot_id


def test_a_volume_at_work_is_waited_for(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT, status="extending", looks=2, then=("in-use", 3))
    assert volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS).size == 3


def test_quotas_are_capacity_and_nothing_is_made(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    fake.snapshot_quota = 0
    with pytest.raises(CloudCapacityExceeded) as caught:
        volumes.ensure_snapshot(snapshot_spec(fake.add_volume("v", DEPLOYMENT)), timeout=SECONDS)
    assert "quota" in caught.value.hint
    assert fake.snapshots == {}
    assert len(fake.asked("POST", "/snapshots$")) == 1


def test_a_snapshot_that_fails_is_removed_and_explained(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.outcome["snapshot"] = "error"
    fake.messages = ["create snapshot:Not enough space on the backend."]
    with pytest.raises(CloudCapacityExceeded, match="Not enough space"):
        volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS)
    fake.messages = []
    with pytest.raises(CloudError, match="it gives no reason"):
        volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS)
    assert fake.snapshots == {}


@pytest.mark.parametrize("status", ["error", "error_deleting"])
def test_a_spoiled_snapshot_of_an_earlier_try_is_made_anew(
    fake: FakeOpenStack, volumes: OpenStackVolumes, status: str
) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    spoiled = fake.add_snapshot("manila-snapshot-1", DEPLOYMENT, volume_id, status=status)
    fake.add_snapshot("manila-snapshot-1", "somebody else's", volume_id, status=status)
    assert volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS).ready
    assert spoiled not in fake.snapshots
    assert len(fake.snapshots) == 2


def test_awaiting_what_fails_removes_it(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    snapshot_id = fake.add_snapshot("s", DEPLOYMENT, volume_id, status="creating", looks=2)
    fake.outcome["snapshot"] = "error"
    with pytest.raises(CloudObjectMissing, match="failed and was removed"):
        volumes.await_snapshot(snapshot_id, timeout=SECONDS)
    assert fake.snapshots == {}


def test_two_snapshots_of_one_name_are_reported(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    ids = [fake.add_snapshot("manila-snapshot-1", DEPLOYMENT, volume_id) for _ in range(2)]
    with pytest.raises(CloudError, match="2 snapshots manila-snapshot-1") as caught:
        volumes.ensure_snapshot(snapshot_spec(volume_id), timeout=SECONDS)
    assert all(each in caught.value.message for each in ids)


# ---- deleting ----


def test_a_volume_with_snapshots_is_not_even_asked_for(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.add_snapshot("somebody's", "", volume_id)
    with pytest.raises(CloudError, match=r"has 1 snapshot: somebody's"):
        volumes.delete_volume(volume_id, timeout=SECONDS)
    assert fake.asked("DELETE", "/volumes/") == []


def test_a_snapshot_that_cannot_be_deleted_says_why(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    snapshot_id = fake.add_snapshot("s", DEPLOYMENT, fake.add_volume("v", DEPLOYMENT))
    fake.messages = ["delete snapshot:The pool is read-only."]
    for status in ("available", "error_deleting"):  # kept, although nothing needs it; spoiled
        fake.outcome["snapshot deletion"] = status
        with pytest.raises(CloudError, match=f"its status is {status}.*read-only"):
            volumes.delete_snapshot(snapshot_id, timeout=SECONDS)
        assert fake.snapshots[snapshot_id]["metadata"] == {"sharewright": DEPLOYMENT}
    fake.outcome["snapshot deletion"] = ""
    volumes.delete_snapshot(snapshot_id, timeout=SECONDS)
    assert fake.snapshots == {}


def test_what_copies_need_stays_out_of_sight_until_they_go(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT, metadata={"sharewright": DEPLOYMENT, "note": "mine"})
    snapshot_id = fake.add_snapshot("s", DEPLOYMENT, volume_id)
    clone = volumes.ensure_volume(clone_spec(snapshot_id), timeout=SECONDS)
    volumes.delete_snapshot(snapshot_id, timeout=SECONDS)
    assert fake.snapshots[snapshot_id]["metadata"] == CONDEMNED
    assert list(volumes.list_snapshots()) == []
    volumes.delete_volume(volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["metadata"] == {"note": "mine", **CONDEMNED}
    assert list(volumes.list_volumes()) == [clone]
    assert volumes.find_volume(volume_id) is None
    with pytest.raises(CloudError, match="deployment tests"):
        volumes.adopt_volume(volume_id, "manila-share-2", TAGS, timeout=SECONDS)
    with pytest.raises(CloudError, match="deployment tests"):
        volumes.adopt_snapshot(snapshot_id, "manila-snapshot-2", TAGS, timeout=SECONDS)
    volumes.delete_volume(clone.id, timeout=SECONDS)
    assert fake.snapshots == fake.volumes == {}


def test_what_a_crash_left_behind_goes_with_the_next_copy(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    parent = fake.add_volume("v", "", metadata=CONDEMNED)
    left = fake.add_snapshot("s", "", parent, metadata=CONDEMNED)
    others = fake.add_snapshot("s", "", fake.add_volume("v", "", metadata={}), metadata={"sharewright_condemned": "x"})
    gone = fake.add_volume("clone", DEPLOYMENT, snapshot_id=new_id())
    fake.fail("GET", "/snapshots/detail", 400, "no", times=1)  # the first listing, for the volume's own snapshots
    with pytest.raises(CloudError):
        volumes.delete_volume(gone, timeout=SECONDS)
    volumes.delete_volume(gone, timeout=SECONDS)
    assert gone not in fake.volumes
    assert parent not in fake.volumes
    assert left not in fake.snapshots
    assert others in fake.snapshots, "another deployment's"


def test_collecting_never_fails_the_deletion(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    parent = fake.add_volume("v", "", metadata=CONDEMNED)
    fake.add_snapshot("s", "", parent, metadata=CONDEMNED)
    clone = fake.add_volume("clone", DEPLOYMENT, snapshot_id=new_id())
    fake.outcome["snapshot deletion"] = "error_deleting"
    volumes.delete_volume(clone, timeout=SECONDS)
    assert list(fake.volumes) == [parent]
    fake.outcome["snapshot deletion"] = ""
    volumes.collect(Deadline(SECONDS))
    assert fake.volumes == fake.snapshots == {}


# ---- copies ----


@pytest.mark.parametrize("status", [504, 0])
def test_a_lost_answer_makes_no_second_copy(fake: FakeOpenStack, volumes: OpenStackVolumes, status: int) -> None:
    snapshot_id = fake.add_snapshot("s", DEPLOYMENT, fake.add_volume("v", DEPLOYMENT))
    fake.fail("POST", "/volumes$", status, moment="after")
    clone = volumes.ensure_volume(clone_spec(snapshot_id, size=2), timeout=SECONDS)
    assert fake.volumes[clone.id]["snapshot_id"] == snapshot_id
    assert len(fake.volumes) == 2


@pytest.mark.parametrize("status", ["creating", "error"])
def test_no_copy_of_what_is_not_ready(fake: FakeOpenStack, volumes: OpenStackVolumes, status: str) -> None:
    snapshot_id = fake.add_snapshot("s", DEPLOYMENT, fake.add_volume("v", DEPLOYMENT), status=status, looks=1000)
    with pytest.raises(CloudError, match=f"not ready, but {status}"):
        volumes.ensure_volume(clone_spec(snapshot_id), timeout=SECONDS)
    assert fake.asked("POST", "/volumes$") == []


# ---- adopting ----


def test_an_adopted_volume_keeps_what_others_wrote(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("data", "", metadata={"note": "mine"}, size=7)
    volume = volumes.adopt_volume("data", "manila-share-1", TAGS, timeout=SECONDS)
    assert (volume.id, volume.name, volume.size) == (volume_id, "manila-share-1", 7)
    assert fake.volumes[volume_id]["metadata"] == {"note": "mine", **OURS}
    volumes.disown_volume(volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["metadata"] == {"note": "mine"}
    assert fake.volumes[volume_id]["name"] == "manila-share-1"


@pytest.mark.parametrize("path", ["/volumes/[^/]+$", "/metadata$"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("by", ["id", "name"])
def test_an_adoption_that_died_is_repeated(
    fake: FakeOpenStack, volumes: OpenStackVolumes, path: str, moment: str, by: str
) -> None:
    volume_id = fake.add_volume("data", "", metadata={})
    method = "POST" if "metadata" in path else "PUT"
    fake.fail(method, path, 400, "died here", moment=moment)  # type: ignore[arg-type]
    reference = volume_id if by == "id" else "data"
    with pytest.raises(CloudError, match="died here"):
        volumes.adopt_volume(reference, "manila-share-1", TAGS, timeout=SECONDS)
    assert volumes.adopt_volume(reference, "manila-share-1", TAGS, timeout=SECONDS).id == volume_id
    assert fake.volumes[volume_id]["metadata"] == OURS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metadata": {"sharewright": "theirs"}}, "deployment theirs"),
        ({"metadata": {"sharewright": DEPLOYMENT}}, "ours already"),
        ({"metadata": {}, "status": "error"}, "has status error"),
        ({"metadata": {}, "os-vol-tenant-attr:tenant_id": "2" * 32}, f"project {'2' * 32}"),
    ],
)
def test_what_is_not_ours_to_take(
    fake: FakeOpenStack, volumes: OpenStackVolumes, values: dict[str, object], message: str
) -> None:
    volume_id = fake.add_volume("data", "", **values)
    before = dict(fake.volumes[volume_id])
    for reference in (volume_id, "data"):
        with pytest.raises(CloudError, match=message) as caught:
            volumes.adopt_volume(reference, "manila-share-1", TAGS, timeout=SECONDS)
        assert caught.value.hint
    assert fake.volumes[volume_id] == before


def test_one_that_another_machine_has_is_not_taken(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    machine = new_id()
    attachments = [{"server_id": machine, "attachment_id": new_id()}]
    volume_id = fake.add_volume("data", "", metadata={}, status="in-use", attachments=attachments)
    for holder in (None, new_id()):
        with pytest.raises(CloudError, match=f"attached to instance {machine}"):
            volumes.adopt_volume(volume_id, "manila-share-1", TAGS, timeout=SECONDS, holder=holder)
    assert (fake.volumes[volume_id]["name"], fake.volumes[volume_id]["metadata"]) == ("data", {})
    adopted = volumes.adopt_volume(volume_id, "manila-share-1", TAGS, timeout=SECONDS, holder=machine)
    assert adopted.instance_id == machine


def test_a_volume_of_our_project_is_adopted(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    volume_id = fake.add_volume("data", "", metadata={}, **{"os-vol-tenant-attr:tenant_id": PROJECT})
    assert volumes.adopt_volume(volume_id, "manila-share-1", TAGS, timeout=SECONDS).id == volume_id


def test_a_name_that_two_have_is_no_reference(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    ids = [fake.add_volume("data", "", metadata={}) for _ in range(2)]
    with pytest.raises(CloudError, match="2 volumes are called data") as caught:
        volumes.adopt_volume("data", "manila-share-1", TAGS, timeout=SECONDS)
    assert "id" in caught.value.hint
    assert volumes.adopt_volume(ids[1], "manila-share-1", TAGS, timeout=SECONDS).id == ids[1]
    assert fake.volumes[ids[0]]["metadata"] == {}


def test_a_silent_cinder_is_not_a_missing_volume(fake: FakeOpenStack, volumes: OpenStackVolumes) -> None:
    fake.fail("GET", "/volumes/", 503, "down", times=-1)
    with pytest.raises(CloudUnavailable):
        volumes.adopt_volume(new_id(), "manila-share-1", TAGS, timeout=1.0)
