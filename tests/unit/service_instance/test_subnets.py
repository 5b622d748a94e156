"""Blocks of the service network: one per tenant subnet, never overlapping, whoever asks at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from sharewright.clouds.contract import Subnet
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable
from sharewright.identifiers import new_id, utcnow
from sharewright.progress import NoProgress
from sharewright.service_instance import layouts, records
from sharewright.service_instance.subnets import Block, ServiceSubnets, next_free
from sharewright.store.database import Store
from sharewright.store.tables import service_subnets

POOL = IPv4Network("10.254.0.0/24")


def blocks() -> st.SearchStrategy[IPv4Network]:
    return st.builds(
        lambda mask, number: IPv4Network((int(POOL.network_address) + (number << (32 - mask)) % 256, mask)),
        st.integers(24, 30),
        st.integers(0, 255),
    )


@given(mask=st.integers(24, 30), taken=st.lists(blocks(), max_size=12))
def test_the_lowest_free_block_is_found(mask: int, taken: list[IPv4Network]) -> None:
    by_hand = next(
        (block for block in POOL.subnets(new_prefix=mask) if not any(block.overlaps(each) for each in taken)), None
    )
    assert next_free(POOL, mask, taken) == by_hand


def test_blocks_outside_the_pool_do_not_matter() -> None:
    taken = [ip_network("10.253.255.0/24"), ip_network("10.254.1.0/24"), ip_network("fd00::/64")]
    assert next_free(POOL, 28, taken) == ip_network("10.254.0.0/28")
    assert next_free(POOL, 28, [ip_network("10.0.0.0/8")]) is None


def tenant(name: str = "t", cidr: str = "192.168.7.0/24") -> Subnet:
    return Subnet(id=name, network_id=f"net-{name}", cidr=ip_network(cidr))


class Servers:
    """Rows of service_instances to allocate for."""

    def __init__(self, store: Store, cloud: SimulatedCloud) -> None:
        self.store, self.cloud = store, cloud

    def subnets(self, pool: str = "10.254.0.0/24", mask: int = 28, backend: str = "alpha") -> ServiceSubnets:
        return ServiceSubnets(self.store, self.cloud.networks, backend=backend, pool=pool, mask=mask)

    def new(self) -> str:
        server = new_id()
        with self.store.begin() as tx:
            records.create(
                tx, server, backend="alpha", layout="tenant", host_key="", private_key_secret="", host_key_secret=""
            )
        return server

    def allocate(self, subnets: ServiceSubnets, of: Subnet, layout: str = "tenant") -> Block:
        return subnets.allocate(self.new(), of, layout, NoProgress())  # type: ignore[arg-type]

    def rows(self) -> list[IPv4Network]:
        with self.store.read() as tx:
            return [IPv4Network(cidr) for cidr in tx.execute(select(service_subnets.c.cidr)).scalars()]

    def make(self, subnets: ServiceSubnets, block: Block) -> Subnet:
        spec = layouts.service_subnet_spec(
            "tenant", name=block.name, cidr=block.cidr, tags={"sharewright_owner": block.owner}, tenant=tenant(),
            client_ports=(2049,),
        )  # fmt: skip
        return self.cloud.networks.ensure_service_subnet(spec, timeout=1)


@pytest.fixture
def servers(store: Store, tmp_path: Path, cloud: SimulatedCloud) -> Servers:
    return Servers(store, cloud)


def test_one_block_per_tenant_subnet(servers: Servers) -> None:
    subnets = servers.subnets()
    first, second = servers.allocate(subnets, tenant("a")), servers.allocate(subnets, tenant("b"))
    assert (str(first.cidr), str(second.cidr)) == ("10.254.0.0/28", "10.254.0.16/28")
    assert servers.allocate(subnets, tenant("a")) == first


def test_a_server_keeps_its_block_when_the_configuration_changes(servers: Servers) -> None:
    server = servers.new()
    first = servers.subnets().allocate(server, tenant(), "tenant", NoProgress())
    changed = servers.subnets(pool="10.99.0.0/16", mask=24)
    assert changed.allocate(server, tenant(), "tenant", NoProgress()) == first
    assert str(servers.allocate(changed, tenant()).cidr) == "10.99.0.0/24"


def test_other_masks_and_pools_never_overlap_what_exists(servers: Servers) -> None:
    servers.allocate(servers.subnets(mask=28), tenant("a"))
    servers.allocate(servers.subnets(mask=26), tenant("b"))
    servers.allocate(servers.subnets(mask=29), tenant("c"))
    servers.allocate(servers.subnets(pool="10.254.0.0/16", mask=25), tenant("d"))
    servers.allocate(servers.subnets(pool="10.254.0.0/20", mask=28, backend="beta"), tenant("a"))
    rows = servers.rows()
    assert len(rows) == 5
    assert not [(one, two) for one in rows for two in rows if one is not two and one.overlaps(two)]


def test_backends_and_layouts_do_not_share(servers: Servers) -> None:
    made = {
        servers.allocate(servers.subnets(), tenant(), "tenant").id,
        servers.allocate(servers.subnets(), tenant(), "router").id,
        servers.allocate(servers.subnets(backend="beta"), tenant(), "tenant").id,
    }
    assert len(made) == 3


def test_the_tenants_own_addresses_are_avoided(servers: Servers) -> None:
    block = servers.allocate(servers.subnets(), tenant("inside", "10.254.0.0/26"))
    assert str(block.cidr) == "10.254.0.64/28"


def test_the_pool_ends(servers: Servers) -> None:
    subnets = servers.subnets(mask=26)
    for number in range(4):
        servers.allocate(subnets, tenant(str(number)))
    with pytest.raises(CloudCapacityExceeded):
        servers.allocate(subnets, tenant("more"))
    assert len(servers.rows()) == 4


def test_many_at_once_get_what_is_theirs(servers: Servers, open_store: Callable[[], Store]) -> None:
    processes = [Servers(open_store(), servers.cloud) for _ in range(4)]

    def allocate(number: int) -> tuple[str, Block]:
        mine, name = processes[number % 4], str(number % 6)
        return name, mine.allocate(mine.subnets(mask=28 + number % 2), tenant(name))

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(allocate, range(24)))
    assert len({(name, block.id) for name, block in got}) == 6
    rows = servers.rows()
    assert len(rows) == 6
    assert not [(one, two) for one in rows for two in rows if one is not two and one.overlaps(two)]


class RudeStore:
    """A store where a writer who ignores our lock takes the block between our look and our write, ``times`` times."""

    def __init__(self, store: Store, rude: Callable[[Connection], None], times: int) -> None:
        self._store, self._rude, self._times = store, rude, times
        self.is_sqlite = store.is_sqlite
        self.read = store.read

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._store.begin() as tx:
            yield RudeConnection(tx, self) if self._times else tx  # type: ignore[misc]

    def intrude(self, tx: Connection) -> None:
        self._times -= 1
        self._rude(tx)


class RudeConnection:
    def __init__(self, tx: Connection, store: RudeStore) -> None:
        self._tx, self._store = tx, store

    def execute(self, statement: object, *arguments: object) -> object:
        if getattr(statement, "is_insert", False):
            self._store.intrude(self._tx)
        return self._tx.execute(statement, *arguments)  # type: ignore[call-overload]


def test_a_block_taken_in_between_is_a_reason_to_look_again(servers: Servers) -> None:
    def take(tx: Connection) -> None:
        values = {"id": new_id(), "pool": str(POOL), "cidr": "10.254.0.0/28", "backend": "x", "layout": "tenant"}
        tx.execute(service_subnets.insert().values(**values, created_at=utcnow()))

    def take_twice(tx: Connection) -> None:
        take(tx)
        take(tx)

    server = servers.new()
    rude = RudeStore(servers.store, take, times=2)
    subnets = ServiceSubnets(rude, servers.cloud.networks, backend="alpha", pool=str(POOL), mask=28)  # type: ignore[arg-type]
    assert str(subnets.allocate(server, tenant(), "tenant", NoProgress()).cidr) == "10.254.0.0/28"
    endless = RudeStore(servers.store, take_twice, times=100)
    subnets = ServiceSubnets(endless, servers.cloud.networks, backend="alpha", pool=str(POOL), mask=28)  # type: ignore[arg-type]
    with pytest.raises(CloudError, match="other writers"):
        subnets.allocate(servers.new(), tenant("b"), "tenant", NoProgress())


def test_the_last_server_frees_the_block(servers: Servers) -> None:
    subnets, one, two = servers.subnets(), servers.new(), servers.new()
    block = subnets.allocate(one, tenant(), "tenant", NoProgress())
    assert subnets.allocate(two, tenant(), "tenant", NoProgress()) == block
    subnets.record(block, servers.make(subnets, block), NoProgress())
    assert subnets.release(one, NoProgress()) is None
    subnets.remove_free(NoProgress(), required=None, timeout=1)
    assert len(servers.rows()) == 1
    assert subnets.release(two, NoProgress()) == block.id
    assert subnets.release(two, NoProgress()) is None
    # Not gone yet: the same tenant's next server gets another block, elsewhere.
    other = servers.allocate(subnets, tenant())
    assert not other.cidr.overlaps(block.cidr)
    subnets.remove_free(NoProgress(), required=block.id, timeout=1)
    assert servers.rows() == [other.cidr]
    assert not servers.cloud.networks.list_service_subnets()
    assert servers.allocate(subnets, tenant("new")).cidr == block.cidr


def test_a_free_block_whose_cloud_subnet_was_never_noted_is_removed_with_it(servers: Servers) -> None:
    subnets, server = servers.subnets(), servers.new()
    block = subnets.allocate(server, tenant(), "tenant", NoProgress())
    servers.make(subnets, block)  # and no record(): the worker died
    subnets.release(server, NoProgress())
    subnets.remove_free(NoProgress(), required=None, timeout=1)
    assert not servers.cloud.networks.list_service_subnets()
    assert not servers.rows()


def test_somebody_elses_trouble_is_not_mine(servers: Servers) -> None:
    subnets, server = servers.subnets(), servers.new()
    block = subnets.allocate(server, tenant(), "tenant", NoProgress())
    subnets.record(block, servers.make(subnets, block), NoProgress())
    subnets.release(server, NoProgress())
    servers.cloud.fail("delete_service_subnet", CloudUnavailable, 2)
    subnets.remove_free(NoProgress(), required=None, timeout=1)
    with pytest.raises(CloudUnavailable):
        subnets.remove_free(NoProgress(), required=block.id, timeout=1)
    assert servers.rows() == [block.cidr]
    subnets.remove_free(NoProgress(), required=block.id, timeout=1)
    assert not servers.rows()


def test_another_backends_free_blocks_are_left_alone(servers: Servers) -> None:
    subnets, server = servers.subnets(), servers.new()
    subnets.allocate(server, tenant(), "tenant", NoProgress())
    subnets.release(server, NoProgress())
    servers.subnets(backend="beta").remove_free(NoProgress(), required=None, timeout=1)
    assert len(servers.rows()) == 1
