"""Service instances are made once, found again after any crash, and removed from every half-made state."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from service_instance_world import ADMIN, NOTHING, Crash, Fuse, World, document, one_server
from sqlalchemy import select, update

from sharewright.clouds.contract import TAG_OWNER, VolumeSpec
from sharewright.errors import (
    CloudCapacityExceeded,
    CloudError,
    CloudObjectMissing,
    CloudUnavailable,
    GuestUnreachable,
    LeaseLost,
    NotFound,
)
from sharewright.identifiers import new_id
from sharewright.progress import NoProgress
from sharewright.service_instance.contract import TenantNetwork
from sharewright.service_instance.layouts import ROLES
from sharewright.store.database import Store
from sharewright.store.statements import statements
from sharewright.store.tables import secrets, service_instances, service_subnets


@pytest.fixture(params=ROLES)
def each_layout(request: pytest.FixtureRequest, sqlite_store: Store, make_world: Callable[..., World]) -> World:
    return make_world(sqlite_store, request.param)


class LeaseLostAt(NoProgress):
    """The lease is lost as the named step ends."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step
        self._lost = False

    def record(self, **facts: object) -> None:
        super().record(**facts)

    def fence(self, transaction: object, *, at_end: bool = False) -> None:
        if self._lost:
            raise LeaseLost("somebody else has it")

    def check(self) -> None:
        super().check()
        if self._lost:
            raise LeaseLost("somebody else has it")

    def step(self, name: str):  # type: ignore[no-untyped-def]
        manager = super().step(name)
        self._lost = self._lost or name == self._step
        return manager


def test_a_service_instance_is_made(each_layout: World) -> None:
    server, instances = new_id(), each_layout.instances()
    made = instances.ensure(server, each_layout.tenant, NoProgress())
    layout = each_layout.settings.layout
    assert each_layout.counts() == one_server(layout)
    assert made == instances.find(server) == each_layout.instances().find(server)
    assert made.layout == layout
    address = {port.role: port.address for port in made.ports}
    assert tuple(address) == ROLES[layout]
    places = {"service": ip_network("10.254.0.0/28"), "tenant": ip_network("192.168.7.0/24"), "admin": ADMIN}
    assert all(ip_address(address[role]) in places[role] for role in address)
    management = "service" if "service" in address else "admin"
    assert made.management_address == address[management]
    assert made.export_addresses == (address["tenant" if "tenant" in address else "service"],)
    assert made.admin_addresses == ((address["admin"],) if "admin" in address else ())
    assert made.firewall.management_from == (f"{places[management][1]}/32",)
    assert made.firewall.client_from == (() if "tenant" in address else ("192.168.7.0/24",))
    (instance,) = each_layout.cloud.compute.list_instances()
    assert (instance.name, instance.tags[TAG_OWNER]) == (f"manila-{server}", f"share_server:{server}")
    assert {port.name for port in each_layout.cloud.networks.list_ports()} == {
        f"{server}-{port.role}" for port in made.ports
    }
    if "service" not in address:
        return
    ((subnet, tags),) = each_layout.cloud.networks.list_service_subnets()
    with each_layout.store.read() as tx:
        row = tx.execute(select(service_subnets)).one()
    assert (row.cloud_subnet_id, row.cloud_network_id) == (subnet.id, subnet.network_id)
    assert tags[TAG_OWNER] == f"service_subnet:{row.id}"


def test_made_twice_is_made_once(each_layout: World) -> None:
    server, instances = new_id(), each_layout.instances()
    first = instances.ensure(server, each_layout.tenant, NoProgress())
    assert instances.ensure(server, each_layout.tenant, NoProgress()) == first
    assert each_layout.instances().ensure(server, each_layout.tenant, NoProgress()) == first
    assert each_layout.counts() == one_server(each_layout.settings.layout)


def test_the_guest_is_reached_over_the_pinned_channel(each_layout: World) -> None:
    server, instances = new_id(), each_layout.instances()
    instances.ensure(server, each_layout.tenant, NoProgress())
    assert instances.apply(server, document(server, 3)).generation == 3
    assert each_layout.instances().observe(server, document(server, 3)).generation == 3
    other = new_id()
    instances.ensure(other, each_layout.tenant, NoProgress())
    with each_layout.store.begin() as tx:  # the VM's real host key is another one: nobody may be talked to
        key = select(service_instances.c.host_key).where(service_instances.c.id == other).scalar_subquery()
        tx.execute(update(service_instances).where(service_instances.c.id == server).values(host_key=key))
    with pytest.raises(GuestUnreachable):
        each_layout.instances().apply(server, document(server, 4))


