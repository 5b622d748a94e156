"""The simulated cloud's whole state, in one SQLite file: processes share it, and it survives any of them."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from sharewright import errors
from sharewright.clouds.contract import cloud_calls
from sharewright.errors import CloudError, DeadlineExceeded, SharewrightError

SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
  id TEXT PRIMARY KEY, deployment TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, tags TEXT NOT NULL,
  instance_id TEXT, filesystem_uuid TEXT, filesystem_type TEXT, filesystem_size INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS volumes_name ON volumes (deployment, name) WHERE deployment <> '';
CREATE INDEX IF NOT EXISTS volumes_instance ON volumes (instance_id);
CREATE TABLE IF NOT EXISTS snapshots (
  id TEXT PRIMARY KEY, deployment TEXT NOT NULL, name TEXT NOT NULL, volume_id TEXT NOT NULL REFERENCES volumes (id),
  size INTEGER NOT NULL, tags TEXT NOT NULL, ready_at REAL NOT NULL, filesystem_uuid TEXT, filesystem_type TEXT,
  filesystem_size INTEGER);
-- Snapshots whose moment was one at which the guest had the file system frozen.
CREATE TABLE IF NOT EXISTS frozen_snapshots (snapshot_id TEXT PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE);
CREATE UNIQUE INDEX IF NOT EXISTS snapshots_name ON snapshots (deployment, name) WHERE deployment <> '';
CREATE INDEX IF NOT EXISTS snapshots_volume ON snapshots (volume_id);
-- Which snapshot a volume was made from; the snapshot may be gone.
CREATE TABLE IF NOT EXISTS sources (volume_id TEXT PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
  snapshot_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS volume_types (volume_id TEXT PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
  name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS subnets (
  id TEXT PRIMARY KEY, network_id TEXT NOT NULL UNIQUE, deployment TEXT NOT NULL, service INTEGER NOT NULL,
  name TEXT NOT NULL, cidr TEXT NOT NULL, gateway TEXT, project_id TEXT, tags TEXT NOT NULL, routed_to TEXT,
  tenant_ports TEXT NOT NULL, UNIQUE (deployment, service, name));
CREATE TABLE IF NOT EXISTS ports (
  id TEXT PRIMARY KEY, deployment TEXT NOT NULL, name TEXT NOT NULL, mac TEXT NOT NULL, address TEXT NOT NULL,
  subnet_id TEXT NOT NULL REFERENCES subnets (id), tags TEXT NOT NULL, allowed_tcp TEXT NOT NULL,
  allowed_from TEXT NOT NULL, instance_id TEXT, position INTEGER, UNIQUE (deployment, name),
  UNIQUE (subnet_id, address));
CREATE INDEX IF NOT EXISTS ports_address ON ports (address);
CREATE INDEX IF NOT EXISTS ports_instance ON ports (instance_id);
CREATE TABLE IF NOT EXISTS instances (
  id TEXT PRIMARY KEY, deployment TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, running INTEGER NOT NULL,
  tags TEXT NOT NULL, boot_id TEXT NOT NULL, ready_at REAL NOT NULL, host_key TEXT NOT NULL,
  authorized_keys TEXT NOT NULL, generation INTEGER NOT NULL DEFAULT 0, console TEXT NOT NULL DEFAULT '',
  UNIQUE (deployment, name));
CREATE TABLE IF NOT EXISTS flavors (
  instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE, vcpus INTEGER NOT NULL,
  memory_mib INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS guest_shares (
  instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE, share_id TEXT NOT NULL, serial TEXT NOT NULL,
  filesystem_uuid TEXT NOT NULL, mounted INTEGER NOT NULL, rules TEXT, PRIMARY KEY (instance_id, share_id));
CREATE TABLE IF NOT EXISTS guest_extensions (
  instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE, section TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS guest_frozen (
  instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE, share_id TEXT NOT NULL, token TEXT NOT NULL,
  boot_id TEXT NOT NULL, begun REAL NOT NULL, until REAL NOT NULL, PRIMARY KEY (instance_id, share_id));
-- The freezes that were in force at a snapshot's moment; own: of the volume that it is of.
CREATE TABLE IF NOT EXISTS freezes_at_moments (
  snapshot_id TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE, token TEXT NOT NULL, own INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS freezes_at_moments_snapshot ON freezes_at_moments (snapshot_id);
-- Whose documents a guest has applied.
CREATE TABLE IF NOT EXISTS guest_owners (
  instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE, server_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS guest_networks (
  instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
  number INTEGER PRIMARY KEY AUTOINCREMENT, method TEXT NOT NULL, error TEXT NOT NULL, message TEXT NOT NULL,
  times INTEGER NOT NULL, moment TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS delays (method TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS calls (method TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS violations (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL);
"""

FIND_FAILURE = "SELECT * FROM failures WHERE method = ? AND moment = ? ORDER BY number LIMIT 1"
CONNECTION_SECONDS = 60.0


