"""Snapshots of the simulated cloud: each keeps the file system that its volume had at its moment."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack

from sharewright.clouds.contract import SnapshotSpec, Tags, VolumeSnapshot, VolumeSpec
from sharewright.clouds.simulated.adoption import NOBODY, adopt, without_ours
from sharewright.clouds.simulated.state import SimulatedState, dump, load
from sharewright.clouds.tags import tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing, DeadlineExceeded
from sharewright.identifiers import new_id

POLL_SECONDS = 0.02


class SimulatedSnapshots:
    """The half of contract Volumes that is about snapshots."""

    def __init__(self, state: SimulatedState, deployment: str) -> None:
        self._state = state
        self._deployment = deployment

    def ensure_snapshot(self, spec: SnapshotSpec, *, timeout: float) -> VolumeSnapshot:
        with self._state.call("ensure_snapshot", timeout=timeout), self._state.transaction() as tx:
            return self._ensure(tx, spec)

    def ensure_snapshots(self, specs: Sequence[SnapshotSpec], *, timeout: float) -> Sequence[VolumeSnapshot]:
        """Not in one transaction, because no real cloud makes all or none. Names for SimulatedCloud.fail and set_delay:
        ``ensure_snapshots`` for all of it, ``ensure_snapshots.next`` for each but the first."""
        taken: list[VolumeSnapshot] = []
        with self._state.call("ensure_snapshots", timeout=timeout):
            for spec in specs:
                with ExitStack() as stack:
                    if taken:
                        stack.enter_context(self._state.call("ensure_snapshots.next", timeout=timeout, cloud=False))
                    tx = stack.enter_context(self._state.transaction())
                    taken.append(self._ensure(tx, spec))
        return taken

    def await_snapshot(self, snapshot_id: str, *, timeout: float) -> VolumeSnapshot:
        end = time.monotonic() + timeout
        with self._state.call("await_snapshot", timeout=timeout):
            while True:
                with self._state.transaction(write=False) as tx:
                    row = self._snapshot_row(tx, snapshot_id)
                if row is None:
                    raise CloudObjectMissing(f"There is no snapshot {snapshot_id}.", hint="It may have been deleted.")
                if _snapshot(row).ready:
                    return _snapshot(row)
                if time.monotonic() >= end:
                    raise DeadlineExceeded(f"Snapshot {row['name']} was not ready in {timeout:g} s.")
                time.sleep(POLL_SECONDS)

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        with self._state.call("find_snapshot"), self._state.transaction(write=False) as tx:
            row = self._snapshot_row(tx, snapshot_id)
        return _snapshot(row) if row else None

    def list_snapshots(self) -> Sequence[VolumeSnapshot]:
        with self._state.call("list_snapshots"), self._state.transaction(write=False) as tx:
            rows = tx.execute("SELECT * FROM snapshots WHERE deployment = ?", (self._deployment,)).fetchall()
        return [_snapshot(row) for row in rows]

    def delete_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        with self._state.call("delete_snapshot", timeout=timeout), self._state.transaction() as tx:
            tx.execute("DELETE FROM snapshots WHERE deployment = ? AND id = ?", (self._deployment, snapshot_id))

    def adopt_snapshot(self, reference: str, name: str, tags: Tags, *, timeout: float) -> VolumeSnapshot:
        stored = tags_to_store(tags, self._deployment, name)
        with self._state.call("adopt_snapshot", timeout=timeout), self._state.transaction() as tx:
            row = adopt(tx, "snapshot", reference, name, stored)
        return _snapshot(row)

    def disown_snapshot(self, snapshot_id: str, *, timeout: float) -> None:
        with self._state.call("disown_snapshot", timeout=timeout), self._state.transaction() as tx:
            row = self._snapshot_row(tx, snapshot_id)
            if row is not None:
                tx.execute(
                    "UPDATE snapshots SET deployment = ?, tags = ? WHERE id = ?",
                    (NOBODY, without_ours(row["tags"]), snapshot_id),
                )

    # ---- for tests ----

    def frozen_at(self, snapshot_id: str) -> bool:
        """Whether the guest had the volume's file system frozen at the snapshot's moment."""
        with self._state.transaction(write=False) as tx:
            row = tx.execute("SELECT 1 FROM frozen_snapshots WHERE snapshot_id = ?", (snapshot_id,)).fetchone()
        return row is not None

    def are_of_one_moment(self, snapshot_ids: Sequence[str]) -> bool:
        """Whether the file systems of all were frozen from before the first of their moments until after the last."""
        needed: set[str] = set()
        in_force: list[set[str]] = []
        with self._state.transaction(write=False) as tx:
            for snapshot_id in snapshot_ids:
                rows = tx.execute("SELECT * FROM freezes_at_moments WHERE snapshot_id = ?", (snapshot_id,)).fetchall()
                own = {row["token"] for row in rows if row["own"]}
                if not own:
                    return False
                needed |= own
                in_force.append({row["token"] for row in rows})
        return all(needed <= tokens for tokens in in_force)

    # ---- rows ----

    def _ensure(self, tx: sqlite3.Connection, spec: SnapshotSpec) -> VolumeSnapshot:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        row = tx.execute(
            "SELECT * FROM snapshots WHERE deployment = ? AND name = ?", (self._deployment, spec.name)
        ).fetchone()
        if row is None:
            row = self._take(tx, spec, tags)
        elif row["volume_id"] != spec.volume_id:
            raise CloudError(
                f"Snapshot {spec.name} exists, of volume {row['volume_id']}, not {spec.volume_id}.",
                hint="Delete it first.",
            )
        return _snapshot(row)

    def _take(self, tx: sqlite3.Connection, spec: SnapshotSpec, tags: Tags) -> sqlite3.Row:
        volume = tx.execute(
            "SELECT * FROM volumes WHERE deployment = ? AND id = ?", (self._deployment, spec.volume_id)
        ).fetchone()
        if volume is None:
            raise CloudObjectMissing(f"There is no volume {spec.volume_id}.", hint="It may have been deleted.")
        delay = tx.execute("SELECT seconds FROM delays WHERE method = 'copy'").fetchone()
        snapshot_id = new_id()
        tx.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                snapshot_id,
                self._deployment,
                spec.name,
                volume["id"],
                volume["size"],
                dump(tags),
                time.time() + delay["seconds"] if delay else 0.0,
                volume["filesystem_uuid"],
                volume["filesystem_type"],
                volume["filesystem_size"],
            ),
        )
        if is_frozen(tx, volume):
            tx.execute("INSERT INTO frozen_snapshots VALUES (?)", (snapshot_id,))
        tx.execute(
            "INSERT INTO freezes_at_moments SELECT ?, token, serial = ? FROM guest_frozen"
            " JOIN guest_shares USING (instance_id, share_id) JOIN instances ON instances.id = instance_id"
            " WHERE mounted AND running AND until > ? AND guest_frozen.boot_id = instances.boot_id",
            (snapshot_id, volume["id"], time.time()),
        )
        row: sqlite3.Row = tx.execute("SELECT * FROM snapshots WHERE id = ?", (snapshot_id,)).fetchone()
        return row

    def _snapshot_row(self, tx: sqlite3.Connection, snapshot_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.execute(
            "SELECT * FROM snapshots WHERE deployment = ? AND id = ?", (self._deployment, snapshot_id)
        ).fetchone()
        return row


def is_frozen(tx: sqlite3.Connection, volume: sqlite3.Row) -> bool:
    """Whether a guest has the volume's file system frozen now."""
    row = tx.execute(
        "SELECT 1 FROM guest_frozen JOIN guest_shares USING (instance_id, share_id)"
        " JOIN instances ON instances.id = instance_id"
        " WHERE instance_id = ? AND serial = ? AND mounted AND running AND until > ?"
        " AND guest_frozen.boot_id = instances.boot_id",
        (volume["instance_id"], volume["id"], time.time()),
    ).fetchone()
    return row is not None


def find_source(tx: sqlite3.Connection, deployment: str, spec: VolumeSpec) -> sqlite3.Row:
    """The snapshot that the new volume begins as a copy of. Errors as in the contract."""
    row: sqlite3.Row | None = tx.execute(
        "SELECT * FROM snapshots WHERE deployment = ? AND id = ?", (deployment, spec.source_snapshot)
    ).fetchone()
    if row is None:
        raise CloudObjectMissing(f"There is no snapshot {spec.source_snapshot}.", hint="It may have been deleted.")
    if spec.size < row["size"]:
        raise CloudError(
            f"Volume {spec.name} cannot have {spec.size} GiB: its snapshot has {row['size']}.", hint="Make it larger."
        )
    if not _snapshot(row).ready:
        raise CloudError(f"Snapshot {row['name']} is not ready.", hint="Await it first.")
    return row


def _snapshot(row: sqlite3.Row) -> VolumeSnapshot:
    return VolumeSnapshot(
        id=row["id"],
        name=row["name"],
        volume_id=row["volume_id"],
        size=row["size"],
        ready=row["ready_at"] <= time.time(),
        tags=load(row["tags"]),
    )