def test_a_crash_anywhere_while_making_leaves_nothing_twice(each_layout: World) -> None:
    rehearsal, server = Fuse(), new_id()
    each_layout.instances(rehearsal).ensure(server, each_layout.tenant, NoProgress())
    each_layout.instances().delete(server, NoProgress())
    assert rehearsal.passed > 20
    for place in range(1, rehearsal.passed + 1):
        server = new_id()
        with pytest.raises(Crash):
            each_layout.instances(Fuse(place)).ensure(server, each_layout.tenant, NoProgress())
        before = {each.id for each in each_layout.cloud.compute.list_instances()}
        before |= {each.id for each in each_layout.cloud.networks.list_ports()}
        made = each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
        assert each_layout.counts() == one_server(each_layout.settings.layout), f"place {place}"
        after = {made.instance_id, *(port.port_id for port in made.ports)}
        assert before <= after, f"place {place}: objects made before the crash are the ones in use"
        each_layout.instances().delete(server, NoProgress())
        assert each_layout.counts() == NOTHING, f"place {place}"


def test_every_half_made_state_can_be_deleted(each_layout: World) -> None:
    rehearsal, server = Fuse(), new_id()
    each_layout.instances(rehearsal).ensure(server, each_layout.tenant, NoProgress())
    each_layout.instances().delete(server, NoProgress())
    for place in range(1, rehearsal.passed + 1):
        server = new_id()
        with pytest.raises(Crash):
            each_layout.instances(Fuse(place)).ensure(server, each_layout.tenant, NoProgress())
        each_layout.instances().delete(server, NoProgress())
        assert each_layout.counts() == NOTHING, f"place {place}"


def test_a_crash_anywhere_while_deleting_is_finished_by_the_next(each_layout: World) -> None:
    rehearsal, server = Fuse(), new_id()
    each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
    each_layout.instances(rehearsal).delete(server, NoProgress())
    assert rehearsal.passed > 8
    for place in range(1, rehearsal.passed + 1):
        server = new_id()
        each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
        with pytest.raises(Crash):
            each_layout.instances(Fuse(place)).delete(server, NoProgress())
        each_layout.instances().delete(server, NoProgress())
        assert each_layout.counts() == NOTHING, f"place {place}"


def test_a_failing_cloud_call_fails_the_work_and_the_next_try_finishes_it(world: World) -> None:
    server = new_id()
    for method in ("ensure_service_subnet", "ensure_port", "ensure_instance"):
        for moment in ("before", "after"):
            world.cloud.fail(method, CloudUnavailable, moment=moment)
            with pytest.raises(CloudUnavailable):
                world.instances().ensure(server, world.tenant, NoProgress())
    world.instances().ensure(server, world.tenant, NoProgress())
    assert world.counts() == one_server("tenant")
    for method in ("delete_instance", "delete_port", "delete_service_subnet"):
        world.cloud.fail(method, CloudUnavailable)
        with pytest.raises(CloudUnavailable):
            world.instances().delete(server, NoProgress())
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


@pytest.mark.parametrize("step", ["service subnet", "ports", "instance"])
def test_a_worker_without_a_lease_writes_nothing(world: World, step: str) -> None:
    server = new_id()
    with pytest.raises(LeaseLost):
        world.instances().ensure(server, world.tenant, LeaseLostAt(step))
    assert world.instances().find(server) is None


def test_deleting_while_it_is_being_made_wins(world: World) -> None:
    server = new_id()

    class DeletedMeanwhile(NoProgress):
        def step(self, name: str):  # type: ignore[no-untyped-def]
            if name == "instance":
                world.instances().delete(server, NoProgress())
            return super().step(name)

    with pytest.raises(LeaseLost):
        world.instances().ensure(server, world.tenant, DeletedMeanwhile())
    with world.store.read() as tx:
        assert tx.execute(select(service_instances)).first() is None


def test_deletion_does_not_need_the_parts(each_layout: World) -> None:
    server = new_id()
    made = each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
    each_layout.cloud.compute.delete_instance(made.instance_id, timeout=1)
    for port in made.ports:
        each_layout.cloud.networks.delete_port(port.port_id, timeout=1)
    for subnet, _ in each_layout.cloud.networks.list_service_subnets():
        each_layout.cloud.networks.delete_service_subnet(subnet.id, timeout=1)
    each_layout.instances().delete(server, NoProgress())
    each_layout.instances().delete(server, NoProgress())
    assert each_layout.counts() == NOTHING


