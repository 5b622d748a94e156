"""Taking over volumes that somebody else made, with the file system that they carry, and giving shares' volumes away.

A volume that is not taken over yet (``share_instances.taken_over``) is somebody else's property: nothing on it is
formatted, and whatever goes wrong, it is given back as it was and not deleted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import or_, select

from sharewright.clouds.contract import Cloud, Volume
from sharewright.drivers.generic.records import InstanceRecord, remember
from sharewright.drivers.generic.release import within
from sharewright.errors import CloudError, CloudUnavailable, GuestError, InvalidInput
from sharewright.guest.document import Found, State
from sharewright.identifiers import utcnow
from sharewright.progress import Progress
from sharewright.store.database import Store
from sharewright.store.tables import share_instances, share_servers

OPTION: Final = "volume_id"  # as Manila's generic driver calls it
# What a share that was unmanaged was exported as: its volume still has the name that it had.
_OURS: Final = re.compile(r"share-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/?")

log = structlog.get_logger()


def find_reference(export_path: str, options: Mapping[str, Any], volume_name: Callable[[str], str]) -> str:
    """What the cloud's people call the volume that a request means. Raises InvalidInput when it does not say."""
    unknown = sorted(str(name)[:64] for name in options if name != OPTION)
    if unknown:
        raise InvalidInput(f"There is no driver option {unknown[0]}.", hint=f"The only one is {OPTION}.")
    given = options.get(OPTION)
    if given is not None:
        if not isinstance(given, str) or not given.strip() or "\0" in given:
            raise InvalidInput(f"The driver option {OPTION} is not a volume's id or name.")
        return given.strip()
    ours = _OURS.search(re.split(r"[/\\]", export_path.rstrip("/\\"))[-1])
    if ours is None:
        raise InvalidInput(
            "The export path is none of Sharewright's, so it does not say which volume holds the share.",
            hint=f"Name the volume with the driver option {OPTION}.",
        )
    return volume_name(ours.group(1))


@dataclass(frozen=True, kw_only=True)
class VolumeManager:
    """``attach`` and ``tell`` are the share server's, ``tags`` of the share instance; ``seconds``: for each call."""

    store: Store
    cloud: Cloud
    tags: Mapping[str, str]
    seconds: float
    attach: Callable[[str], object]
    tell: Callable[[], State]

    def take(self, record: InstanceRecord, reference: str, name: str, holder: str | None, progress: Progress) -> int:
        """Make the volume the instance's, attached, and learn its file system; its size in GiB."""
        with progress.step("adopt volume"):
            timeout = within(self.seconds, progress)
            volume = self.cloud.volumes.adopt_volume(reference, name, self.tags, timeout=timeout, holder=holder)
            remember(
                self.store,
                progress,
                record.id,
                volume_id=volume.id,
                volume_serial=volume.serial,
                size=volume.size,
            )
        if not record.volume_attached:
            with progress.step("attach"):
                self.attach(volume.id)
                # From here on every document of the server asks what is on it.
                remember(self.store, progress, record.id, volume_attached=True)
        if record.filesystem_uuid is None:
            with progress.step("look"):
                self._keep(record, self._look(volume), progress)
        return volume.size

    def give_away(self, record: InstanceRecord, volume: Volume | None, progress: Progress) -> None:
        """Forget a volume that no instance has any more."""
        if volume is not None:
            with progress.step("disown volume"):
                self.cloud.volumes.disown_volume(volume.id, timeout=within(self.seconds, progress))
                log.info("a volume was given away", share_instance=record.id, volume=volume.id, name=volume.name)
        remember(
            self.store,
            progress,
            record.id,
            volume_id=None,
            volume_serial=None,
            volume_attached=False,
            clone_of=None,
        )

    # ---- parts ----

    def _look(self, volume: Volume) -> Found:
        found = self._found(volume)
        if found.error == "device_missing":
            self.attach(volume.id)
            found = self._found(volume)
        if found.error == "device_missing":
            raise CloudUnavailable(f"The share server does not see the attached volume {volume.id}: {found.message}")
        if found.error:
            raise GuestError(
                f"Volume {volume.id} cannot be a share: {found.message}",
                hint="It was left untouched. A share's volume carries an ext4 or xfs file system, with no partitions.",
            )
        return found

    def _found(self, volume: Volume) -> Found:
        found = self.tell().found.get(volume.serial)
        if found is None:
            raise CloudUnavailable(f"The share server did not report what is on volume {volume.id}.")
        return found

    def _keep(self, record: InstanceRecord, found: Found, progress: Progress) -> None:
        """One that carries the same UUID as another share's volume is a copy of it: a server that boots could mount the
        one in place of the other."""
        columns = share_instances.c
        with self.store.begin() as tx:
            progress.fence(tx)
            # One after another on a server, so that of two copies only one is taken.
            tx.execute(select(share_servers.c.id).where(share_servers.c.id == record.server_id).with_for_update())
            same = or_(columns.filesystem_uuid == found.uuid, columns.clone_of == found.uuid)
            twin = tx.execute(select(columns.share_id).where(columns.id != record.id, same).limit(1)).scalar()
            if twin is not None:
                raise CloudError(
                    f"The volume carries the same file system ({found.uuid}) as share {twin}: it is a copy of it.",
                    hint="Give it a UUID of its own: tune2fs -U random DEVICE, or xfs_admin -U generate DEVICE.",
                )
            tx.execute(
                share_instances.update()
                .where(columns.id == record.id)
                .values(filesystem_type=found.type, filesystem_uuid=found.uuid, updated_at=utcnow())
            )
