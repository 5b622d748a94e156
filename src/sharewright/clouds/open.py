"""From the configuration to a cloud."""

from __future__ import annotations

from pathlib import Path

from sharewright.clouds.contract import Cloud
from sharewright.errors import ConfigurationError
from sharewright.settings import Backend, Settings

SIMULATED_FILE = "simulated-cloud.db"


def simulated_path(settings: Settings) -> Path:
    """The simulated cloud's file."""
    return settings.state_path / SIMULATED_FILE


def open_cloud(settings: Settings, backend: Backend) -> Cloud:
    """The backend's cloud. Nothing is contacted yet: call ``check`` for that.

    One object serves all threads of a process and all backends on the same cloud.
    """
    if backend.cloud == "simulated":
        from sharewright.clouds.simulated.cloud import SimulatedCloud

        return SimulatedCloud(settings.simulated, deployment=settings.deployment, path=simulated_path(settings))
    if backend.cloud == "openstack":
        try:
            from sharewright.clouds.openstack.cloud import OpenStackCloud
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The OpenStack cloud needs the Python package {error.name}.",
                hint="pip install 'sharewright[openstack]'.",
            ) from error

        return OpenStackCloud(
            settings.openstack,
            deployment=settings.deployment,
            keystone_projects=settings.identity.mode == "keystone",
            service_networks=settings.has_service_networks,
        )
    try:
        from sharewright.clouds.libvirt.cloud import LibvirtCloud
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The libvirt cloud needs the Python package {error.name}.", hint="pip install 'sharewright[libvirt]'."
        ) from error

    return LibvirtCloud(settings.libvirt, deployment=settings.deployment, state_dir=settings.state_path)
