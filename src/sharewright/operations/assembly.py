"""From the configuration to working parts: clouds, the ways into guests, drivers, stories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from sharewright.clouds.contract import Cloud, Flavor
from sharewright.clouds.measured import MeasuredCloud
from sharewright.clouds.open import open_cloud
from sharewright.drivers.contract import ShareDriver
from sharewright.drivers.registration import DriverParts, find_driver_kind
from sharewright.errors import ConfigurationError
from sharewright.guest.contract import GuestChannels
from sharewright.guest.measured import MeasuredChannels
from sharewright.operations.contract import Story
from sharewright.operations.stories import make_stories
from sharewright.secret_files import read_key_file
from sharewright.service_instance.contract import NamedMachine, ServiceInstances, ServiceInstanceSettings
from sharewright.service_instance.convergence import Convergence
from sharewright.service_instance.instances import CloudServiceInstances
from sharewright.service_instance.layouts import layout_of
from sharewright.service_instance.named import NamedServer
from sharewright.settings import Backend, Settings
from sharewright.store.database import Store
from sharewright.store.secrets import open_access_keys, open_secrets

SERVICE_IMAGE = "images/service"


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Everything a worker process needs: stories by kind; drivers, clouds and the ways into guests by backend. Backends
    with the same cloud share one cloud object, and with the same guest program one set of connections. Calls of both
    are counted and timed."""

    settings: Settings
    store: Store
    stories: Mapping[str, Story]
    drivers: Mapping[str, ShareDriver]
    clouds: Mapping[str, MeasuredCloud]
    channels: Mapping[str, MeasuredChannels]

    def close(self) -> None:
        """Close connections to guests, then to clouds. The store is its owner's."""
        for channels in {id(each): each for each in self.channels.values()}.values():
            channels.close()
        for cloud in {id(each): each for each in self.clouds.values()}.values():
            cloud.close()


def assemble(settings: Settings, store: Store, *, cloud_override: str | None = None) -> Assembly:
    """Build every configured backend. ``cloud_override`` puts all of them on another cloud ("simulated").

    Nothing is contacted yet. Raises ConfigurationError.
    """
    if cloud_override is not None:
        settings = with_cloud(settings, cloud_override)
    if settings.keeps_files:
        settings.state_path.mkdir(parents=True, exist_ok=True)
    secrets = open_secrets(settings)
    access_keys = open_access_keys(settings, make=True)
    clouds: dict[str, MeasuredCloud] = {}
    channels: dict[str, MeasuredChannels] = {}
    programs: dict[tuple[str, bytes | None], MeasuredChannels] = {}
    drivers: dict[str, ShareDriver] = {}
    for name, backend in settings.backends.items():
        kind = find_driver_kind(backend.driver)
        if backend.cloud not in clouds:
            clouds[backend.cloud] = MeasuredCloud(open_cloud(settings, backend))
        cloud = clouds[backend.cloud]
        program = (backend.cloud, kind.guest_extension)
        if program not in programs:
            programs[program] = MeasuredChannels(open_channels(cloud.unmeasured, extension=kind.guest_extension))
        channels[name] = programs[program]
        options = service_instance_settings(settings, name, backend, client_ports=kind.client_ports)
        instances: ServiceInstances
        if backend.driver_handles_share_servers:
            instances = CloudServiceInstances(store, cloud, channels[name], secrets, options)
        elif kind.takes_named_servers:
            instances = NamedServer(store, cloud, channels[name], named_machine(name, backend), options)
        else:
            raise ConfigurationError(
                f"Driver {backend.driver} of backend {name} makes its share servers itself.",
                hint="It knows no driver_handles_share_servers = false.",
            )
        drivers[name] = kind.make(
            DriverParts(
                backend=name,
                settings=backend,
                store=store,
                cloud=cloud,
                instances=instances,
                convergence=Convergence(instances.apply),
                open_key=access_keys.open if access_keys is not None else _no_key,
            )
        )
    return Assembly(
        settings=settings,
        store=store,
        stories=make_stories(store, drivers, settings),
        drivers=drivers,
        clouds={name: clouds[backend.cloud] for name, backend in settings.backends.items()},
        channels=channels,
    )


