"""What Sharewright needs from a cloud: three small contracts that libvirt, OpenStack and the simulated cloud fulfil.

Rules that hold for every method:

* ``ensure_*`` looks its object up by the deterministic name in its spec and creates it only when missing, so calling it
  again after a crash yields the same object. It never changes what exists; a contradiction raises CloudError.
* ``delete_*`` of something that is not there is a success.
* Every object carries the spec's tags; ``list_*`` returns only objects that carry our deployment tag, with their tags,
  so that the sweeper can tell orphans.
* Waiting is bounded by ``timeout`` seconds (DeadlineExceeded). Sizes are GiB (2**30 bytes) unless named otherwise.
* Errors: CloudObjectMissing, CloudUnavailable (try again), CloudCapacityExceeded, CloudError; each with a hint.
* All methods may be called from any thread. Every call of volumes, networks and compute counts in :data:`cloud_calls`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, Protocol, runtime_checkable

Address = IPv4Address | IPv6Address
Cidr = IPv4Network | IPv6Network
Tags = Mapping[str, str]

TAG_DEPLOYMENT = "sharewright"  # value: the deployment's id; what carries another's is not ours to touch
TAG_BACKEND = "sharewright_backend"
TAG_OWNER = "sharewright_owner"  # value: "share_server:<id>", "share_instance:<id>", …; the sweeper looks this row up


# ---- volumes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """``source_snapshot``: the volume begins as a copy of it (so it is not blank, and must never be formatted) and has
    at least its size; what it has beyond that reads as zeros."""

    name: str  # deterministic and unique, for example "manila-share-<share instance id>"
    size: int
    tags: Tags
    volume_type: str | None = None
    availability_zone: str | None = None
    source_snapshot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """``serial`` is what the guest sees as the disk's serial number once attached (the whole of it)."""

    id: str
    name: str
    size: int
    serial: str
    tags: Tags
    instance_id: str | None = None  # the instance it is attached to


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSpec:
    name: str  # deterministic and unique, for example "manila-snapshot-<snapshot instance id>"
    volume_id: str
    tags: Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSnapshot:
    """What a volume held at one moment. ``size`` is the volume's then. ``ready``: volumes can be made from it; until
    then the cloud is still copying, and what the volume is written meanwhile does not change the snapshot."""

    id: str
    name: str
    volume_id: str
    size: int
    ready: bool
    tags: Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """GiB. None means unknown. ``provisioned`` is the sum of the sizes promised, which thin volumes may not use yet.
    ``quota``: what may still be promised at most, however thin; None: no such limit."""

    total: float | None
    free: float | None
    provisioned: float = 0.0
    quota: float | None = None


