"""Service instances for any share driver: the VM behind a share server, its networks, keys, firewall and health.

Drivers code against :class:`ServiceInstances`; ``service_instance.instances.CloudServiceInstances(store, cloud,
channels, secrets, settings)`` is the real one. Server ids are the ids of ``share_servers`` rows, but nothing here needs
such a row to exist: a library user without share servers may bring ids of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from sharewright.clouds.contract import Flavor, Instance
from sharewright.errors import CloudObjectMissing
from sharewright.guest.contract import Freeze
from sharewright.guest.document import Document, Firewall, State
from sharewright.progress import Progress

# layouts.py says what each of them is; "named" is an operator's own machine (named.py).
Layout = Literal["router", "tenant", "router_admin", "tenant_admin", "named"]
Role = Literal["service", "tenant", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInstanceSettings:
    """What a backend's service instances are made of. Times are seconds.

    ``layout``: "tenant" gives the VM a NIC on the tenant's own subnet; "router" one on a service subnet that a router
    connects to the tenant's subnet; the "_admin" ones, besides, one on the operator's admin network, which
    ``admin_network_id`` and ``admin_subnet_id`` name (docs/service-instance.md has the pictures).
    ``flavors``: others than ``flavor``, by the names that ``ensure`` may be given; None: names are the cloud's own.
    """

    backend: str
    image: str
    flavor: Flavor
    flavors: Mapping[str, Flavor] | None = None
    layout: Layout = "tenant"
    admin_network_id: str = ""
    admin_subnet_id: str = ""
    service_network_cidr: str = "10.254.0.0/16"
    division_mask: int = 28
    client_ports: tuple[int, ...] = (2049,)
    availability_zone: str | None = None
    network_seconds: float = 60.0  # one call about a subnet or a port
    start_seconds: float = 120.0  # the cloud's calls that create, start, reboot, delete a VM
    attach_seconds: float = 120.0  # attach or detach one volume
    boot_seconds: float = 300.0  # from a running VM to an answering guest
    guest_seconds: float = 60.0  # one call to a guest
    probe_seconds: float = 10.0  # a first call to a guest that was unreachable the last time
    retry_seconds: float = 10.0  # how long an unreachable guest's callers are refused without another try
    heal_tries: int = 3  # failed looks at a running but silent VM before it is rebooted
    heal_backoff_seconds: float = 120.0  # wait after the first reboot that did not help; doubles each time
    heal_backoff_limit: float = 3600.0

    def find_flavor(self, name: str | None) -> Flavor:
        """The flavor of that name, None: the default one. CloudObjectMissing when the configuration has none."""
        if name is None:
            return self.flavor
        if self.flavors is None:
            return replace(self.flavor, name=name)
        if name not in self.flavors:
            raise CloudObjectMissing(
                f"Backend {self.backend} has no flavor {name} (it has {', '.join(self.flavors) or 'none'}).",
                hint=f"Add it to the configuration: [backends.{self.backend}.flavors.{name}].",
            )
        return self.flavors[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMachine:
    """A machine that an operator names. ``reference``: its id or its name in the cloud. ``management`` and ``exports``
    are addresses, or names of networks of the cloud; no exports: the management address. ``host_key`` is pinned;
    ``read_key`` reads the private key that it admits, or raises ConfigurationError."""

    reference: str
    management: str
    exports: tuple[str, ...]
    host_key: str
    read_key: Callable[[], str]
    user: str = "root"
    port: int = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantNetwork:
    """Manila's ``neutron_net_id`` and ``neutron_subnet_id`` from the share network subnet's row, and the project whose
    share network it is: it must be allowed to use the network."""

    net_id: str
    subnet_id: str | None = None  # None: the network's first subnet
    project_id: str | None = None  # None: whoever owns the network


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePort:
    """A NIC as it was made. The ids are the cloud's; "" where an older version made it."""

    role: Role
    port_id: str
    mac: str
    address: str
    network_id: str = ""
    subnet_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInstance:
    """A VM that the cloud has made. ``export_addresses`` are what clients mount from, ``admin_addresses`` what admins
    do; ``firewall`` is the one that every document for this server must carry."""

    id: str  # the share server's
    backend: str
    layout: Layout
    instance_id: str  # the cloud's
    management_address: str  # where the controllers reach SSH: a service or admin port's, or one that leads there
    export_addresses: tuple[str, ...]
    ports: tuple[InstancePort, ...]  # in NIC order
    firewall: Firewall | None  # None: its operator's
    network: Mapping[str, Any] | None = None  # what every document must carry; None: made by an older version

    @property
    def is_named(self) -> bool:
        """Whether it is a machine of an operator's, where others may have something besides."""
        return self.layout == "named"

    @property
    def admin_addresses(self) -> tuple[str, ...]:
        return tuple(port.address for port in self.ports if port.role == "admin")