def _no_key(sealed: str) -> str:
    raise ConfigurationError(
        "database.access_key_file is not set, so no access key can be opened.",
        hint="Name the file with which the API sealed it.",
    )


def with_cloud(settings: Settings, cloud: str) -> Settings:
    """The same settings with every backend on ``cloud``. Raises ConfigurationError."""
    if cloud not in ("libvirt", "simulated"):
        raise ConfigurationError(f"There is no cloud {cloud!r}.", hint="Use libvirt or simulated.")
    chosen: Literal["libvirt", "simulated"] = "libvirt" if cloud == "libvirt" else "simulated"
    backends = {
        name: msgspec.structs.replace(
            backend,
            cloud=chosen,
            image="" if backend.cloud == "openstack" else backend.image,  # Glance's name is no path
            # libvirt knows only those of its own section, and Cinder's are others.
            **({"volume_type": "", "volume_types": ()} if chosen == "libvirt" != backend.cloud else {}),
        )
        for name, backend in settings.backends.items()
    }
    return msgspec.structs.replace(settings, backends=backends)


def open_channels(cloud: Cloud, *, extension: bytes | None = None) -> GuestChannels:
    """The way into a cloud's guests: SSH, except where there are none. ``extension``: the driver's part of their
    program."""
    if cloud.name == "simulated":
        from sharewright.clouds.simulated.cloud import SimulatedCloud
        from sharewright.clouds.simulated.guest import SimulatedGuests

        assert isinstance(cloud, SimulatedCloud)  # noqa: S101 - narrows the type
        return SimulatedGuests(cloud, extension=extension)
    from sharewright.guest.channel import SshChannels

    return SshChannels(extension=extension)


def named_machine(name: str, backend: Backend) -> NamedMachine:
    """The machine of a backend that makes no share servers. Its key is read when it is needed."""
    server = backend.server
    return NamedMachine(
        reference=server.instance,
        management=server.management_address,
        exports=server.export_addresses,
        host_key=server.host_key,
        read_key=lambda: read_key_file(f"backends.{name}.server.key_file", server.key_file),
        user=server.ssh_user,
        port=server.ssh_port,
    )


def service_instance_settings(
    settings: Settings, name: str, backend: Backend, *, client_ports: tuple[int, ...]
) -> ServiceInstanceSettings:
    """What a backend's service VMs are made of."""
    return ServiceInstanceSettings(
        backend=name,
        image=backend.image or ("" if backend.cloud == "openstack" else str(settings.state_path / SERVICE_IMAGE)),
        flavor=Flavor(
            name=backend.flavor or None,
            vcpus=backend.vcpus,
            memory_mib=backend.memory_mib,
            boot_volume_size=backend.boot_volume_size,
            boot_volume_type=backend.boot_volume_type or None,
            server_group=backend.server_group,
        ),
        flavors=None
        if backend.cloud == "openstack"
        else {
            name: Flavor(vcpus=flavor.vcpus, memory_mib=flavor.memory_mib) for name, flavor in backend.flavors.items()
        },
        layout=layout_of(
            on_tenant_network=backend.connect_share_server_to_tenant_network,
            admin_network=bool(backend.admin_network_id),
        ),
        admin_network_id=backend.admin_network_id,
        admin_subnet_id=backend.admin_subnet_id,
        service_network_cidr=backend.service_network_cidr,
        division_mask=backend.service_network_division_mask,
        client_ports=client_ports,
        availability_zone=backend.availability_zone,
        attach_seconds=backend.attach_seconds,
        boot_seconds=backend.boot_seconds,
        guest_seconds=backend.guest_seconds,
    )