class Volumes(Protocol):
    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume: ...

    def find_volume(self, volume_id: str) -> Volume | None: ...

    def list_volumes(self) -> Sequence[Volume]: ...

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        """Delete a volume that no instance holds and that has no snapshots; CloudError otherwise."""
        ...

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        """Grow to ``size`` GiB, attached or not; a guest that has it sees the new size without a detach, at most a
        moment after the return. That size already: success. It never shrinks: CloudError. No room or quota:
        CloudCapacityExceeded, and nothing has changed. No such volume: CloudObjectMissing."""
        ...

    def ensure_snapshot(self, spec: SnapshotSpec, *, timeout: float) -> VolumeSnapshot:
        """Return as soon as the moment is fixed: whatever is written to the volume from then on does not get into the
        snapshot, whatever the guest had flushed before the call does. The volume may be attached and in use; to get a
        clean file system the caller has it frozen from before the call until the return. One of that name already:
        returned as it is, its moment is that of the call that made it. A snapshot that a crash or the cloud spoiled is
        made anew, with the moment of this call. No such volume: CloudObjectMissing."""
        ...

    def ensure_snapshots(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> Sequence[VolumeSnapshot]:
        """As ``ensure_snapshot`` for each, of different volumes, in the same order; with those of one machine it takes
        little longer than for one, so that their file systems need not stand still for long. Return as soon as the
        moments of all are fixed; whether they are the same depends on the caller, who has them all frozen. After an
        error some may have been made."""
        ...

    def await_snapshot(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        """Return when it is ``ready``. CloudObjectMissing when there is none, or it has failed and is gone."""
        ...

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None: ...

    def list_snapshots(self) -> Sequence[VolumeSnapshot]: ...

    def delete_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        """Volumes made from it live on."""
        ...

    def adopt_volume(
        self, reference: str, name: str, tags: Tags, *, timeout: float, holder: str | None = None
    ) -> Volume:
        """Make a volume that exists, but not as ours, ours under that name ("manage"). ``reference`` is what the
        cloud's people call it: its id, or a name that only it has. Its content, size and attachment stay as they are.
        Adopted under that name already: success, also when ``reference`` was its name until then. None:
        CloudObjectMissing. Ours by another name, or attached to another instance than ``holder``: CloudError."""
        ...

    def disown_volume(self, volume_id: str, *, timeout: float) -> None:
        """Forget a volume of ours without touching its content ("unmanage"); ``adopt_volume`` can take it back by its
        id. From then on we neither list nor delete it. An instance holds it: CloudError. None of ours: success."""
        ...

    def adopt_snapshot(self, reference: str, name: str, tags: Tags, *, timeout: float) -> VolumeSnapshot:
        """As ``adopt_volume``, for a snapshot of a volume of ours."""
        ...

    def disown_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        """As ``disown_volume``."""
        ...

    def capacity(self, volume_type: str | None = None) -> Capacity:
        """Of where volumes of that type go; None: those without one. No such type: CloudObjectMissing."""
        ...


# ---- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    project_id: str | None = None  # who may use it; None: anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """``destination`` is reached through ``gateway``, which is on the subnet."""

    destination: Cidr
    gateway: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A tenant's subnet, or a service subnet of ours. ``gateway`` routes out of it, if anything does; ``routes`` are
    what machines on it need besides: on a service subnet, the way back to the controllers."""

    id: str
    network_id: str
    cidr: Cidr
    gateway: Address | None = None
    network_type: str | None = None  # as Neutron's provider:network_type; "flat" where there is no such thing
    segmentation_id: int | None = None
    mtu: int = 1500
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminNetwork:
    """A subnet of the operator's own, on which service VMs have a port; never a tenant's. ``management``: from where
    the controllers log in there, as the machines on it see it; never empty. The operator makes the way to it."""

    subnet: Subnet
    management: tuple[Cidr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSubnetSpec:
    """A service subnet for one tenant subnet. ``routed_to`` asks that the tenant's subnet be able to reach it (layout
    "router"); then only ``tenant_ports`` (TCP) pass, towards the service subnet only."""

    name: str
    cidr: Cidr
    tags: Tags
    routed_to: Subnet | None = None
    tenant_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """TCP ``ports`` from ``sources`` (any source when empty)."""

    ports: tuple[int, ...]
    sources: tuple[Cidr, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """A NIC's place on a subnet. Incoming TCP is limited to ``allowed_tcp`` from ``allowed_from`` (all sources when
    empty) and to ``also_allowed``, besides ARP/NDP and ICMP echo; everything else that a peer initiates is dropped. The
    port may send only from its own MAC and address. ``outgoing`` False: it opens no connections of its own, and a cloud
    that can forbids it to."""

    name: str
    subnet: Subnet
    tags: Tags
    allowed_tcp: tuple[int, ...]
    allowed_from: tuple[Cidr, ...] = ()
    address: Address | None = None  # wanted; otherwise the cloud chooses a free one and keeps it
    mac: str | None = None  # wanted, for a port that is made again; a cloud that may not choose gives it another
    # More pairs, for the one NIC of layout "router": SSH from the controller, client ports from the tenant.
    also_allowed: tuple[Admission, ...] = ()
    outgoing: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    id: str
    name: str
    mac: str
    address: Address
    subnet: Subnet
    tags: Tags


class Networks(Protocol):
    def find_subnet(self, network_id: str, subnet_id: str | None, *, project_id: str | None = None) -> Subnet | None:
        """A tenant's subnet by Manila's neutron_net_id and neutron_subnet_id (None: the network's first).

        None also when the project may not use the network, by owning it or because it is shared: tenants name networks
        by ids, and another tenant's would let them into it. ``project_id`` None: anybody's. What is
        no UUID names nothing.
        """
        ...

    def find_admin_network(self, network_id: str, subnet_id: str) -> AdminNetwork | None: ...

    def ensure_service_subnet(self, spec: ServiceSubnetSpec, *, timeout: float) -> Subnet: ...

    def list_service_subnets(self) -> Sequence[tuple[Subnet, Tags]]: ...

    def delete_service_subnet(self, subnet_id: str, *, timeout: float) -> None: ...

    def ensure_port(self, spec: PortSpec, *, timeout: float) -> Port: ...

    def list_ports(self) -> Sequence[Port]: ...

    def delete_port(self, port_id: str, *, timeout: float) -> None: ...

    def management_sources(self, subnet: Subnet) -> tuple[Cidr, ...]:
        """From where the controllers log in to machines on a service subnet, as those see it. Never empty: the port's
        filter and the guest's firewall admit SSH from nowhere else."""
        ...

    def ensure_reachable(self, port: Port, *, timeout: float) -> Address:
        """The address at which the controllers reach a port on a service subnet, after making what that takes (a
        floating address, a device of this host's)."""
        ...

    def repair(self) -> None:
        """Put right what may be lost or changed behind our back without anybody noticing: port filters, this host's
        way to the service subnets. Cheap to call often: it looks once in a while."""
        ...


@runtime_checkable
class TenantNetworks(Protocol):
    """For clouds whose users have no other way to make a network (``sharewright network …``)."""

    def create_network(self, name: str, cidr: Cidr, *, project_id: str | None = None) -> Network: ...

    def list_networks(self) -> Sequence[Network]: ...

    def delete_network(self, network_id: str) -> None:
        """CloudError while something is attached to it."""
        ...


# ---- compute ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """What the VM is made of, and where. libvirt uses the numbers. OpenStack uses ``name`` (None: the smallest flavor
    that has the numbers) and the rest: ``boot_volume_size`` GiB for a root disk that is a volume (0: the flavor's own
    disk), ``server_group`` for the hosts of a backend's VMs."""

    name: str | None = None
    vcpus: int = 1
    memory_mib: int = 512
    boot_volume_size: int = 0
    boot_volume_type: str | None = None
    server_group: Literal["none", "soft-anti-affinity", "anti-affinity"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """``files`` is the content of the config drive in OpenStack's layout (see service_instance/config_drive.py for
    ours), path below ``openstack/latest/`` → bytes. It holds the VM's host key: never log it."""

    name: str
    image: str  # id, name or path, as the backend's configuration names it
    flavor: Flavor
    ports: tuple[Port, ...]  # in NIC order
    files: Mapping[str, bytes] = field(repr=False)
    tags: Tags
    availability_zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """``macs``: of the NICs that the cloud says it has, where it says that without being asked twice; else None.
    ``addresses``: by the name of the network, of a named instance, where the cloud knows them."""

    id: str
    name: str
    running: bool
    tags: Tags
    failure: str = ""  # the cloud's reason when it could not be started
    availability_zone: str | None = None
    macs: frozenset[str] | None = field(default=None, compare=False)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)


