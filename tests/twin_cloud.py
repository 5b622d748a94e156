"""A cloud and guests for large deployments that agree to everything at once and remember nothing.

The simulated cloud keeps its state in one SQLite file and writes it at every call, which is what most tests want and
what a study of Sharewright's own cost must not measure: its one writer would be the bottleneck (bench/scale.py prints
its rate). This twin answers from the question alone, so any number of processes may use one each. Everything else is
the real thing: worker, stories, driver, service instances, documents, secrets, database.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network

from sharewright.clouds.contract import (
    Address,
    AdminNetwork,
    Capacity,
    Cidr,
    Instance,
    InstanceSpec,
    Port,
    PortSpec,
    ServiceSubnetSpec,
    SnapshotSpec,
    Subnet,
    Tags,
    Volume,
    VolumeSnapshot,
    VolumeSpec,
    cloud_calls,
)
from sharewright.guest.contract import Freeze, GuestAddress, round_trips
from sharewright.guest.document import Document, Facts, ShareState, State
from sharewright.identifiers import derived_id

TENANT = ip_network("10.99.0.0/24")


class TwinVolumes:
    def __init__(self, seconds: float, listed: Sequence[Volume]) -> None:
        self._seconds = seconds
        self._listed = listed

    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume:
        _called(self._seconds)
        identifier = derived_id("volume", spec.name)
        return Volume(id=identifier, name=spec.name, size=spec.size, serial=identifier, tags=spec.tags)

    def find_volume(self, volume_id: str) -> Volume | None:
        _called(self._seconds)
        return Volume(id=volume_id, name=volume_id, size=1, serial=volume_id, tags={})

    def list_volumes(self) -> Sequence[Volume]:
        _called(self._seconds)
        return self._listed

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        _called(self._seconds)
        return Volume(id=volume_id, name=volume_id, size=size, serial=volume_id, tags={})

    def ensure_snapshot(self, spec: SnapshotSpec, *, timeout: float) -> VolumeSnapshot:
        _called(self._seconds)
        return _snapshot(derived_id("snapshot", spec.name), spec.name, spec.volume_id, spec.tags)

    def ensure_snapshots(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> Sequence[VolumeSnapshot]:
        return [self.ensure_snapshot(spec, timeout=timeout) for spec in specs]

    def await_snapshot(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        _called(self._seconds)
        return _snapshot(snapshot_id, snapshot_id, snapshot_id, {})

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        _called(self._seconds)
        return _snapshot(snapshot_id, snapshot_id, snapshot_id, {})

    def list_snapshots(self) -> Sequence[VolumeSnapshot]:
        _called(self._seconds)
        return ()

    def delete_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def adopt_volume(
        self, reference: str, name: str, tags: Tags, *, timeout: float, holder: str | None = None
    ) -> Volume:
        _called(self._seconds)
        return Volume(id=reference, name=name, size=1, serial=reference, tags=tags)

    def disown_volume(self, volume_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def adopt_snapshot(self, reference: str, name: str, tags: Tags, *, timeout: float) -> VolumeSnapshot:
        _called(self._seconds)
        return _snapshot(reference, name, reference, tags)

    def disown_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def capacity(self, volume_type: str | None = None) -> Capacity:
        _called(self._seconds)
        return Capacity(total=1e9, free=9e8, provisioned=1e8)


class TwinNetworks:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def find_subnet(self, network_id: str, subnet_id: str | None, *, project_id: str | None = None) -> Subnet | None:
        _called(self._seconds)
        return Subnet(id=subnet_id or network_id, network_id=network_id, cidr=TENANT, gateway=TENANT[1])

    def find_admin_network(self, network_id: str, subnet_id: str) -> AdminNetwork | None:
        subnet = self.find_subnet(network_id, subnet_id)
        return None if subnet is None else AdminNetwork(subnet=subnet, management=(ip_network("10.254.0.1"),))

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet:
        _called(self._seconds)
        identifier = derived_id("subnet", spec.name)
        return Subnet(id=identifier, network_id=identifier, cidr=spec.cidr)

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]:
        _called(self._seconds)
        return ()

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port:
        _called(self._seconds)
        return Port(
            id=derived_id("port", spec.name), name=spec.name, mac="fa:16:3e:00:00:01", address=spec.subnet.cidr[5],
            subnet=spec.subnet, tags=spec.tags,
        )  # fmt: skip

    def list_ports(self) -> Sequence[Port]:
        _called(self._seconds)
        return ()

    def delete_port(self, port_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        return (ip_network("10.254.0.1"),)

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        return port.address

    def repair(self) -> None:
        """Nothing is ever lost here."""


class TwinCompute:
    def __init__(self, seconds: float, listed: Sequence[Instance]) -> None:
        self._seconds = seconds
        self._listed = listed

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        _called(self._seconds)
        return Instance(id=derived_id("instance", spec.name), name=spec.name, running=True, tags=spec.tags)

    def find_instance(self, instance_id: str) -> Instance | None:
        _called(self._seconds)
        return Instance(id=instance_id, name=instance_id, running=True, tags={})

    def list_instances(self) -> Sequence[Instance]:
        _called(self._seconds)
        return self._listed

    def find_named_instance(self, reference: str) -> Instance | None:
        _called(self._seconds)
        return Instance(id=reference, name=reference, running=True, tags={})

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        _called(self._seconds)

    def console_log(self, instance_id: str, *, length: int = 8192) -> str:
        return ""


class TwinCloud:
    """``seconds`` is what every call takes; ``instances`` and ``volumes`` are what lists show."""

    name = "twin"

    def __init__(
        self,
        deployment: str,
        seconds: float = 0.0,
        *,
        instances: Sequence[Instance] = (),
        volumes: Sequence[Volume] = (),
    ) -> None:
        self.deployment = deployment
        self.volumes = TwinVolumes(seconds, volumes)
        self.networks = TwinNetworks(seconds)
        self.compute = TwinCompute(seconds, instances)

    def check(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """There is nothing to close."""


class TwinGuests:
    """Every server does at once what its document says; ``seconds`` is what a round trip takes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def wait_ready(self, address: GuestAddress, *, timeout: float) -> str:
        self._reached()
        return "boot"

    def apply(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        self._reached()
        return _served(document)

    def observe(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        self._reached()
        return _served(document)

    def flush(self, address: GuestAddress, share_ids: Sequence[str], *, timeout: float) -> None:
        self._reached()

    def inspect(self, address: GuestAddress, *, timeout: float) -> Facts:
        self._reached()
        return Facts()

    @contextmanager
    def frozen(
        self, address: GuestAddress, share_ids: Sequence[str], *, seconds: float, timeout: float
    ) -> Iterator[Freeze]:
        self._reached()
        freeze = Freeze()
        yield freeze
        self._reached()
        freeze.held = True

    def forget(self, server_id: str) -> None:
        """There is no connection to close."""

    def close(self) -> None:
        """There is no connection to close."""

    def _reached(self) -> None:
        round_trips.count += 1
        if self._seconds:
            time.sleep(self._seconds)


def _served(document: Document) -> State:
    return State(
        generation=document.generation,
        shares=tuple(
            ShareState(id=share.id, mounted=True, exported=bool(share.rules), bytes_total=2**30, bytes_used=2**20)
            for share in document.shares
        ),
    )


def _snapshot(identifier: str, name: str, volume_id: str, tags: Tags) -> VolumeSnapshot:
    return VolumeSnapshot(id=identifier, name=name, volume_id=volume_id, size=1, ready=True, tags=tags)


def _called(seconds: float) -> None:
    cloud_calls.count += 1
    if seconds:
        time.sleep(seconds)