def test_the_instance_is_gone_before_anything_else_is_touched(world: World) -> None:
    server = new_id()
    world.instances().ensure(server, world.tenant, NoProgress())
    world.cloud.fail("delete_instance", CloudError)
    world.cloud.reset_calls()
    with pytest.raises(CloudError):
        world.instances().delete(server, NoProgress())
    assert set(world.cloud.calls()) == {"delete_instance"}
    assert world.counts() == one_server("tenant")


def test_a_vm_that_vanished_is_made_again_at_the_same_addresses_with_the_same_keys(each_layout: World) -> None:
    server = new_id()
    first = each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
    each_layout.cloud.compute.delete_instance(first.instance_id, timeout=1)
    second = each_layout.instances().ensure(server, each_layout.tenant, NoProgress())
    assert second.instance_id != first.instance_id
    assert replace(second, instance_id=first.instance_id) == first
    assert each_layout.counts() == one_server(each_layout.settings.layout)


def test_servers_of_one_tenant_subnet_share_a_service_subnet(each_layout: World) -> None:
    servers = [new_id() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        instances = each_layout.instances()
        made = list(pool.map(lambda server: instances.ensure(server, each_layout.tenant, NoProgress()), servers))
    one = one_server(each_layout.settings.layout)
    assert {key: each_layout.counts()[key] for key in ("subnets", "service_subnets")} == {
        key: one[key] for key in ("subnets", "service_subnets")
    }
    assert len({each.management_address for each in made}) == 4
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda server: each_layout.instances().delete(server, NoProgress()), servers[:3]))
    assert each_layout.counts() == one_server(each_layout.settings.layout)
    each_layout.instances().delete(servers[3], NoProgress())
    assert each_layout.counts() == NOTHING


def test_the_network_named_without_its_subnet_is_the_same_one(world: World) -> None:
    first, second = new_id(), new_id()
    world.instances().ensure(first, world.tenant, NoProgress())
    world.instances().ensure(second, TenantNetwork(net_id=world.network.id), NoProgress())
    assert world.counts()["subnets"] == 1


def test_an_unknown_network_is_named(world: World) -> None:
    server, missing = new_id(), new_id()
    with pytest.raises(CloudObjectMissing, match=missing) as caught:
        world.instances().ensure(server, TenantNetwork(net_id=missing), NoProgress())
    assert "neutron_net_id" in caught.value.hint
    assert world.instances().find(server) is None
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


def test_an_unknown_admin_network_is_named(sqlite_store: Store, make_world: Callable[..., World]) -> None:
    world, missing = make_world(sqlite_store, "tenant_admin"), new_id()
    world.settings = replace(world.settings, admin_network_id=missing)
    server = new_id()
    with pytest.raises(CloudObjectMissing, match=missing) as caught:
        world.instances().ensure(server, world.tenant, NoProgress())
    assert "admin_network_id" in caught.value.hint
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


def test_the_admin_network_is_no_tenants(sqlite_store: Store, make_world: Callable[..., World]) -> None:
    world, server = make_world(sqlite_store, "router_admin"), new_id()
    with pytest.raises(CloudError, match="admin network"):
        world.instances().ensure(server, TenantNetwork(net_id=world.settings.admin_network_id), NoProgress())
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


def test_a_server_keeps_its_admin_network_and_its_layout(sqlite_store: Store, make_world: Callable[..., World]) -> None:
    world, server = make_world(sqlite_store, "tenant_admin"), new_id()
    before = world.instances().ensure(server, world.tenant, NoProgress())
    world.cloud.compute.delete_instance(before.instance_id, timeout=1)
    for port in before.ports:
        world.cloud.networks.lose_port(port.port_id)
    world.settings = replace(world.settings, layout="router", admin_network_id="", admin_subnet_id="")
    after = world.instances().ensure(server, world.tenant, NoProgress())
    assert (after.layout, after.admin_addresses) == ("tenant_admin", before.admin_addresses)
    assert after.export_addresses == before.export_addresses


