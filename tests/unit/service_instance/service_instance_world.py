"""What the tests of this folder share: one deployment to look at, and a way to let it crash anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from sharewright.clouds.contract import Flavor, Network
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.clouds.simulated.guest import SimulatedGuests
from sharewright.guest.document import Document
from sharewright.service_instance.contract import Layout, ServiceInstanceSettings, TenantNetwork
from sharewright.service_instance.instances import CloudServiceInstances
from sharewright.service_instance.layouts import ROLES
from sharewright.store.database import Store
from sharewright.store.secrets import SecretBox
from sharewright.store.tables import secrets, service_instances, service_subnets

ADMIN = ip_network("10.2.5.0/24")
SETTINGS = ServiceInstanceSettings(
    backend="alpha", image="/images/service", flavor=Flavor(), boot_seconds=2.0, guest_seconds=1.0, probe_seconds=0.2,
    retry_seconds=0.3, heal_backoff_seconds=0.4,
)  # fmt: skip


class Crash(BaseException):
    """The worker process died here: no except clause of the code under test may catch it."""


@dataclass
class Fuse:
    """Burns at the ``at``-th of the places that can crash; None never. ``passed`` counts them."""

    at: int | None = None
    passed: int = 0

    def pass_by(self) -> None:
        self.passed += 1
        if self.at is not None and self.passed == self.at:
            raise Crash(f"at place {self.at}")


class Fused:
    """Anything, with a place to crash before and after each of its calls (after: done, but the answer is lost)."""

    def __init__(self, target: Any, fuse: Fuse) -> None:
        self._target = target
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            self._fuse.pass_by()
            result = attribute(*arguments, **options)
            self._fuse.pass_by()
            return result

        return call


class FusedStore:
    """A store with a place to crash before and after each commit."""

    def __init__(self, store: Store, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse
        self.is_sqlite = store.is_sqlite
        self.read = store.read
        self.look_up = store.look_up

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._store.begin() as tx:
            yield tx
            self._fuse.pass_by()  # rolls back
        self._fuse.pass_by()


@dataclass
class FusedCloud:
    cloud: SimulatedCloud
    fuse: Fuse
    name: str = "simulated"

    @property
    def deployment(self) -> str:
        return self.cloud.deployment

    @property
    def networks(self) -> Any:
        return Fused(self.cloud.networks, self.fuse)

    @property
    def compute(self) -> Any:
        return Fused(self.cloud.compute, self.fuse)

    @property
    def volumes(self) -> Any:
        return Fused(self.cloud.volumes, self.fuse)


@dataclass
class World:
    store: Store
    cloud: SimulatedCloud
    network: Network
    key_file: Path
    settings: ServiceInstanceSettings
    fuse: Fuse = field(default_factory=Fuse)

    @property
    def tenant(self) -> TenantNetwork:
        return TenantNetwork(net_id=self.network.id, subnet_id=self.network.subnets[0].id)

    def instances(self, fuse: Fuse | None = None, store: Store | None = None) -> CloudServiceInstances:
        """As a process that has just started would have them."""
        on = store or self.store
        return CloudServiceInstances(
            on if fuse is None else FusedStore(on, fuse),  # type: ignore[arg-type]
            self.cloud if fuse is None else FusedCloud(self.cloud, fuse),  # type: ignore[arg-type]
            SimulatedGuests(self.cloud),
            SecretBox(self.key_file),
            self.settings,
        )

    def counts(self) -> dict[str, int]:
        """Everything there is, in the cloud and in the store."""
        with self.store.read() as tx:
            rows = {
                table.name: tx.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (service_instances, service_subnets, secrets)
            }
        return {
            "instances": len(self.cloud.compute.list_instances()),
            "ports": len(self.cloud.networks.list_ports()),
            "subnets": len(self.cloud.networks.list_service_subnets()),
            **rows,
        }


NOTHING = {"instances": 0, "ports": 0, "subnets": 0, "service_instances": 0, "service_subnets": 0, "secrets": 0}


def one_server(layout: Layout) -> dict[str, int]:
    subnets = int("service" in ROLES[layout])
    return {
        "instances": 1, "ports": len(ROLES[layout]), "subnets": subnets, "service_instances": 1,
        "service_subnets": subnets, "secrets": 2,
    }  # fmt: skip


def document(server_id: str, generation: int = 1) -> Document:
    return Document(server_id=server_id, generation=generation, shares=())