class ServiceInstances(Protocol):
    """Every verb is *ensure*: after a crash at any point, calling it again converges."""

    def ensure(
        self,
        server_id: str,
        network: TenantNetwork,
        progress: Progress,
        *,
        further: Sequence[TenantNetwork] = (),
        flavor: str | None = None,
    ) -> ServiceInstance:
        """Make every part of the service instance that is missing; return when the guest answers. ``flavor`` by name,
        for a VM that is made now; None: the settings' default.

        ``further`` networks of the tenant's get a NIC each, in the layouts with a NIC there, and one that is not asked
        for any more loses it; the VM goes on running. Afterwards apply a document, which tells the guest of its NICs.

        Steps: "service subnet" (not in layout "tenant_admin"), "ports", "instance", "guest ready". Errors:
        CloudObjectMissing (no such tenant network, admin network or flavor), CloudCapacityExceeded (service network,
        tenant subnet or host full), CloudError, GuestUnreachable (with the console's last lines). ``delete`` removes
        what a failed call made.
        """
        ...

    def find(self, server_id: str) -> ServiceInstance | None:
        """What the store knows, in one statement; None until the cloud has made the VM."""
        ...

    def check(self, server_id: str, networks: Sequence[TenantNetwork], progress: Progress) -> ServiceInstance:
        """That a VM which nobody looked after for a while is still there, on these tenant networks and no others, and
        its guest answers; a stopped one is started. Raises CloudObjectMissing, CloudError, GuestUnreachable."""
        ...

    def look(self, server_id: str) -> Instance | None:
        """The VM as the cloud sees it now. None: the cloud says that there is none, so that it writes to no volume."""
        ...

    def delete(self, server_id: str, progress: Progress) -> None:
        """Remove everything, whatever state it is in. The VM is gone before anything else is touched (fencing): after
        the step "instance" no volume is written to. Volumes themselves are left alone."""
        ...

    def apply(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        """Tell the guest its desired state; one round trip. ``timeout`` defaults to ``guest_seconds``.

        A guest that was unreachable a moment ago is refused at once (GuestUnreachable), and later tried with a short
        probe, so that nobody waits ``guest_seconds`` again and again. NotFound when the server has no VM.
        """
        ...

    def observe(self, server_id: str, document: Document, *, timeout: float | None = None) -> State: ...

    def flush(self, server_id: str, share_ids: Sequence[str]) -> None:
        """Have mounted shares written to their disks, so that freezing them takes less time. Errors as of ``frozen``.
        One round trip."""
        ...

    def frozen(self, server_id: str, share_ids: Sequence[str], *, seconds: float) -> AbstractContextManager[Freeze]:
        """Mounted shares' file systems stand still together while the block runs, ``seconds`` at most
        (guest/contract.py). Two round trips. Errors as of ``apply``, and GuestBusy while other shares of the server are
        frozen."""
        ...

    def ensure_running(self, server_id: str, progress: Progress, *, ask: Callable[[], object] | None = None) -> bool:
        """One look at the server's health and, when it needs it, one act of healing: a stopped VM is started; a
        running one that stays silent for ``heal_tries`` looks is rebooted hard, with growing pauses between reboots;
        one whose ports were deleted is deleted too. ``ask`` is a call to the guest that the caller wants to make
        anyway: where nothing speaks against the guest, it is made in place of a greeting, and its answer shows as well
        that the guest is there. It may be left out, or made and fail.

        True: the guest answers now. False: it does not; look again later, or replace the VM when it is missing. Raises
        CloudUnavailable and CloudError when the cloud cannot tell.
        """
        ...

    def attach_volume(self, server_id: str, volume_id: str, progress: Progress) -> ServiceInstance:
        """Hot-attach, and return the server as it was then. NotFound when it has no VM."""
        ...

    def detach_volume(self, server_id: str, volume_id: str, progress: Progress) -> None:
        """The guest must have let go of it. A server or VM that is gone is a success."""
        ...
