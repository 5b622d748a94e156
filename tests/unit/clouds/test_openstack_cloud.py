"""The OpenStack cloud against a small OpenStack on loopback that has bad days."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from openstack_fake import PASSWORD, PROJECT, FakeOpenStack

from sharewright.clouds.contract import Flavor, InstanceSpec, Port, Subnet, VolumeSpec
from sharewright.clouds.openstack.compute import OpenStackCompute
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.images import OpenStackImages, Source
from sharewright.clouds.openstack.polling import Deadline, Paces
from sharewright.clouds.openstack.volumes import OpenStackVolumes
from sharewright.errors import (
    CloudCapacityExceeded,
    CloudError,
    CloudObjectMissing,
    CloudUnavailable,
    ConfigurationError,
    DeadlineExceeded,
)
from sharewright.identifiers import new_id
from sharewright.logging import bound
from sharewright.progress import NoProgress
from sharewright.settings import OpenStack

SECONDS = 30.0
DEPLOYMENT = "tests"
VOLUME = VolumeSpec(name="manila-share-1", size=1, tags={"sharewright_owner": "share_instance:1"})


class World:
    """The parts of the cloud, on one connection to the fake."""

    def __init__(self, fake: FakeOpenStack, **settings: str) -> None:
        values = {"auth_url": f"{fake.url}/identity/v3", "username": "sharewright", "password": PASSWORD, **settings}
        paces = Paces(server=0.0, volume=0.0, detaching_is_stuck=0.5)
        self.connection = Connection(OpenStack(**values))  # type: ignore[arg-type]
        self.volumes = OpenStackVolumes(self.connection, DEPLOYMENT, paces)
        self.images = OpenStackImages(self.connection, DEPLOYMENT)
        self.compute = OpenStackCompute(self.connection, DEPLOYMENT, self.volumes, self.images, paces)


@pytest.fixture
def fake() -> Iterator[FakeOpenStack]:
    fake = FakeOpenStack()
    yield fake
    fake.close()


@pytest.fixture
def world(fake: FakeOpenStack) -> Iterator[World]:
    world = World(fake)
    yield world
    world.connection.close()


def instance_spec(*ports: Port, flavor: Flavor | None = None) -> InstanceSpec:
    return InstanceSpec(
        name="manila-1",
        image=new_id(),
        flavor=flavor or Flavor(name="tiny"),
        ports=ports,
        files={"user_data": b'{"sharewright": 1}', "meta_data.json": b"{}"},
        tags={"sharewright_backend": "b"},
        availability_zone="nova",
    )


def port() -> Port:
    subnet = Subnet(id=new_id(), network_id=new_id(), cidr=ip_network("10.0.0.0/24"))
    return Port(id=new_id(), name="p", mac="fa:16:3e:0:0:1", address=ip_address("10.0.0.2"), subnet=subnet, tags={})


# ---- the connection ----


def test_nothing_is_contacted_before_the_first_call(fake: FakeOpenStack, world: World) -> None:
    assert fake.requests == []
    assert PASSWORD not in repr(world.connection)


def test_a_wrong_password_is_explained(fake: FakeOpenStack) -> None:
    world = World(fake, password="wrong")
    with pytest.raises(CloudError) as caught:
        world.volumes.list_volumes()
    assert not isinstance(caught.value, CloudUnavailable)
    assert "401" in caught.value.message
    assert "password" in caught.value.hint


def test_a_silent_keystone_is_unavailable() -> None:
    connection = Connection(OpenStack(auth_url="http://127.0.0.1:9/v3", username="u", password="p"))
    with pytest.raises(CloudUnavailable) as caught:
        connection.once("listing volumes", lambda sdk: list(sdk.block_storage.volumes()))
    assert "listing volumes" in caught.value.message
    assert "openstack.auth_url" in caught.value.hint


def test_no_cloud_configured_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="names no cloud"):
        Connection(OpenStack()).once("listing volumes", lambda sdk: None)


def test_a_password_file_is_read(fake: FakeOpenStack, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    assert list(World(fake, password="", password_file=str(file)).volumes.list_volumes()) == []
    with pytest.raises(ConfigurationError, match="cannot be read"):
        World(fake, password="", password_file=str(tmp_path / "none")).volumes.list_volumes()


def test_clouds_yaml(fake: FakeOpenStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clouds.yaml"
    auth = {"auth_url": f"{fake.url}/identity/v3", "username": "u", "password": PASSWORD, "project_name": "service"}
    auth |= {"user_domain_name": "Default", "project_domain_name": "Default"}
    file.write_text(json.dumps({"clouds": {"bed": {"auth": auth, "region_name": "r"}}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    monkeypatch.setenv("OS_PASSWORD", "somebody else's")
    cloud = Connection(OpenStack(cloud="bed"))
    assert cloud.project_id == PROJECT
    with pytest.raises(CloudError, match="Cloud other was not found"):
        Connection(OpenStack(cloud="other")).once("listing volumes", lambda sdk: None)


def test_the_request_id_goes_with_every_request(fake: FakeOpenStack, world: World) -> None:
    identifier = f"req-{new_id()}"
    with bound(request_id=identifier):
        world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert {each.headers.get("x-openstack-request-id") for each in fake.asked("(GET|POST)", "/volume/v3/")} <= {
        identifier
    }
    assert fake.asked("POST", "/volumes$")[0].headers["x-openstack-request-id"] == identifier
    with bound(request_id="not one\nof theirs"):
        world.volumes.list_volumes()
    assert "x-openstack-request-id" not in fake.requests[-1].headers


def test_microversions_are_pinned(fake: FakeOpenStack, world: World) -> None:
    world.volumes.list_volumes()
    assert fake.requests[-1].headers["openstack-api-version"] == "volume 3.59"
    world.compute.list_instances()
    assert fake.requests[-1].headers["openstack-api-version"] == "compute 2.79"


@pytest.mark.parametrize("status", [502, 503, 429, 0])
def test_a_passing_failure_is_repeated(fake: FakeOpenStack, world: World, status: int) -> None:
    fake.fail("GET", "/volumes/detail", status, "come back later", times=2)
    assert list(world.volumes.list_volumes()) == []
    assert len(fake.asked("GET", "/volumes/detail")) == 3


def test_a_lasting_failure_ends_with_the_deadline(fake: FakeOpenStack, world: World) -> None:
    fake.fail("GET", "/volumes/detail", 503, "come back later", times=-1)
    with pytest.raises(CloudUnavailable) as caught:
        world.volumes.ensure_volume(VOLUME, timeout=1.5)
    assert "come back later" in caught.value.message
    assert "req-of-the-service" in caught.value.message
    assert len(fake.asked("GET", "/volumes/detail")) > 1


def test_a_defect_of_the_service_is_not_repeated_for_ever(fake: FakeOpenStack, world: World) -> None:
    fake.fail("GET", "/volumes/detail", 500, "Unexpected API Error", times=-1)
    with pytest.raises(CloudUnavailable):
        world.volumes.ensure_volume(VOLUME, timeout=3600)
    assert len(fake.asked("GET", "/volumes/detail")) == 4


def test_the_wish_of_a_busy_service_is_heard(fake: FakeOpenStack, world: World) -> None:
    fake.fail("GET", "/volumes/detail", 429, "Too many", times=1, **{"Retry-After": "3600"})
    with pytest.raises(CloudUnavailable):  # longer than anybody wants to wait
        world.volumes.list_volumes()
    assert len(fake.asked("GET", "/volumes/detail")) == 1


# ---- volumes ----


def test_a_new_volume_takes_few_requests(fake: FakeOpenStack, world: World) -> None:
    world.volumes.list_volumes()  # logs in
    fake.requests.clear()
    volume = world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert [each.method for each in fake.requests] == ["GET", "POST", "GET", "GET"]
    assert volume.serial == volume.id
    assert fake.volumes[volume.id]["metadata"] == {
        "sharewright": DEPLOYMENT,
        "sharewright_owner": "share_instance:1",
    }


@pytest.mark.parametrize("status", [504, 0])
def test_a_lost_answer_makes_no_second_volume(fake: FakeOpenStack, world: World, status: int) -> None:
    fake.fail("POST", "/volumes$", status, moment="after")
    volume = world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert list(fake.volumes) == [volume.id]


def test_threads_make_one_volume(fake: FakeOpenStack, world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: world.volumes.ensure_volume(VOLUME, timeout=SECONDS), range(8)))
    assert {volume.id for volume in made} == set(fake.volumes)
    assert len(fake.volumes) == 1


def test_quota_is_capacity_and_nothing_is_made(fake: FakeOpenStack, world: World) -> None:
    fake.quota = 0
    with pytest.raises(CloudCapacityExceeded) as caught:
        world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert "quota" in caught.value.hint
    assert fake.volumes == {}
    assert len(fake.asked("POST", "/volumes$")) == 1


def test_a_volume_that_fails_is_removed_and_explained(fake: FakeOpenStack, world: World) -> None:
    fake.outcome["volume"] = "error"
    fake.messages = ["schedule allocate volume:Could not find any available weighted backend."]
    with pytest.raises(CloudCapacityExceeded, match="weighted backend"):
        world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert fake.volumes == {}
    fake.messages = []
    with pytest.raises(CloudError, match="it gives no reason"):
        world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert fake.volumes == {}


def test_a_failed_volume_of_an_earlier_try_is_replaced(fake: FakeOpenStack, world: World) -> None:
    failed = fake.add_volume(VOLUME.name, DEPLOYMENT, status="error")
    assert world.volumes.ensure_volume(VOLUME, timeout=SECONDS).id != failed
    assert failed not in fake.volumes


def test_a_slow_volume_ends_with_its_status(fake: FakeOpenStack, world: World) -> None:
    fake.looks = 1000
    with pytest.raises(DeadlineExceeded, match="the last status was creating"):
        world.volumes.ensure_volume(VOLUME, timeout=1.0)
    fake.volumes[next(iter(fake.volumes))]["looks"] = 1
    assert world.volumes.ensure_volume(VOLUME, timeout=SECONDS).id in fake.volumes


@pytest.mark.parametrize("status", ["available", "in-use"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_volume_grows_once(fake: FakeOpenStack, world: World, status: str, lost: bool) -> None:
    """Attached or not, and also when the answer to the request is lost."""
    volume_id = fake.add_volume("v", DEPLOYMENT, status=status)
    fake.looks = 3
    if lost:
        fake.fail("POST", "/action$", 503, moment="after")
    assert world.volumes.extend_volume(volume_id, 5, timeout=SECONDS).size == 5
    assert world.volumes.extend_volume(volume_id, 5, timeout=SECONDS).size == 5
    assert (fake.volumes[volume_id]["size"], fake.volumes[volume_id]["status"]) == (5, status)
    assert len(fake.asked("POST", "/action$")) == 1


def test_a_volume_is_never_shrunk(fake: FakeOpenStack, world: World) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.volumes[volume_id]["size"] = 3
    with pytest.raises(CloudError, match="never shrunk to 2"):
        world.volumes.extend_volume(volume_id, 2, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing):
        world.volumes.extend_volume(new_id(), 2, timeout=SECONDS)
    assert fake.asked("POST", "/action$") == []


def test_a_volume_that_does_not_grow_says_why(fake: FakeOpenStack, world: World) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.quota = 2
    with pytest.raises(CloudCapacityExceeded, match="quota"):
        world.volumes.extend_volume(volume_id, 5, timeout=SECONDS)
    assert fake.volumes[volume_id]["status"] == "available"
    fake.quota = 1000
    fake.outcome["extend"] = "error_extending"
    with pytest.raises(CloudError, match="its status is error_extending") as caught:
        world.volumes.extend_volume(volume_id, 5, timeout=SECONDS)
    assert "openstack volume set --state" in caught.value.hint


def test_two_volumes_of_one_name_are_reported(fake: FakeOpenStack, world: World) -> None:
    ids = [fake.add_volume(VOLUME.name, DEPLOYMENT) for _ in range(2)]
    fake.add_volume(VOLUME.name, "somebody else's")
    with pytest.raises(CloudError, match="2 volumes manila-share-1") as caught:
        world.volumes.ensure_volume(VOLUME, timeout=SECONDS)
    assert all(each in caught.value.message for each in ids)


def test_a_volume_that_cannot_be_deleted_says_why(fake: FakeOpenStack, world: World) -> None:
    volume_id = fake.add_volume("v", DEPLOYMENT)
    fake.fail("DELETE", "/volumes/", 400, "Invalid volume: Volume has dependent snapshots.")
    with pytest.raises(CloudError, match="dependent snapshots"):
        world.volumes.delete_volume(volume_id, timeout=SECONDS)
    fake.volumes[volume_id]["status"] = "error_deleting"
    world.volumes.delete_volume(volume_id, timeout=SECONDS)
    assert fake.volumes == {}


def test_capacity_from_pools_or_from_the_quota(fake: FakeOpenStack, world: World) -> None:
    fake.add_volume("v", DEPLOYMENT, size=10)
    capacity = world.volumes.capacity()
    assert (capacity.total, capacity.free, capacity.provisioned, capacity.quota) == (1000.0, 990.0, 10.0, 990.0)
    world.volumes.capacity()
    assert len(fake.asked("GET", "get_pools")) == 1  # refused once is refused
    fake.pools = [{"total_capacity_gb": 100.0, "free_capacity_gb": 40.0}] * 2
    capacity = World(fake).volumes.capacity()
    assert (capacity.total, capacity.free, capacity.quota) == (200.0, 80.0, 990.0)
    fake.volume_quota = 1
    capacity = World(fake).volumes.capacity()
    assert (capacity.free, capacity.quota) == (0, 0)
    fake.volume_quota = 1000
    fake.pools[0] = fake.pools[0] | {"volume_backend_name": "ssd"}
    fake.volume_types = [
        {"id": "1", "name": "fast", "extra_specs": {"volume_backend_name": "ssd"}},
        {"id": "2", "name": "any", "extra_specs": {}},
    ]
    for name, free in (("fast", 40.0), ("1", 40.0), ("any", 80.0)):
        assert World(fake).volumes.capacity(name).free == free
    with pytest.raises(CloudObjectMissing, match="slow"):
        World(fake).volumes.capacity("slow")
    fake.volume_quota = -1
    fake.quota = -1
    fake.pools = [{"total_capacity_gb": "infinite", "free_capacity_gb": "unknown"}]
    capacity = World(fake).volumes.capacity()
    assert (capacity.total, capacity.free, capacity.provisioned, capacity.quota) == (None, None, 10.0, None)


# ---- servers ----


def test_a_new_server(fake: FakeOpenStack, world: World) -> None:
    first, second = port(), port()
    spec = instance_spec(first, second)
    instance = world.compute.ensure_instance(spec, timeout=SECONDS)
    assert instance.running
    assert instance.availability_zone == "nova"
    (asked,) = fake.asked("POST", "/servers$")
    body = asked.body["server"]
    assert body["networks"] == [{"port": first.id}, {"port": second.id}]
    assert body["config_drive"] is True
    assert body["flavorRef"] == "1"
    assert body["imageRef"] == spec.image
    assert body["availability_zone"] == "nova"
    assert body["tags"] == ["sharewright=tests"]
    assert base64.b64decode(body["user_data"]) == spec.files["user_data"]
    assert world.compute.ensure_instance(spec, timeout=SECONDS) == instance
    with pytest.raises(CloudError, match="other ports"):
        world.compute.ensure_instance(instance_spec(port()), timeout=SECONDS)
    assert len(fake.servers) == 1


def test_further_ports_are_plugged_in_and_out(fake: FakeOpenStack, world: World) -> None:
    first, second = port(), port()
    made = world.compute.ensure_instance(instance_spec(first), timeout=SECONDS)
    fake.fail("POST", "/os-interface$", 0, moment="after")  # Nova did it, and its answer is lost
    for _ in range(2):
        again = world.compute.ensure_instance(instance_spec(first, second), timeout=SECONDS)
        assert (again.id, fake.servers[made.id]["ports"]) == (made.id, [first.id, second.id])
    for _ in range(2):
        world.compute.detach_port(made.id, second.id, timeout=SECONDS)
    assert fake.servers[made.id]["ports"] == [first.id]
    world.compute.detach_port(new_id(), second.id, timeout=SECONDS)
    fake.fail("POST", "/os-interface$", 400, "Failed to attach network adapter device")
    with pytest.raises(CloudError, match="network adapter"):
        world.compute.ensure_instance(instance_spec(first, second), timeout=SECONDS)
    fake.fail(
        "POST", "/os-interface$", 400, f"Port {second.id} is still in use.", moment="after"
    )  # by this very server
    world.compute.ensure_instance(instance_spec(first, second), timeout=SECONDS)
    assert fake.servers[made.id]["ports"] == [first.id, second.id]


def test_a_lost_answer_makes_no_second_server(fake: FakeOpenStack, world: World) -> None:
    fake.fail("POST", "/servers$", 0, moment="after")
    instance = world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert list(fake.servers) == [instance.id]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("No valid host was found. There are not enough hosts available.", CloudCapacityExceeded),
        ("Build of instance 1 aborted: VolumeLimitExceeded: Maximum number of volumes allowed", CloudCapacityExceeded),
        ("Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures.", CloudError),
    ],
)
def test_a_server_that_fails_is_removed_and_explained(
    fake: FakeOpenStack, world: World, fault: str, kind: type[CloudError]
) -> None:
    fake.outcome["server"], fake.fault = "ERROR", fault
    with pytest.raises(kind) as caught:
        world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert type(caught.value) is kind
    assert fault in caught.value.message
    assert fake.servers == {}


def test_a_failed_server_of_an_earlier_try_is_replaced(fake: FakeOpenStack, world: World) -> None:
    failed = fake.add_server("manila-1", DEPLOYMENT, **{"status": "ERROR", "OS-SRV-USG:launched_at": None})
    instance = world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert instance.id != failed
    assert list(fake.servers) == [instance.id]


@pytest.mark.parametrize(
    ("status", "action"),
    [("SHUTOFF", "os-start"), ("PAUSED", "unpause"), ("SUSPENDED", "resume"), ("ERROR", "reboot")],
)
def test_a_stopped_server_is_started(fake: FakeOpenStack, world: World, status: str, action: str) -> None:
    existing = fake.add_server("manila-1", DEPLOYMENT, **{"status": status, "OS-EXT-STS:power_state": 4})
    found = world.compute.find_instance(existing)
    assert found is not None
    assert not found.running
    instance = world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert instance.id == existing
    assert instance.running
    (asked,) = fake.asked("POST", "/action$")
    assert action in asked.body


def test_a_server_whose_qemu_died_is_started(fake: FakeOpenStack, world: World) -> None:
    existing = fake.add_server("manila-1", DEPLOYMENT, **{"OS-EXT-STS:power_state": 4})
    world.compute.start_instance(existing, timeout=SECONDS)
    assert "os-start" in fake.asked("POST", "/action$")[0].body


def test_a_reboot_that_fails_is_reported(fake: FakeOpenStack, world: World) -> None:
    existing = fake.add_server("manila-1", DEPLOYMENT)
    fake.outcome["reboot"], fake.fault = "ERROR", "libvirtError: internal error"
    with pytest.raises(CloudError, match="internal error"):
        world.compute.reboot_instance(existing, timeout=SECONDS)
    found = world.compute.find_instance(existing)
    assert found is not None
    assert found.failure == "libvirtError: internal error"


def test_quota_of_servers_is_capacity(fake: FakeOpenStack, world: World) -> None:
    fake.fail("POST", "/servers$", 403, "Quota exceeded for cores: Requested 1, but already used 20 of 20 cores")
    with pytest.raises(CloudCapacityExceeded):
        world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert fake.servers == {}


def test_a_missing_role_is_no_capacity(fake: FakeOpenStack, world: World) -> None:
    fake.fail("POST", "/servers$", 403, "Policy doesn't allow os_compute_api:servers:create to be performed.")
    with pytest.raises(CloudError) as caught:
        world.compute.ensure_instance(instance_spec(), timeout=SECONDS)
    assert type(caught.value) is CloudError
    assert "roles" in caught.value.hint


def test_a_missing_port_is_named(fake: FakeOpenStack, world: World) -> None:
    fake.fail("POST", "/servers$", 400, "Port 1234 could not be found.")
    with pytest.raises(CloudObjectMissing, match="Port 1234"):
        world.compute.ensure_instance(instance_spec(), timeout=SECONDS)


def test_flavors_by_name_or_by_size(fake: FakeOpenStack, world: World) -> None:
    fake.flavors.append({"id": "2", "name": "small", "ram": 512, "vcpus": 2, "disk": 3, "links": []})
    for flavor, expected in ((Flavor(name="small"), "2"), (Flavor(memory_mib=512), "2"), (Flavor(memory_mib=1), "1")):
        world.compute.ensure_instance(replace(instance_spec(flavor=flavor), name=f"vm-{expected}"), timeout=SECONDS)
        assert fake.asked("POST", "/servers$")[-1].body["server"]["flavorRef"] == expected
        fake.servers.clear()
    with pytest.raises(CloudObjectMissing, match="huge"):
        world.compute.ensure_instance(instance_spec(flavor=Flavor(name="huge")), timeout=SECONDS)


def test_boot_volume_and_server_group(fake: FakeOpenStack, world: World) -> None:
    flavor = Flavor(name="tiny", boot_volume_size=4, boot_volume_type="fast", server_group="soft-anti-affinity")
    spec = instance_spec(flavor=flavor)
    for name in ("manila-1", "manila-2"):
        world.compute.ensure_instance(replace(spec, name=name), timeout=SECONDS)
    (group,) = fake.groups
    assert (group["name"], group["policy"]) == ("sharewright/tests/b", "soft-anti-affinity")
    asked = fake.asked("POST", "/servers$")[-1].body
    assert asked["OS-SCH-HNT:scheduler_hints"] == {"group": group["id"]}
    assert asked["server"]["block_device_mapping_v2"] == [
        {
            "uuid": spec.image,
            "source_type": "image",
            "destination_type": "volume",
            "boot_index": 0,
            "volume_size": 4,
            "volume_type": "fast",
            "delete_on_termination": True,
        }
    ]
    assert "imageRef" not in asked["server"]


def test_deleting_returns_when_it_is_gone(fake: FakeOpenStack, world: World) -> None:
    existing = fake.add_server("manila-1", DEPLOYMENT)
    foreign = fake.add_server("manila-2", "somebody else's")
    fake.looks = 2
    world.compute.delete_instance(existing, timeout=SECONDS)
    world.compute.delete_instance(foreign, timeout=SECONDS)
    assert list(fake.servers) == [foreign]


def test_a_server_on_a_silent_host_is_not_forgotten(fake: FakeOpenStack, world: World) -> None:
    """Nova would delete its record and let the machine run on, with our volumes."""
    existing = fake.add_server("manila-1", DEPLOYMENT, host_status="UNKNOWN")
    with pytest.raises(CloudUnavailable, match="may still run") as caught:
        world.compute.delete_instance(existing, timeout=SECONDS)
    assert "--down" in caught.value.hint
    assert fake.asked("DELETE", "/servers/") == []
    fake.servers[existing]["host_status"] = "DOWN"  # an operator has seen to it
    world.compute.delete_instance(existing, timeout=SECONDS)
    assert fake.servers == {}


def test_console(fake: FakeOpenStack, world: World) -> None:
    existing = fake.add_server("manila-1", DEPLOYMENT)
    assert world.compute.console_log(existing, length=7) == "login: "
    fake.fail("POST", "/action$", 409, "Instance is not ready.")
    assert world.compute.console_log(existing) == ""


def test_a_named_server_is_found_and_takes_volumes(fake: FakeOpenStack, world: World) -> None:
    nets = {"office": [{"addr": "192.0.2.7"}, {"addr": "203.0.113.7"}], "other": [{"addr": "198.51.100.7"}]}
    server_id = fake.add_server("na.s-1", "", metadata={}, addresses=nets)
    fake.add_server("na.s-12", "", metadata={})
    fake.add_server("naxs-1", "", metadata={})
    for reference in (server_id, "na.s-1"):
        found = world.compute.find_named_instance(reference)
        assert found is not None
        assert (found.id, found.running) == (server_id, True)
        assert found.addresses == {"office": ("192.0.2.7", "203.0.113.7"), "other": ("198.51.100.7",)}
    assert world.compute.find_instance(server_id) is None
    volume_id = fake.add_volume("v", DEPLOYMENT)
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    world.compute.detach_volume(server_id, volume_id, timeout=SECONDS)
    with pytest.raises(CloudObjectMissing):
        world.compute.reboot_instance(server_id, timeout=SECONDS)
    world.compute.delete_instance(server_id, timeout=SECONDS)
    assert fake.asked("DELETE", "/servers/[^/]*$") == []
    fake.add_server("na.s-1", "", metadata={})
    with pytest.raises(CloudError, match=r"2 machines named na\.s-1"):
        world.compute.find_named_instance("na.s-1")


def test_a_named_server_of_another_project(fake: FakeOpenStack, world: World) -> None:
    """Only an administrator may list those."""
    server_id = fake.add_server("nas", "", metadata={}, elsewhere=True)
    found = world.compute.find_named_instance("nas")
    assert found is not None
    assert found.id == server_id
    assert [each.query.get("all_tenants") for each in fake.asked("GET", "/servers/detail")] == [None, ["True"]]


def test_members_name_servers_of_their_project(fake: FakeOpenStack, world: World) -> None:
    fake.add_server("nas", "", metadata={}, elsewhere=True)
    fake.administrator = False
    assert world.compute.find_named_instance("nas") is None


def test_a_share_server_is_not_to_be_named(fake: FakeOpenStack, world: World) -> None:
    tags = {"sharewright": "elsewhere", "sharewright_owner": "share_server:1"}
    server_id = fake.add_server("manila-1", "", metadata=tags)
    with pytest.raises(CloudError, match="deployment elsewhere"):
        world.compute.find_named_instance(server_id)


# ---- attachments ----


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (409, "Cannot 'attach_volume' instance 1 while it is in vm_state building"),
        (400, "Invalid volume: volume 2 is already attached to instances: 3"),  # which was deleted a moment ago
    ],
)
def test_a_busy_nova_is_waited_for(fake: FakeOpenStack, world: World, status: int, text: str) -> None:
    server_id, volume_id = fake.add_server("s", DEPLOYMENT), fake.add_volume("v", DEPLOYMENT)
    fake.fail("POST", "os-volume_attachments", status, text)
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["status"] == "in-use"


def test_a_lost_answer_attaches_once(fake: FakeOpenStack, world: World) -> None:
    server_id, volume_id = fake.add_server("s", DEPLOYMENT), fake.add_volume("v", DEPLOYMENT)
    fake.fail("POST", "os-volume_attachments", 0, moment="after")
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    assert len(fake.asked("POST", "os-volume_attachments")) == 1
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    assert len(fake.asked("POST", "os-volume_attachments")) == 1


def test_an_attachment_that_nova_gives_up_is_reported(fake: FakeOpenStack, world: World) -> None:
    server_id, volume_id = fake.add_server("s", DEPLOYMENT), fake.add_volume("v", DEPLOYMENT)
    fake.outcome["attach"] = "available"
    with pytest.raises(CloudError, match="gave up"):
        world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)


def test_a_guest_that_holds_on_is_asked_again(fake: FakeOpenStack, world: World) -> None:
    server_id, volume_id = fake.add_server("s", DEPLOYMENT), fake.add_volume("v", DEPLOYMENT)
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    fake.outcome["detach"] = "in-use"
    world.compute.detach_volume(server_id, volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["status"] == "available"
    assert len(fake.asked("DELETE", "os-volume_attachments")) == 2


def test_a_detach_whose_end_cinder_never_heard_of_begins_anew(fake: FakeOpenStack, world: World) -> None:
    """Cinder's API was away when Nova had the disk out of the guest."""
    server_id, volume_id = fake.add_server("s", DEPLOYMENT), fake.add_volume("v", DEPLOYMENT)
    world.compute.attach_volume(server_id, volume_id, timeout=SECONDS)
    fake.volumes[volume_id] |= {"status": "detaching", "looks": 1_000_000}
    world.compute.detach_volume(server_id, volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["status"] == "available"
    assert len(fake.asked("DELETE", "os-volume_attachments")) == 1


def test_an_attachment_to_a_vanished_server_is_released(fake: FakeOpenStack, world: World) -> None:
    held = {"server_id": (gone := new_id()), "attachment_id": new_id()}
    volume_id = fake.add_volume("v", DEPLOYMENT, status="in-use", attachments=[held])
    world.compute.detach_volume(gone, volume_id, timeout=SECONDS)
    assert fake.volumes[volume_id]["status"] == "available"


# ---- images ----


def qcow2(path: Path, gib: int = 2) -> Path:
    path.write_bytes(b"QFI\xfb" + bytes(20) + (gib * 2**30).to_bytes(8, "big") + bytes(100))
    return path


def test_an_image_is_uploaded_once(fake: FakeOpenStack, world: World, tmp_path: Path) -> None:
    disk = qcow2(tmp_path / "root.qcow2")
    with pytest.raises(CloudObjectMissing, match="service-image") as caught:
        world.images.resolve("", Deadline(SECONDS))
    assert "image upload" in caught.value.hint
    first = world.images.upload(Source(disk=disk), NoProgress())
    assert world.images.upload(Source(disk=disk), NoProgress()) == first
    image = fake.images[first]
    assert (image["min_disk"], image["visibility"], image["hw_scsi_model"]) == (2, "private", "virtio-scsi")
    assert world.images.resolve("", Deadline(SECONDS)) == first
    qcow2(disk, 3)
    second = world.images.upload(Source(disk=disk), NoProgress())
    assert second != first
    assert world.images.resolve("", Deadline(SECONDS)) == second


def test_the_kernel_form(fake: FakeOpenStack, world: World, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(b"k")
    initrd.write_bytes(b"i")
    source = Source(disk=qcow2(tmp_path / "d"), kernel=kernel, initrd=initrd, kernel_arguments="root=UUID=1 ro")
    image = fake.images[world.images.upload(source, NoProgress())]
    assert fake.images[image["kernel_id"]]["disk_format"] == "aki"
    assert fake.images[image["ramdisk_id"]]["container_format"] == "ari"
    assert image["os_command_line"] == "root=UUID=1 ro"


def test_a_failed_upload_leaves_nothing(fake: FakeOpenStack, world: World, tmp_path: Path) -> None:
    fake.fail("PUT", "/file$", 500, "disk full")
    with pytest.raises(CloudError, match="disk full"):
        world.images.upload(Source(disk=qcow2(tmp_path / "d")), NoProgress())
    assert fake.images == {}


def test_an_image_by_name_belongs_to_our_project(fake: FakeOpenStack, world: World) -> None:
    for identifier, owner in (("a", PROJECT), ("b", "2" * 32)):
        fake.images[identifier] = {"id": identifier, "name": "service", "owner": owner, "status": "active", "tags": []}
    assert world.images.resolve("service", Deadline(SECONDS)) == "a"
    fake.images["b"]["owner"] = PROJECT
    with pytest.raises(CloudError, match="2 images service"):
        world.images.resolve("service", Deadline(SECONDS))
    with pytest.raises(CloudObjectMissing):
        world.images.resolve("other", Deadline(SECONDS))
