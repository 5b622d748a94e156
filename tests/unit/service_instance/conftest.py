"""A simulated cloud with a tenant's network, and service instances on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from service_instance_world import ADMIN, SETTINGS, World

from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.service_instance.contract import Layout
from sharewright.service_instance.layouts import ROLES
from sharewright.settings import Simulated
from sharewright.store.database import Store


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[SimulatedCloud]:
    cloud = SimulatedCloud(Simulated(), deployment="unit", path=tmp_path / "cloud.db")
    yield cloud
    cloud.close()


@pytest.fixture
def make_world(cloud: SimulatedCloud, tmp_path: Path) -> Callable[..., World]:
    def make(store: Store, layout: Layout = "tenant", **settings: object) -> World:
        network = cloud.networks.create_network(f"tenant-{layout}", ip_network("192.168.7.0/24"))
        if "admin" in ROLES[layout]:
            admin = cloud.networks.create_network("admin", ADMIN)
            settings |= {"admin_network_id": admin.id, "admin_subnet_id": admin.subnets[0].id}
        return World(
            store=store,
            cloud=cloud,
            network=network,
            key_file=tmp_path / "master.key",
            settings=replace(SETTINGS, layout=layout, **settings),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def world(sqlite_store: Store, make_world: Callable[..., World]) -> World:
    return make_world(sqlite_store)