def test_a_service_subnet_keeps_out_of_the_admin_network(sqlite_store: Store, make_world: Callable[..., World]) -> None:
    world = make_world(sqlite_store, "router_admin", service_network_cidr="10.2.0.0/16", division_mask=22)
    for _ in range(2):
        world.instances().ensure(new_id(), world.tenant, NoProgress())
    other = world.cloud.networks.create_network("other", ip_network("192.168.8.0/24"))
    world.instances().ensure(new_id(), TenantNetwork(net_id=other.id), NoProgress())
    subnets = sorted(subnet.cidr for subnet, _ in world.cloud.networks.list_service_subnets())
    assert subnets == [ip_network("10.2.0.0/22"), ip_network("10.2.8.0/22")]


def test_an_exhausted_service_network_says_so(sqlite_store: Store, make_world: Callable[..., World]) -> None:
    world = make_world(sqlite_store, service_network_cidr="10.254.0.0/28", division_mask=28)
    world.instances().ensure(new_id(), world.tenant, NoProgress())
    other = world.cloud.networks.create_network("another", ip_network("192.168.8.0/24"))
    server = new_id()
    with pytest.raises(CloudCapacityExceeded, match="no free /28") as caught:
        world.instances().ensure(server, TenantNetwork(net_id=other.id), NoProgress())
    assert "service_network_cidr" in caught.value.hint
    world.instances().delete(server, NoProgress())
    assert world.counts() == one_server("tenant")


def test_a_guest_that_never_answers_is_reported_with_its_console(world: World) -> None:
    world.cloud.set_delay("boot", 3600)
    world.settings = replace(world.settings, boot_seconds=0.3)
    server = new_id()
    with pytest.raises(GuestUnreachable, match="simulated boot") as caught:
        world.instances().ensure(server, world.tenant, NoProgress())
    assert "BEGIN" not in str(caught.value)
    found = world.instances().find(server)
    assert found is not None, "the VM is known, so that it can be removed and looked at"
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING


def test_finding_takes_one_statement(world: World) -> None:
    server, instances = new_id(), world.instances()
    instances.ensure(server, world.tenant, NoProgress())
    before = statements.count
    with world.store.read():
        empty = statements.count - before  # SQLite's BEGIN
    assert instances.find(server) is not None
    assert statements.count == before + 2 * empty + 1


def test_a_warm_apply_takes_no_statement(world: World) -> None:
    server, instances = new_id(), world.instances()
    instances.ensure(server, world.tenant, NoProgress())
    instances.apply(server, document(server, 1))
    before = statements.count
    instances.apply(server, document(server, 2))
    assert statements.count == before


def test_volumes_are_attached_and_detached(world: World) -> None:
    server, instances = new_id(), world.instances()
    made = instances.ensure(server, world.tenant, NoProgress())
    volume = world.cloud.volumes.ensure_volume(VolumeSpec(name="v", size=1, tags={}), timeout=1)
    for _ in range(2):
        instances.attach_volume(server, volume.id, NoProgress())
    found = world.cloud.volumes.find_volume(volume.id)
    assert found is not None
    assert found.instance_id == made.instance_id
    for _ in range(2):
        instances.detach_volume(server, volume.id, NoProgress())
    found = world.cloud.volumes.find_volume(volume.id)
    assert found is not None
    assert found.instance_id is None


def test_a_server_without_a_vm(world: World) -> None:
    server, instances = new_id(), world.instances()
    assert instances.find(server) is None
    instances.detach_volume(server, new_id(), NoProgress())
    with pytest.raises(NotFound):
        instances.attach_volume(server, new_id(), NoProgress())
    with pytest.raises(NotFound):
        instances.apply(server, document(server))
    assert not instances.ensure_running(server, NoProgress())
    instances.delete(server, NoProgress())


def test_private_keys_are_nowhere_in_clear(world: World, caplog: pytest.LogCaptureFixture) -> None:
    server, instances = new_id(), world.instances()
    made = instances.ensure(server, world.tenant, NoProgress())
    with world.store.read() as tx:
        rows = repr(tx.execute(select(service_instances)).all()) + repr(tx.execute(select(secrets)).all())
    assert "ssh-ed25519" in rows, "the public key is there"
    for text in (rows, repr(made), repr(instances), caplog.text, repr(vars(instances))):
        assert "PRIVATE KEY" not in text


def test_the_whole_story_on_both_databases(store: Store, make_world: Callable[..., World]) -> None:
    world = make_world(store)
    server = new_id()
    made = world.instances().ensure(server, world.tenant, NoProgress())
    assert world.instances().ensure(server, world.tenant, NoProgress()) == made
    assert world.instances().apply(server, document(server)).generation == 1
    world.instances().delete(server, NoProgress())
    assert world.counts() == NOTHING
