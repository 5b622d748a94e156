"""Cinder's volumes and snapshots as our parts of it see them: looking, listing, waiting, deleting."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from openstack.block_storage.v3.snapshot import Snapshot
from openstack.block_storage.v3.volume import Volume as CinderVolume
from openstack.connection import Connection as Sdk
from openstack.resource import QueryParameters

from sharewright.clouds.contract import TAG_DEPLOYMENT
from sharewright.clouds.openstack.connection import Connection, block_storage
from sharewright.clouds.openstack.polling import Deadline, Paces, Wait
from sharewright.clouds.openstack.tags import is_ours
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id

AVAILABLE = "available"
IN_USE = "in-use"
# Cinder or Nova is at work; the status changes by itself.
MOVING = frozenset(
    {"creating", "attaching", "reserved", "detaching", "deleting", "extending", "retyping", "downloading"}
)


class CinderSnapshot(Snapshot):
    """openstacksdk's, which can ask Cinder (3.22) for those with certain metadata only."""

    _query_mapping = QueryParameters("name", "volume_id", properties="metadata")


Thing = TypeVar("Thing", CinderVolume, CinderSnapshot)


class Cinder:
    """What volumes, snapshots and adoption have in common."""

    def __init__(self, connection: Connection, deployment: str, paces: Paces) -> None:
        self._connection = connection
        self._deployment = deployment
        self._paces = paces

    def look(self, volume_id: str, deadline: Deadline | None = None) -> CinderVolume | None:
        """Cinder's view of a volume of ours."""
        found = self._any_volume(volume_id, deadline)
        return found if found is not None and self._is_ours(found) else None

    # ---- parts ----

    def _is_ours(self, found: CinderVolume | CinderSnapshot) -> bool:
        return is_ours(found.metadata or {}, self._deployment)

    def _any_volume(self, volume_id: str, deadline: Deadline | None = None) -> CinderVolume | None:
        """A volume, whose ever it is."""
        if not is_id(volume_id):
            return None
        try:
            return self._connection.call(
                "looking at a volume", lambda sdk: block_storage(sdk).get_volume(volume_id), deadline=deadline
            )
        except CloudObjectMissing:
            return None

    def _any_snapshot(self, snapshot_id: str, deadline: Deadline | None = None) -> CinderSnapshot | None:
        """A snapshot, whose ever it is."""
        if not is_id(snapshot_id):
            return None
        try:
            return self._connection.call(
                "looking at a snapshot",
                lambda sdk: CinderSnapshot.new(id=snapshot_id).fetch(block_storage(sdk)),
                deadline=deadline,
            )
        except CloudObjectMissing:
            return None

    def _look_at_snapshot(self, snapshot_id: str, deadline: Deadline | None = None) -> CinderSnapshot | None:
        """Cinder's view of a snapshot of ours."""
        found = self._any_snapshot(snapshot_id, deadline)
        return found if found is not None and self._is_ours(found) else None

    def _our_volumes(self, sdk: Sdk, **filters: Any) -> list[CinderVolume]:
        """Ours, filtered by Cinder, page by page. Cinder reads the filter as a literal of Python."""
        found = block_storage(sdk).volumes(properties=json.dumps({TAG_DEPLOYMENT: self._deployment}), **filters)
        return [each for each in found if self._is_ours(each)]

    def _our_snapshots(self, sdk: Sdk, **filters: Any) -> list[CinderSnapshot]:
        found = list_snapshots(sdk, properties=json.dumps({TAG_DEPLOYMENT: self._deployment}), **filters)
        return [each for each in found if self._is_ours(each)]

    def _settled(self, volume_id: str, deadline: Deadline) -> CinderVolume:
        """The volume, once nothing works on it. CloudObjectMissing when there is none of ours."""
        wait = Wait(f"volume {volume_id} to be left alone", deadline, self._paces.volume_made)
        while (found := self.look(volume_id, deadline)) is not None and found.status in MOVING:
            wait.pause(str(found.status))
        if found is None:
            raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
        return found

    def _reason(self, identifier: str) -> str:
        """Cinder's message to users about something that failed. (openstacksdk would fetch all messages and look
        itself.)"""

        def action(sdk: Sdk) -> list[str]:
            answer = block_storage(sdk).get("/messages", params={"resource_uuid": identifier}, raise_exc=True)
            return [str(each.get("user_message")) for each in answer.json().get("messages", ())]

        try:
            messages = self._connection.once("asking why something failed", action)
        except CloudError:
            return ""
        return " ".join(dict.fromkeys(each.rstrip(".") for each in messages))

    def _erase_volume(self, volume_id: str, name: str, deadline: Deadline, *, requested: bool = False) -> None:
        """Delete, and return when it is gone."""
        if not requested:
            self._connection.call(
                f"deleting volume {name}",
                lambda sdk: block_storage(sdk).delete_volume(volume_id, ignore_missing=True),
                deadline=deadline,
            )
        wait = Wait(f"volume {name} to be deleted", deadline, self._paces.volume_deleted)
        wait.pause("deleting")
        while (found := self._any_volume(volume_id, deadline)) is not None:
            if found.status != "deleting":  # which it was when Cinder answered
                raise self._not_deleted("volume", volume_id, name, str(found.status))
            wait.pause(str(found.status))
        wait.done()

    def _erase_snapshot(self, snapshot_id: str, name: str, deadline: Deadline, *, requested: bool = False) -> bool:
        """Delete, and return when it is gone. False: Cinder keeps it, as good as it was, which is its way to say that
        something depends on it."""
        if not requested:
            self._connection.call(
                f"deleting snapshot {name}",
                lambda sdk: block_storage(sdk).delete_snapshot(snapshot_id, ignore_missing=True),
                deadline=deadline,
            )
        wait = Wait(f"snapshot {name} to be deleted", deadline, self._paces.snapshot_deleted)
        wait.pause("deleting")
        while (found := self._any_snapshot(snapshot_id, deadline)) is not None:
            if found.status == AVAILABLE:
                return False
            if found.status != "deleting":
                raise self._not_deleted("snapshot", snapshot_id, name, str(found.status))
            wait.pause(str(found.status))
        wait.done()
        return True

    def _not_deleted(self, kind: str, identifier: str, name: str, status: str) -> CloudError:
        reason = self._reason(identifier)
        return CloudError(
            f"Cinder could not delete {kind} {name}; its status is {status}." + (f" {reason}." if reason else ""),
            hint=f"See the log of cinder-volume for {identifier}; deleting may be tried again.",
        )

    def _replace_metadata(
        self, doing: str, found: CinderVolume | CinderSnapshot, metadata: dict[str, str], deadline: Deadline
    ) -> None:
        """All of it in one request, so nobody ever sees half of it."""
        self._connection.call(
            doing, lambda sdk: found.replace_metadata(block_storage(sdk), metadata), deadline=deadline
        )


def list_snapshots(sdk: Sdk, **filters: Any) -> list[CinderSnapshot]:
    """All of the project that fit, page by page."""
    return list(CinderSnapshot.list(block_storage(sdk), base_path="/snapshots/detail", **filters))


def name_of(found: CinderVolume | CinderSnapshot) -> str:
    return str(found.name or found.id)


def metadata_of(found: CinderVolume | CinderSnapshot) -> dict[str, str]:
    return {str(key): str(value) for key, value in (found.metadata or {}).items()}
