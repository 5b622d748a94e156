"""Volumes of the simulated cloud. Each remembers the file system that a simulated guest made on it, and a volume made
from a snapshot begins with the snapshot's. A volume of no deployment ("") is one that somebody else made, or that we
disowned."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sharewright.clouds.contract import Capacity, Tags, Volume, VolumeSpec
from sharewright.clouds.simulated.adoption import NOBODY, adopt, without_ours
from sharewright.clouds.simulated.snapshots import SimulatedSnapshots, find_source
from sharewright.clouds.simulated.state import SimulatedState, dump, load
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing
from sharewright.identifiers import new_id


def _volume(row: sqlite3.Row) -> Volume:
    return Volume(
        id=row["id"],
        name=row["name"],
        size=row["size"],
        serial=row["id"],
        tags=load(row["tags"]),
        instance_id=row["instance_id"],
    )


def _refuse_held(row: sqlite3.Row) -> None:
    if row["instance_id"]:
        raise CloudError(f"Volume {row['name']} is attached to instance {row['instance_id']}.", hint="Detach it first.")


def _promised(tx: sqlite3.Connection, volume_type: str | None) -> int:
    """GiB of all volumes of a type."""
    found = tx.execute(
        "SELECT coalesce(sum(size), 0) FROM volumes LEFT JOIN volume_types ON volume_id = volumes.id"
        " WHERE coalesce(volume_types.name, '') = ?",
        (volume_type or "",),
    )
    return int(found.fetchone()[0])


class SimulatedVolumes(SimulatedSnapshots):
    """Contract Volumes."""

    def __init__(self, state: SimulatedState, deployment: str, capacity: float) -> None:
        super().__init__(state, deployment)
        self._capacity = capacity

    def ensure_volume(self, spec: VolumeSpec, *, timeout: float) -> Volume:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        with self._state.call("ensure_volume", timeout=timeout), self._state.transaction() as tx:
            row = tx.execute(
                "SELECT * FROM volumes WHERE deployment = ? AND name = ?", (self._deployment, spec.name)
            ).fetchone()
            if row is None:
                row = self._make(tx, spec, tags)
            elif row["size"] != spec.size:
                raise CloudError(
                    f"Volume {spec.name} exists with {row['size']} GiB, not {spec.size}.", hint="Delete it first."
                )
            elif (
                spec.source_snapshot
                and not tx.execute(
                    "SELECT 1 FROM sources WHERE volume_id = ? AND snapshot_id = ?", (row["id"], spec.source_snapshot)
                ).fetchone()
            ):
                raise CloudError(
                    f"Volume {spec.name} exists, and not from snapshot {spec.source_snapshot}.", hint="Delete it first."
                )
        return _volume(row)

    def find_volume(self, volume_id: str) -> Volume | None:
        with self._state.call("find_volume"), self._state.transaction(write=False) as tx:
            row = self._find(tx, volume_id)
        return _volume(row) if row else None

    def list_volumes(self) -> Sequence[Volume]:
        with self._state.call("list_volumes"), self._state.transaction(write=False) as tx:
            rows = tx.execute("SELECT * FROM volumes WHERE deployment = ?", (self._deployment,)).fetchall()
        return [_volume(row) for row in rows]

    def delete_volume(self, volume_id: str, *, timeout: float) -> None:
        with self._state.call("delete_volume", timeout=timeout), self._state.transaction() as tx:
            row = self._find(tx, volume_id)
            if row is None:
                return
            _refuse_held(row)
            count = tx.execute("SELECT count(*) FROM snapshots WHERE volume_id = ?", (volume_id,)).fetchone()[0]
            if count:
                raise CloudError(
                    f"Volume {row['name']} has {count} snapshot{'s' if count > 1 else ''}.", hint="Delete those first."
                )
            tx.execute("DELETE FROM volumes WHERE id = ?", (volume_id,))

    def extend_volume(self, volume_id: str, size: int, *, timeout: float) -> Volume:
        with self._state.call("extend_volume", timeout=timeout), self._state.transaction() as tx:
            row = self._row(tx, volume_id)
            if size < row["size"]:
                raise CloudError(
                    f"Volume {row['name']} has {row['size']} GiB and is never shrunk to {size}.",
                    hint="Make a smaller one and copy.",
                )
            kind = tx.execute("SELECT name FROM volume_types WHERE volume_id = ?", (volume_id,)).fetchone()
            self._check_room(tx, size - row["size"], kind["name"] if kind else None)
            tx.execute("UPDATE volumes SET size = ? WHERE id = ?", (size, volume_id))
            row = self._row(tx, volume_id)
        return _volume(row)

    def adopt_volume(
        self, reference: str, name: str, tags: Tags, *, timeout: float, holder: str | None = None
    ) -> Volume:
        stored = tags_to_store(tags, self._deployment, name)
        with self._state.call("adopt_volume", timeout=timeout), self._state.transaction() as tx:
            row = adopt(tx, "volume", reference, name, stored, holder=holder)
        return _volume(row)

    def disown_volume(self, volume_id: str, *, timeout: float) -> None:
        with self._state.call("disown_volume", timeout=timeout), self._state.transaction() as tx:
            row = self._find(tx, volume_id)
            if row is None:
                return
            _refuse_held(row)
            tx.execute(
                "UPDATE volumes SET deployment = ?, tags = ? WHERE id = ?",
                (NOBODY, without_ours(row["tags"]), volume_id),
            )

    def capacity(self, volume_type: str | None = None) -> Capacity:
        """Any name is a volume type, and each has the whole capacity to itself."""
        with self._state.call("capacity"), self._state.transaction(write=False) as tx:
            promised = float(_promised(tx, volume_type))
        return Capacity(total=self._capacity, free=max(0.0, self._capacity - promised), provisioned=promised)

    # ---- for tests ----

    def add_foreign_volume(self, name: str, size: int) -> str:
        """A volume that somebody else made in this cloud, for adoption; return its id."""
        volume_id = new_id()
        with self._state.transaction() as tx:
            tx.execute(
                "INSERT INTO volumes (id, deployment, name, size, tags) VALUES (?, ?, ?, ?, '{}')",
                (volume_id, NOBODY, name, size),
            )
        return volume_id

    # ---- rows ----

    def _make(self, tx: sqlite3.Connection, spec: VolumeSpec, tags: Tags) -> sqlite3.Row:
        source = find_source(tx, self._deployment, spec) if spec.source_snapshot else None
        self._check_room(tx, spec.size, spec.volume_type)
        volume_id = new_id()
        columns = ("filesystem_uuid", "filesystem_type", "filesystem_size")
        filesystem = [source[column] if source else None for column in columns]
        tx.execute(
            "INSERT INTO volumes (id, deployment, name, size, tags, filesystem_uuid, filesystem_type,"
            " filesystem_size) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (volume_id, self._deployment, spec.name, spec.size, dump(tags), *filesystem),
        )
        if spec.volume_type:
            tx.execute("INSERT INTO volume_types VALUES (?, ?)", (volume_id, spec.volume_type))
        if source:
            tx.execute("INSERT INTO sources VALUES (?, ?)", (volume_id, source["id"]))
        return self._row(tx, volume_id)

    def _find(self, tx: sqlite3.Connection, volume_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.execute(
            "SELECT * FROM volumes WHERE deployment = ? AND id = ?", (self._deployment, volume_id)
        ).fetchone()
        return row

    def _row(self, tx: sqlite3.Connection, volume_id: str) -> sqlite3.Row:
        row = self._find(tx, volume_id)
        if row is None:
            raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
        return row

    def _check_room(self, tx: sqlite3.Connection, more: int, volume_type: str | None) -> None:
        promised = _promised(tx, volume_type)
        if more > 0 and promised + more > self._capacity:
            raise CloudCapacityExceeded(
                f"No room for {more} GiB more: {promised:g} of {self._capacity:g} GiB are taken.",
                hint="Delete shares or raise simulated.capacity.",
            )
