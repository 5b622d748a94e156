"""Snapshots, and volumes, that we have deleted and Cinder must keep for a while.

A volume made from a snapshot may share its blocks. On Ceph with the older kind of clones (rbd_default_clone_format 1,
or clients older than Mimic admitted) Cinder does not delete the snapshot as long as there is such a volume, nor the
volume that the snapshot is of, unless rbd_flatten_volume_from_snapshot was set when the copy was made; other storage
has rules of its own. What Cinder keeps is *condemned*: it loses our tags, so nothing finds, lists or makes anything of
it any more, and gets one that says so; and it goes when the last volume goes that needs it.
"""

from __future__ import annotations

import json

import structlog
from openstack.block_storage.v3.volume import Volume as CinderVolume
from openstack.connection import Connection as Sdk

from sharewright.clouds.openstack.cinder import (
    Cinder,
    CinderSnapshot,
    list_snapshots,
    metadata_of,
    name_of,
)
from sharewright.clouds.openstack.connection import block_storage
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.tags import TAG_CONDEMNED, without_ours
from sharewright.errors import SharewrightError

log = structlog.get_logger()


class Condemned(Cinder):
    """What is left of snapshots and volumes that had to be kept."""

    def collect(self, deadline: Deadline) -> None:
        """Delete the condemned that nothing needs any more. What fails is logged, and left for the next time: whoever
        calls has done already what he was asked for."""
        try:
            while self._collect_round(deadline):
                pass
        except SharewrightError as error:
            log.warning("what deleted snapshots left behind was not looked for", error=str(error))

    def _collect_round(self, deadline: Deadline) -> bool:
        """Whether anything went, which may have freed something else."""
        snapshots, volumes = self._connection.call("listing what may go", self._condemned, deadline=deadline)
        if not snapshots and not volumes:
            return False
        needed = self._connection.call("listing what is needed", needed_by_volumes, deadline=deadline)
        free = [each for each in snapshots if str(each.id) not in needed]
        gone = [self._end(snapshot, deadline) for snapshot in free] + [self._end(each, deadline) for each in volumes]
        return any(gone)

    def _end(self, found: CinderVolume | CinderSnapshot, deadline: Deadline) -> bool:
        """Whether it is gone. A volume stays while there are snapshots of it."""
        identifier, name = str(found.id), name_of(found)
        try:
            if isinstance(found, CinderSnapshot):
                return self._erase_snapshot(identifier, name, deadline)
            if self._snapshots_of(identifier, deadline):
                return False
            self._erase_volume(identifier, name, deadline)
        except SharewrightError as error:
            log.warning("what a deleted snapshot left behind stays for now", id=identifier, error=str(error))
            return False
        return True

    def _condemned(self, sdk: Sdk) -> tuple[list[CinderSnapshot], list[CinderVolume]]:
        wanted = json.dumps({TAG_CONDEMNED: self._deployment})
        snapshots = list_snapshots(sdk, properties=wanted)
        # A volume is condemned only for the sake of a snapshot, and goes right after it; a crash may come between.
        volumes = list(block_storage(sdk).volumes(properties=wanted))
        return (
            [each for each in snapshots if self._is_condemned(each)],
            [each for each in volumes if self._is_condemned(each)],
        )

    def _is_condemned(self, found: CinderVolume | CinderSnapshot) -> bool:
        return metadata_of(found).get(TAG_CONDEMNED) == self._deployment

    def _condemn(self, kind: str, found: CinderVolume | CinderSnapshot, deadline: Deadline) -> None:
        left = {**without_ours(metadata_of(found)), TAG_CONDEMNED: self._deployment}
        self._replace_metadata(f"condemning {kind} {name_of(found)}", found, left, deadline)
        log.info("deleted, but other volumes share its blocks; goes after them", kind=kind, id=str(found.id))

    def _snapshots_of(self, volume_id: str, deadline: Deadline) -> list[CinderSnapshot]:
        """A volume's snapshots, whose ever they are."""
        found = self._connection.call(
            "listing a volume's snapshots", lambda sdk: list_snapshots(sdk, volume_id=volume_id), deadline=deadline
        )
        return [each for each in found if each.volume_id == volume_id]


def needed_by_volumes(sdk: Sdk) -> set[str]:
    """The ids of the snapshots that volumes of the project, whose ever they are, were made from."""
    return {str(each.snapshot_id) for each in block_storage(sdk).volumes() if each.snapshot_id}