class SimulatedState:
    """Transactions on the file, and the knobs that tests turn: delays, failures, counters. Knobs live in the file too,
    so a test in one process steers a worker in another."""

    def __init__(self, path: Path, delay_seconds: float = 0.0) -> None:
        self._path = path
        self._delay_seconds = delay_seconds
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._writer = threading.Lock()  # who waits for SQLite's own sleeps, up to 0.1 s at a time
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = self._connect()
            connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise CloudError(
                f"The simulated cloud's file {path} cannot be used: {error}.", hint="Remove it or name another."
            ) from error
        self._idle.put(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=CONNECTION_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")  # must survive SIGKILL of us, not a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing when the block raises or the process dies."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            with self._writer if write else nullcontext():
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    # ---- what happens around every call ----

    @contextmanager
    def call(self, method: str, *, timeout: float | None = None, cloud: bool = True) -> Iterator[None]:
        """Count a call, take its time, and fail it when a test asked for that, before or after its effect."""
        if cloud:
            cloud_calls.count += 1
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO calls VALUES (?, 1) ON CONFLICT (method) DO UPDATE SET count = count + 1", (method,)
            )
            delay = self._delay(tx, method)
            asked_for = tx.execute(FIND_FAILURE, (method, "before")).fetchone() is not None
        if delay:
            time.sleep(delay if timeout is None else max(0.0, min(delay, timeout)))
        if timeout is not None and delay > timeout:
            raise DeadlineExceeded(f"The simulated cloud did not finish {method} in {timeout:g} s.")
        if asked_for or delay:  # or what was asked for meanwhile
            self.raise_failure(method, "before")
        yield
        self.raise_failure(method, "after")

    def _delay(self, tx: sqlite3.Connection, method: str) -> float:
        row = tx.execute(
            "SELECT seconds FROM delays WHERE method IN (?, '*') ORDER BY method = '*'", (method,)
        ).fetchone()
        return float(row["seconds"]) if row else self._delay_seconds

    def delay(self, method: str) -> float:
        """Seconds set for exactly this method, else 0."""
        with self.transaction(write=False) as tx:
            row = tx.execute("SELECT seconds FROM delays WHERE method = ?", (method,)).fetchone()
        return float(row["seconds"]) if row else 0.0

    def set_delay(self, method: str, seconds: float) -> None:
        """Let a method take so long from now on; ``"*"`` is every method without a delay of its own."""
        with self.transaction() as tx:
            tx.execute("INSERT OR REPLACE INTO delays VALUES (?, ?)", (method, seconds))

    def fail(
        self,
        method: str,
        error: type[SharewrightError] = CloudError,
        times: int = 1,
        *,
        message: str = "",
        moment: Literal["before", "after"] = "before",
    ) -> None:
        """Let the next ``times`` calls of ``method`` raise ``error`` (-1: until forgiven). ``after``: the call takes
        effect and its answer is lost."""
        if getattr(errors, error.__name__, None) is not error:
            raise ValueError(f"{error!r} is not one of sharewright.errors")
        with self.transaction() as tx:
            tx.execute(
                "INSERT INTO failures (method, error, message, times, moment) VALUES (?, ?, ?, ?, ?)",
                (method, error.__name__, message or f"Injected failure of {method}.", times, moment),
            )

    def forgive(self, method: str | None = None) -> None:
        """Take back injected failures, of one method or of all."""
        with self.transaction() as tx:
            tx.execute("DELETE FROM failures WHERE ? IS NULL OR method = ?", (method, method))

    def take_failure(self, tx: sqlite3.Connection, method: str, moment: str = "before") -> SharewrightError | None:
        """The injected error that this call must show, using one of its times."""
        row = tx.execute(FIND_FAILURE, (method, moment)).fetchone()
        if row is None:
            return None
        if row["times"] == 1:
            tx.execute("DELETE FROM failures WHERE number = ?", (row["number"],))
        elif row["times"] > 1:
            tx.execute("UPDATE failures SET times = times - 1 WHERE number = ?", (row["number"],))
        kind: type[SharewrightError] = getattr(errors, row["error"])
        return kind(row["message"], hint="This is a simulated failure.")

    def raise_failure(self, method: str, moment: str = "before") -> None:
        with self.transaction(write=False) as tx:
            if tx.execute(FIND_FAILURE, (method, moment)).fetchone() is None:
                return
        with self.transaction() as tx:
            failure = self.take_failure(tx, method, moment)
        if failure is not None:
            raise failure

    def calls(self) -> dict[str, int]:
        """Calls so far by method name, of all processes."""
        with self.transaction(write=False) as tx:
            return {row["method"]: row["count"] for row in tx.execute("SELECT * FROM calls")}

    def reset_calls(self) -> None:
        with self.transaction() as tx:
            tx.execute("DELETE FROM calls")

    def violations(self) -> list[str]:
        """What a real cloud lets happen and nobody should do, such as detaching a volume that is mounted."""
        with self.transaction(write=False) as tx:
            return [row["what"] for row in tx.execute("SELECT what FROM violations ORDER BY number")]


def dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def load(text: str) -> Any:
    return json.loads(text)
