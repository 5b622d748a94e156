"""The driver: one volume per share, on the service VM of the share's network, as a module of an rsync daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection

from rsync_driver import rows
from sharewright.clouds.contract import TAG_BACKEND, TAG_DEPLOYMENT, TAG_OWNER, Volume, VolumeSpec
from sharewright.drivers.contract import ExportLocation, PoolStats, RuleOutcome
from sharewright.drivers.registration import DriverParts
from sharewright.errors import CloudError, CloudUnavailable, GuestError, NotFound, ShrinkRefused
from sharewright.guest.document import State
from sharewright.identifiers import derived_id
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance

PORT: Final = 873
READ_ONLY: Final = "The rsync protocol has no read-only access for single clients; allow it as rw, or not at all."


class RsyncDriver:
    """drivers.contract.ShareDriver. It holds nothing that a crash could lose; any number of threads may use it."""

    def __init__(self, parts: DriverParts) -> None:
        self.backend = parts.backend
        self._settings = parts.settings
        self._store = parts.store
        self._cloud = parts.cloud
        self._instances = parts.instances
        self._convergence = parts.convergence

    def pools(self) -> Sequence[PoolStats]:
        capacity = self._cloud.volumes.capacity()
        return [
            PoolStats(
                pool=self.backend,
                total_capacity=capacity.total,
                free_capacity=capacity.free,
                provisioned_capacity=capacity.provisioned,
                reserved_percentage=self._settings.reserved_share_percentage,
                capabilities={
                    "share_backend_name": self.backend,
                    "storage_protocol": "RSYNC",
                    "driver_handles_share_servers": True,
                    "snapshot_support": False,
                    "ipv4_support": True,
                },
            )
        ]

    # ---- share servers ----

    def choose_server(
        self, candidates: Sequence[str], share_instance_id: str | None, transaction: Connection
    ) -> str | None:
        return next(iter(sorted(candidates)), None)

    def create_server(self, server_id: str, progress: Progress) -> None:
        self._instances.ensure(server_id, rows.tenant_network(self._store, server_id), progress)

    def update_server_networks(self, server_id: str, progress: Progress) -> Mapping[str, Sequence[ExportLocation]]:
        raise CloudError("This driver's share servers are on one subnet.", hint="Its pools say so; nobody asks.")

    def delete_server(self, server_id: str, progress: Progress) -> None:
        self._instances.delete(server_id, progress)

    def heal_server(self, server_id: str, progress: Progress) -> bool:
        server = self._instances.find(server_id)
        if server is None:
            return False
        if not self._instances.ensure_running(server_id, progress):
            if self._cloud.compute.find_instance(server.instance_id) is not None:
                return False  # silent, but it may still write to its volumes
            self.create_server(server_id, progress)
        for row in rows.instances_on(self._store, server_id):
            self._instances.attach_volume(server_id, row.volume_id, progress)
        try:
            state = self._converge(server_id)
        except GuestError:
            return False
        return not state.extension.get("errors") and all(share.mounted for share in state.shares)

    # ---- shares ----

    def prepare_share(self, share_instance_id: str, progress: Progress) -> None:
        row = rows.read_instance(self._store, share_instance_id)
        with progress.step("volume"):
            volume = self._cloud.volumes.ensure_volume(
                VolumeSpec(
                    name=self._settings.volume_name_template % row.id,
                    size=row.size,
                    tags={
                        TAG_DEPLOYMENT: self._cloud.deployment,
                        TAG_BACKEND: self.backend,
                        TAG_OWNER: f"share_instance:{row.id}",
                    },
                ),
                timeout=min(self._settings.volume_seconds, progress.remaining),
            )
            rows.remember(
                self._store, progress, row.id, volume_id=volume.id, volume_serial=volume.serial,
                filesystem_type=self._settings.filesystem, filesystem_uuid=derived_id("filesystem", row.id),
            )  # fmt: skip

    def create_share(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[ExportLocation]:
        row = rows.read_instance(self._store, share_instance_id)
        if row.volume_id is None:
            self.prepare_share(share_instance_id, progress)
            row = rows.read_instance(self._store, share_instance_id)
        with progress.step("attach"):
            self._instances.attach_volume(server_id, row.volume_id, progress)
            rows.remember(self._store, progress, row.id, volume_attached=True)  # from now on in every document
        with progress.step("guest"):
            self._serve(server_id, row.id)
            rows.remember(self._store, progress, row.id, filesystem_ready=True)  # never to be formatted again
        hosts = [f"[{each}]" if ":" in each else each for each in self._server(server_id).export_addresses]
        return [ExportLocation(path=f"rsync://{host}/share-{row.id}", preferred=host == hosts[0]) for host in hosts]

    def delete_share(
        self, share_instance_id: str, server_id: str | None, progress: Progress, *, force: bool = False
    ) -> None:
        row = rows.find_instance(self._store, share_instance_id)
        if row is None:
            return
        rows.remember(self._store, progress, row.id, wanted=False)  # from now on in no document
        volume = self._find_volume(row.id, row.volume_id)
        if volume is not None and volume.instance_id is not None:
            if server_id is not None:
                with progress.step("release"):
                    self._release(server_id, row.id, force=force)
            with progress.step("detach"):
                self._cloud.compute.detach_volume(
                    volume.instance_id, volume.id, timeout=min(self._settings.attach_seconds, progress.remaining)
                )
        if volume is not None:
            with progress.step("delete volume"):
                self._cloud.volumes.delete_volume(
                    volume.id, timeout=min(self._settings.volume_seconds, progress.remaining)
                )
        rows.remember(self._store, progress, row.id, volume_id=None, volume_serial=None, volume_attached=False)

    def extend_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> None:
        row = rows.read_instance(self._store, share_instance_id)
        with progress.step("volume"):
            self._cloud.volumes.extend_volume(
                row.volume_id, size, timeout=min(self._settings.volume_seconds, progress.remaining)
            )
            rows.remember(self._store, progress, row.id, size=size)  # the guest grows the file system to it, mounted
        with progress.step("guest"):
            self._serve(server_id, row.id)

    def shrink_share(self, share_instance_id: str, server_id: str, size: int, progress: Progress) -> bool:
        raise ShrinkRefused("Shares over rsync do not shrink.", hint="Create a smaller one and copy the data.")

    def cancel_shrink(self, share_instance_id: str, server_id: str | None, progress: Progress) -> None:
        """There is nothing to undo."""

    def update_access(self, share_instance_id: str, server_id: str, progress: Progress) -> Sequence[RuleOutcome]:
        row = rows.read_instance(self._store, share_instance_id)
        if not row.volume_attached:
            raise GuestError(f"Share instance {row.id} is not served by any server.", hint="Create the share again.")
        with progress.step("guest"):
            self._serve(server_id, row.id)
        return [
            RuleOutcome(rule_id=rule.id, error=READ_ONLY if rule.access_level == "ro" and rule.wanted else "")
            for rule in rows.rules_of(self._store, row.share_id)
        ]

    # ---- parts ----

    def _server(self, server_id: str) -> ServiceInstance:
        server = self._instances.find(server_id)
        if server is None:
            raise NotFound(f"Share server {server_id} has no service VM.")
        return server

    def _converge(self, server_id: str) -> State:
        """Make the server what the store says; concurrent callers share the round trip."""
        firewall = self._server(server_id).firewall
        return self._convergence.converge(
            server_id,
            lambda: rows.build_document(self._store, server_id, firewall),
            self._settings.guest_seconds,
        )

    def _serve(self, server_id: str, share_instance_id: str) -> None:
        """Converge, and raise what is wrong with this share; others' troubles are theirs."""
        state = self._converge(server_id)
        share = next((share for share in state.shares if share.id == share_instance_id), None)
        if share is None or share.error == "device_missing":
            raise CloudUnavailable(f"The share server does not see the volume of {share_instance_id}.")  # tried again
        error = f"{share.error}: {share.message}" if share.error else self._errors(state).get(share_instance_id)
        if error:
            raise GuestError(f"The share server cannot serve share instance {share_instance_id}: {error}")

    @staticmethod
    def _errors(state: State) -> dict[str, str]:
        errors: dict[str, str] = state.extension.get("errors", {})
        return errors

    def _release(self, server_id: str, share_instance_id: str, *, force: bool) -> None:
        """Return when the volume may be detached. A guest that does not answer does not keep a share from going."""
        try:
            busy = self._converge(server_id).busy.get(share_instance_id)
        except (GuestError, NotFound):
            return
        if busy and not force:
            raise GuestError(f"The share server cannot unmount share instance {share_instance_id}: {busy}")

    def _find_volume(self, share_instance_id: str, volume_id: str | None) -> Volume | None:
        """One that was made but not yet written down is found by its owner."""
        if volume_id is not None:
            return self._cloud.volumes.find_volume(volume_id)
        owner = f"share_instance:{share_instance_id}"
        return next((each for each in self._cloud.volumes.list_volumes() if each.tags.get(TAG_OWNER) == owner), None)
