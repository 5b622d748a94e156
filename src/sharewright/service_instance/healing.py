"""Service instances that are not as they should be: started, rebooted, or given up for whoever asked to make again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog

from sharewright.clouds.contract import Cloud, Instance
from sharewright.errors import CloudObjectMissing, GuestBusy, GuestUnreachable
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.service_instance import records
from sharewright.service_instance.contract import ServiceInstanceSettings
from sharewright.service_instance.guests import Guests
from sharewright.service_instance.records import Record
from sharewright.store.database import Store

log = structlog.get_logger()


class Healing:
    """The verb ``ensure_running`` of contract ServiceInstances."""

    def __init__(self, store: Store, cloud: Cloud, guests: Guests, settings: ServiceInstanceSettings) -> None:
        self._store = store
        self._cloud = cloud
        self._guests = guests
        self._settings = settings

    def ensure_running(self, server_id: str, progress: Progress, *, ask: Callable[[], object] | None = None) -> bool:
        with self._store.read() as tx:
            record = records.find(tx, server_id)
        if record is None or record.instance_id is None:
            return False
        instance = self._cloud.compute.find_instance(record.instance_id)
        if instance is None:
            self._guests.health.failed(server_id, "its VM does not exist in the cloud any more.")
            return False
        lost = self._lost_ports(record, instance)
        if lost:
            # A VM keeps the NICs that it was made with, and all that is worth keeping is on the volumes: whoever asked
            # makes it again, with the addresses it had.
            log.warning("service instance has lost ports, deleting it", share_server=server_id, ports=lost)
            self._guests.health.failed(server_id, "its ports were deleted.")
            with progress.step("delete instance"):
                self._guests.hang_up(server_id)
                self._cloud.compute.delete_instance(instance.id, timeout=self._settings.start_seconds)
            return False
        if not instance.running:
            log.warning("service instance is stopped, starting it", share_server=server_id)
            self._guests.health.failed(server_id, "its VM is stopped.")
            with progress.step("start instance"):
                self._guests.hang_up(server_id)
                self._cloud.compute.start_instance(instance.id, timeout=self._settings.start_seconds)
            return self._answers_after_boot(record, progress)
        try:
            answers = self._guests.answers(server_id, ask)
        except GuestBusy:  # at work, not silent: a slow mount must not count towards a reboot
            log.info("service instance is busy", share_server=server_id)
            return False
        if answers:
            self._end_healing(record, progress)
            return True
        return self._heal_silent(record, progress)

    def _lost_ports(self, record: Record, instance: Instance) -> list[str]:
        """Roles of ports that neither the VM nor the cloud has any more. The cloud is asked only where the VM lacks
        one, so a healthy server costs nothing."""
        if instance.macs is None:
            return []
        missing = [port for port in record.ports if port.mac.lower() not in instance.macs]
        if not missing:
            return []
        present = {port.id for port in self._cloud.networks.list_ports()}
        return [port.role for port in missing if port.port_id not in present]

    def _heal_silent(self, record: Record, progress: Progress) -> bool:
        attempts = record.heal_attempts + 1
        due = record.heal_not_before is None or record.heal_not_before <= utcnow()
        if attempts < self._settings.heal_tries or not due:
            with self._store.begin() as tx:
                progress.fence(tx)
                records.change(tx, record.id, heal_attempts=attempts)
            return False
        pause = min(
            self._settings.heal_backoff_seconds * 2.0 ** min(record.heal_reboots, 30),
            self._settings.heal_backoff_limit,
        )
        log.warning("service instance does not answer, rebooting it", share_server=record.id, tries=attempts)
        with progress.step("reboot instance"):
            # Written first: a worker that dies while rebooting must not make its successor reboot again at once.
            with self._store.begin() as tx:
                progress.fence(tx)
                records.change(
                    tx,
                    record.id,
                    heal_attempts=0,
                    heal_reboots=record.heal_reboots + 1,
                    heal_not_before=utcnow() + timedelta(seconds=pause),
                )
            self._guests.hang_up(record.id)
            self._cloud.compute.reboot_instance(str(record.instance_id), timeout=self._settings.start_seconds)
        return self._answers_after_boot(record, progress)

    def _answers_after_boot(self, record: Record, progress: Progress) -> bool:
        try:
            with progress.step("guest ready"):
                self._guests.await_boot(record.id, str(record.instance_id), progress)
        except (GuestUnreachable, CloudObjectMissing) as error:
            log.warning("service instance was not healed", share_server=record.id, reason=error.message)
            return False
        with self._store.read() as tx:
            current = records.find(tx, record.id)
        if current is not None:
            self._end_healing(current, progress)
        return True

    def _end_healing(self, record: Record, progress: Progress) -> None:
        if record.heal_attempts or record.heal_reboots or record.heal_not_before:
            with self._store.begin() as tx:
                progress.fence(tx)
                records.change(tx, record.id, heal_attempts=0, heal_reboots=0, heal_not_before=None)
