"""The libvirt cloud: one Linux host with QEMU, storage in a directory, networks of bridges."""

from __future__ import annotations

from pathlib import Path

from sharewright.clouds.libvirt.accelerator import repair_device
from sharewright.clouds.libvirt.compute import LibvirtCompute
from sharewright.clouds.libvirt.connection import Connection, traversal_problem
from sharewright.clouds.libvirt.daemons import Daemons
from sharewright.clouds.libvirt.instances import Instances
from sharewright.clouds.libvirt.layout import Layout
from sharewright.clouds.libvirt.networks import LibvirtNetworks
from sharewright.clouds.libvirt.pool import Pools
from sharewright.clouds.libvirt.records import Locks
from sharewright.clouds.libvirt.storage import LibvirtVolumes
from sharewright.errors import CloudError
from sharewright.progress import Progress
from sharewright.settings import Libvirt

DETACH_SECONDS = 60.0
SHUTDOWN_SECONDS = 20.0


class LibvirtCloud:
    """Contract Cloud. Any number of objects in any number of processes may serve one deployment at the same time;
    all of them share ``state_dir``, and two deployments never do."""

    def __init__(self, settings: Libvirt, *, deployment: str, state_dir: Path) -> None:
        self._deployment = deployment
        layout = Layout(deployment, state_dir.absolute())
        try:
            layout.make()
        except OSError as error:
            raise CloudError(
                f"The state directory {state_dir} cannot be used: {error.strerror}.", hint="Run as root."
            ) from error
        self._layout = layout
        self._daemons = Daemons(layout.daemons)
        self._connection = Connection(settings.uri, self._daemons if settings.start_daemons else None)
        locks = Locks(layout.locks)
        self._networks = LibvirtNetworks(self._connection, layout, locks)
        instances = Instances(self._connection, locks, deployment)
        self._pools = Pools(
            self._connection, layout, {name: each.directory for name, each in settings.volume_types.items()}
        )
        self._volumes = LibvirtVolumes(
            self._connection,
            layout,
            locks,
            self._pools,
            settings.volume_format,
            holds=instances.holds,
            domain=instances.active_domain,
        )
        self._compute = LibvirtCompute(
            self._connection, layout, locks, instances, self._volumes, self._networks, settings.accelerator
        )

    @property
    def name(self) -> str:
        return "libvirt"

    @property
    def deployment(self) -> str:
        return self._deployment

    @property
    def volumes(self) -> LibvirtVolumes:
        return self._volumes

    @property
    def networks(self) -> LibvirtNetworks:
        return self._networks

    @property
    def compute(self) -> LibvirtCompute:
        return self._compute

    def check(self) -> None:
        """Connect (starting the daemons when that is ours to do), and mend what the host may have lost: the storage
        pool, the firewall."""
        self._layout.make()
        repair_device()
        with self._connection.use("asking for its version") as connection:
            connection.getVersion()
        self._connection.mend()
        for pool in self._pools.all():
            pool.make_directory()
            problem = traversal_problem(pool.directory)
            if problem:
                raise CloudError(
                    f"QEMU's user cannot pass through {problem} to the volumes.", hint=f"chmod o+x {problem}."
                )
        self._volumes.ensure_pools()
        self._networks.restore()

    def accelerator(self) -> str:
        """ "kvm" or "tcg": what instances run on."""
        return self._compute.accelerator()

    def stop(self, progress: Progress, *, shutdown_seconds: float = SHUTDOWN_SECONDS) -> None:
        """Shut down all instances (by force those that do not follow in time) and networks of this deployment, to be
        started again by their next use."""
        with progress.step("stop instances"):
            self._compute.stop_all(timeout=shutdown_seconds)
        with progress.step("stop networks"):
            self._networks.deactivate()

    def purge(self, progress: Progress) -> None:
        """Delete everything of this deployment, shares' data included: instances, networks, volumes, firewall."""
        self._layout.make()  # a purge may be repeated
        with progress.step("delete instances"):
            self._compute.purge()
        with progress.step("delete networks"):
            self._networks.purge()
        with progress.step("delete volumes"):
            for volume in self._volumes.list_volumes():  # machines of others run on, and may have them
                if volume.instance_id is not None:
                    self._compute.detach_volume(volume.instance_id, volume.id, timeout=DETACH_SECONDS)
            self._volumes.purge()
        self._layout.remove()

    def stop_daemons(self) -> list[str]:
        """End the daemons that we started, and only those; their names. None while any virtual machine runs."""
        self._connection.close()
        return self._daemons.stop()

    def close(self) -> None:
        self._connection.close()