class Compute(Protocol):
    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        """Return as soon as the VM runs (not: has booted). A stopped VM of that name is started; one that has fewer
        ports gets the others while it runs, as further NICs that it keeps. CloudError when it has a port that the spec
        has not."""
        ...

    def find_instance(self, instance_id: str) -> Instance | None: ...

    def list_instances(self) -> Sequence[Instance]: ...

    def find_named_instance(self, reference: str) -> Instance | None:
        """A machine that somebody else made and an operator names for shares to be on: by the cloud's id, or by a name
        that only it has (several: CloudError). None: there is none. A share server that Sharewright made, of whatever
        deployment: CloudError. It may be the ``instance_id`` of attach_volume and detach_volume, whose volume must be
        ours; to every other method it is an instance that does not exist: nobody but its owner starts, reboots or
        deletes it."""
        ...

    def start_instance(self, instance_id: str, *, timeout: float) -> None: ...

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        """Hard reboot: power off, power on, same disks and NICs."""
        ...

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        """Return when it is really gone (fencing): from then on it writes to no volume. Volumes attached are kept."""
        ...

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        """Hot-attach so that the guest finds it by serial, also after a reboot. Attached here already: success;
        attached elsewhere: CloudError."""
        ...

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        """Return when the cloud confirms it. Not attached, or instance gone: success."""
        ...

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        """Take a NIC out of a VM, which may run; the port remains. It has none such, or is gone: success."""
        ...

    def console_log(self, instance_id: str, *, length: int = 8192) -> str:
        """The last ``length`` bytes of the serial console, for error reports."""
        ...


class Cloud(Protocol):
    """One cloud. ``deployment`` is the value of our tag on everything it makes."""

    @property
    def name(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def compute(self) -> Compute: ...

    def check(self) -> None:
        """Raise CloudUnavailable or CloudError, with a hint, when the cloud cannot be used now."""
        ...

    def close(self) -> None: ...


class CallCounter(threading.local):
    """What this thread has asked for, for measurements; like store.database.statements."""

    count = 0


cloud_calls = CallCounter()  # calls of the contract
cloud_requests = CallCounter()  # HTTP requests that they took, on clouds that are reached by HTTP
