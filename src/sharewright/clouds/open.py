"""From the configuration to a cloud."""

from __future__ import annotations

from pathlib import Path

from sharewright.clouds.contract import Cloud
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
    from sharewright.clouds.libvirt.cloud import LibvirtCloud

    return LibvirtCloud(settings.libvirt, deployment=settings.deployment, state_dir=settings.state_path)
