"""What runs inside the simulated cloud's instances: the guest program's behaviour, on rows instead of disks.

A real server and this one agree on: disks are found by serial among the attached volumes; a file system is made only
when asked for and on a blank volume; older generations are refused; mounts and exports come back at boot by themselves;
what the document leaves out is unexported and unmounted, never wiped.

Names for SimulatedCloud.fail and set_delay: ``guest.wait_ready``, ``guest.apply``, ``guest.observe``, ``guest.flush``,
``guest.freeze``, ``guest.thaw`` for whole calls; ``guest.mkfs``, ``guest.identify``, ``guest.replace``,
``guest.mount``, ``guest.grow``, ``guest.export``, ``guest.unmount``, ``guest.fit``, ``guest.copy``, ``guest.part``
(files are open), ``guest.switch``
for one share's step. Copying takes one call: the next one finds the copy ready.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization

from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.clouds.simulated.moving import settle
from sharewright.clouds.simulated.served import Served
from sharewright.clouds.simulated.state import dump, load
from sharewright.errors import (
    CloudError,
    DeadlineExceeded,
    GuestBusy,
    GuestError,
    GuestUnreachable,
    StaleDocument,
)
from sharewright.guest.contract import Freeze, GuestAddress, round_trips
from sharewright.guest.document import Document, Facts, Found, State, Usage
from sharewright.guest.program import extension as default_extension
from sharewright.identifiers import new_id

PROGRAM = "simulated"
NETWORK_WORDS = "configure the network"
EXTENSION_WORDS = "serve what the extension's part of the document says"
POLL_SECONDS = 0.02


class SimulatedGuests:
    """Contract GuestChannels for the instances of one SimulatedCloud.

    When the instance's config drive had keys as ours have (``user_data``), the address's must match them; without any,
    anybody is let in. Of a driver's ``extension`` of the guest program only ``parse`` is real here: what it accepts
    counts as served, and its answer is empty.
    """

    def __init__(self, cloud: SimulatedCloud, *, extension: bytes | None = None) -> None:
        self._state = cloud.state
        self._deployment = cloud.deployment
        self._parse = parser_of(extension)
        self._used: dict[str, dict[str, int | None]] = {}
        self._usages: dict[str, Usage] = {}

    def wait_ready(self, address: GuestAddress, *, timeout: float) -> str:
        end = time.monotonic() + timeout
        with self._state.call("guest.wait_ready", timeout=timeout, cloud=False):
            while True:
                try:
                    with self._state.transaction(write=False) as tx:
                        row = self._reach(tx, address)
                    round_trips.count += 1
                    return str(row["boot_id"])
                except GuestUnreachable:
                    if time.monotonic() >= end:
                        raise
                time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))

    def apply(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        started = time.monotonic()
        with (
            self._state.call("guest.apply", timeout=timeout, cloud=False),
            self._state.transaction() as tx,
        ):
            instance = self._reach(tx, address)
            round_trips.count += 1
            self._check_extension(document)
            self._admit_owner(tx, instance["id"], document.server_id)
            if document.generation < instance["generation"]:
                raise StaleDocument(
                    f"The server already applied generation {instance['generation']}, this is {document.generation}.",
                    hint="Build the document again.",
                )
            tx.execute("UPDATE instances SET generation = ? WHERE id = ?", (document.generation, instance["id"]))
            changed: list[str] = []
            if self._network_differs(tx, instance["id"], document):
                tx.execute(
                    "INSERT OR REPLACE INTO guest_networks VALUES (?, ?)", (instance["id"], dump(document.network))
                )
                changed.append(NETWORK_WORDS)
            failure = self._failures(tx)
            settled = [settle(tx, instance["id"], share, failure) for share in document.shares]
            served = Served(tx, instance["id"], failure)
            unmounted, busy = served.remove_others(document, changed)
            shares = [
                msgspec.structs.replace(served.apply(share, changed), **moves, **self._used.get(share.id, {}))
                for share, moves in settled
            ]
            if self._differs(tx, instance["id"], document):
                tx.execute(
                    "INSERT OR REPLACE INTO guest_extensions VALUES (?, ?)", (instance["id"], dump(document.extension))
                )
                changed.append(EXTENSION_WORDS)
            return State(
                generation=document.generation,
                shares=tuple(shares),
                unmounted=unmounted,
                busy=busy,
                found={serial: _look(tx, instance["id"], serial) for serial in document.look},
                missing_nics=_missing_nics(tx, instance["id"], document),
                changed=tuple(changed),
                boot_id=instance["boot_id"],
                program=PROGRAM,
                timings={"total": time.monotonic() - started},
            )

    def observe(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        with (
            self._state.call("guest.observe", timeout=timeout, cloud=False),
            self._state.transaction(write=False) as tx,
        ):
            instance = self._reach(tx, address)
            round_trips.count += 1
            self._check_extension(document)
            settled = [settle(tx, instance["id"], share, None) for share in document.shares]
            served = Served(tx, instance["id"], self._failures(tx))
            changed = [f"grow {share.id}" for share, _ in settled if served.to_grow(share)]
            if self._differs(tx, instance["id"], document):
                changed.append(EXTENSION_WORDS)
            missing = _missing_nics(tx, instance["id"], document)
            if missing or self._network_differs(tx, instance["id"], document):
                changed.append(NETWORK_WORDS)
            return State(
                generation=instance["generation"],
                missing_nics=missing,
                shares=tuple(
                    msgspec.structs.replace(served.observe(share), **moves, **self._used.get(share.id, {}))
                    for share, moves in settled
                ),
                changed=tuple(changed),
                boot_id=instance["boot_id"],
                program=PROGRAM,
                found={serial: _look(tx, instance["id"], serial) for serial in document.look},
                usage=self._usages.get(document.server_id, Usage()),
            )

    def flush(self, address: GuestAddress, share_ids: Sequence[str], *, timeout: float) -> None:
        with (
            self._state.call("guest.flush", timeout=timeout, cloud=False),
            self._state.transaction(write=False) as tx,
        ):
            self._check_mounted(tx, self._reach(tx, address), share_ids)
        round_trips.count += 1

    def inspect(self, address: GuestAddress, *, timeout: float) -> Facts:
        with self._state.call("guest.inspect", timeout=timeout, cloud=False), self._state.transaction() as tx:
            self._reach(tx, address)
            round_trips.count += 1
        return Facts()

    @contextmanager
    def frozen(
        self, address: GuestAddress, share_ids: Sequence[str], *, seconds: float, timeout: float
    ) -> Iterator[Freeze]:
        token, freeze = new_id(), Freeze()
        with self._state.call("guest.freeze", timeout=timeout, cloud=False), self._state.transaction() as tx:
            self._begin_freeze(tx, self._reach(tx, address), share_ids, token, seconds)
        round_trips.count += 1
        try:
            yield freeze
        finally:
            with suppress(GuestError, CloudError, DeadlineExceeded):
                with self._state.call("guest.thaw", timeout=timeout, cloud=False), self._state.transaction() as tx:
                    outcome = self._end_freeze(tx, self._reach(tx, address), token)
                round_trips.count += 1
                freeze.held, freeze.seconds = outcome

    def forget(self, server_id: str) -> None:
        """There is no connection to close."""

    def close(self) -> None:
        """There is no connection to close."""

    # ---- the way in ----

    def _reach(self, tx: sqlite3.Connection, address: GuestAddress) -> sqlite3.Row:
        row: sqlite3.Row | None = tx.execute(
            "SELECT instances.* FROM instances JOIN ports ON ports.instance_id = instances.id"
            " WHERE ports.address = ? ORDER BY instances.deployment = ? DESC, ports.position LIMIT 1",
            (address.host, self._deployment),
        ).fetchone()
        if row is None or not row["running"] or row["ready_at"] > time.time():
            why = (
                "no instance has it"
                if row is None
                else "the instance " + ("is booting" if row["running"] else "is stopped")
            )
            raise GuestUnreachable(f"Nothing answers at {address.host}: {why}.", hint="See the instance's console.")
        if row["host_key"] and _key(row["host_key"]) != _key(address.host_key):
            raise GuestUnreachable(
                f"The host key of {address.host} is not the pinned one.", hint="Another machine has its address."
            )
        if row["authorized_keys"] != "[]" and not _admits(load(row["authorized_keys"]), address.private_key):
            raise GuestUnreachable(f"{address.host} does not accept our key.", hint="Recreate the server.")
        return row

    def _admit_owner(self, tx: sqlite3.Connection, instance_id: str, server_id: str) -> None:
        tx.execute("INSERT OR IGNORE INTO guest_owners VALUES (?, ?)", (instance_id, server_id))
        owner = tx.execute("SELECT server_id FROM guest_owners WHERE instance_id = ?", (instance_id,)).fetchone()[0]
        if owner != server_id:
            raise GuestError(f"This is server {owner}; the document is for server {server_id}.")

    # ---- one call's work ----

    def _begin_freeze(
        self, tx: sqlite3.Connection, instance: sqlite3.Row, share_ids: Sequence[str], token: str, seconds: float
    ) -> None:
        now = time.time()
        row = tx.execute("SELECT * FROM guest_frozen WHERE instance_id = ?", (instance["id"],)).fetchone()
        if row is not None and row["until"] > now and row["boot_id"] == instance["boot_id"]:
            raise GuestBusy(f"Share {row['share_id']} of this server is frozen.", hint="Try again in a moment.")
        self._check_mounted(tx, instance, share_ids)
        tx.execute("DELETE FROM guest_frozen WHERE instance_id = ?", (instance["id"],))
        tx.executemany(
            "INSERT INTO guest_frozen VALUES (?, ?, ?, ?, ?, ?)",
            [(instance["id"], share, token, instance["boot_id"], now, now + seconds) for share in share_ids],
        )

    def _check_mounted(self, tx: sqlite3.Connection, instance: sqlite3.Row, share_ids: Sequence[str]) -> None:
        rows = tx.execute("SELECT share_id FROM guest_shares WHERE instance_id = ? AND mounted", (instance["id"],))
        missing = set(share_ids) - {row["share_id"] for row in rows.fetchall()}
        if missing:
            raise GuestError(f"Share {min(missing)} is not mounted, so it cannot be frozen.")

    def _end_freeze(self, tx: sqlite3.Connection, instance: sqlite3.Row, token: str) -> tuple[bool, float]:
        """Whether the freeze with that token was in force until now, and for how many seconds."""
        row = tx.execute(
            "SELECT * FROM guest_frozen WHERE instance_id = ? AND token = ?", (instance["id"], token)
        ).fetchone()
        if row is None:
            return False, 0.0
        tx.execute("DELETE FROM guest_frozen WHERE instance_id = ?", (instance["id"],))
        now = time.time()
        return row["until"] > now and row["boot_id"] == instance["boot_id"], now - row["begun"]

    def _failures(self, tx: sqlite3.Connection) -> Callable[[str], str]:
        """Name of a step → why a test wants it to fail, or ""."""
        asked_for = {row["method"] for row in tx.execute("SELECT DISTINCT method FROM failures")}

        def failure(step: str) -> str:
            if step not in asked_for:
                return ""
            taken = self._state.take_failure(tx, step)
            return taken.message if taken else ""

        return failure

    def _check_extension(self, document: Document) -> None:
        if document.extension is not None:
            try:
                self._parse(load(dump(document.extension)))  # as it comes over a wire
            except ValueError as error:
                raise GuestError(f"extension: {error}.") from error

    def _differs(self, tx: sqlite3.Connection, instance_id: str, document: Document) -> bool:
        return document.extension is not None and load(dump(document.extension)) != _section(tx, instance_id)

    def _network_differs(self, tx: sqlite3.Connection, instance_id: str, document: Document) -> bool:
        """From what the last document or, before the first, the config drive says."""
        return document.network is not None and load(dump(document.network)) != _network(tx, instance_id)

    # ---- for tests ----

    def network(self, instance_id: str) -> Any:
        """The network data that the guest goes by; None when it was never told any."""
        with self._state.transaction(write=False) as tx:
            return _network(tx, instance_id)

    def use(self, share_id: str, **values: int | None) -> None:
        """What this object's observe tells of a share from now on: sizes and traffic of ShareState."""
        self._used.setdefault(share_id, {}).update(values)

    def use_server(self, server_id: str, usage: Usage) -> None:
        """The same of a server."""
        self._usages[server_id] = usage

    def extension(self, instance_id: str) -> Any:
        """The part of the newest document that was for the driver's extension; None when there was none."""
        with self._state.transaction(write=False) as tx:
            return _section(tx, instance_id)

    def exports(self, instance_id: str) -> dict[str, list[list[str]]]:
        """What clients may mount now: share id → [[address, level], …]; only what is mounted and exported."""
        with self._state.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT guest_shares.* FROM guest_shares JOIN instances ON instances.id = instance_id"
                " WHERE instance_id = ? AND mounted AND running AND rules IS NOT NULL",
                (instance_id,),
            ).fetchall()
        return {row["share_id"]: load(row["rules"]) for row in rows}

    def let_time_pass(self, seconds: float) -> None:
        """Bring the ends of freezes so much nearer."""
        with self._state.transaction() as tx:
            tx.execute("UPDATE guest_frozen SET until = until - ?", (seconds,))

    def frozen_shares(self) -> list[str]:
        """Ids of the shares whose file systems stand still now."""
        with self._state.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT share_id FROM guest_frozen JOIN instances ON instances.id = instance_id"
                " WHERE running AND until > ? AND guest_frozen.boot_id = instances.boot_id",
                (time.time(),),
            ).fetchall()
        return [row["share_id"] for row in rows]


def parser_of(extension: bytes | None) -> Callable[[object], object]:
    """``parse`` of an extension of the guest program (guest/program/extension.py says what that is)."""
    if extension is None:
        return default_extension.parse
    module: dict[str, Any] = {"__name__": "sharewright_guest.extension"}
    exec(compile(extension, "extension.py", "exec", dont_inherit=True), module)  # noqa: S102 - the driver's own code
    parse: Callable[[object], object] = module["parse"]
    return parse


def _network(tx: sqlite3.Connection, instance_id: str) -> Any:
    row = tx.execute("SELECT data FROM guest_networks WHERE instance_id = ?", (instance_id,)).fetchone()
    return None if row is None else load(row["data"])


def _missing_nics(tx: sqlite3.Connection, instance_id: str, document: Document) -> tuple[str, ...]:
    macs = {row["mac"] for row in tx.execute("SELECT mac FROM ports WHERE instance_id = ?", (instance_id,))}
    wanted = [link["ethernet_mac_address"] for link in (document.network or {}).get("links", ())]
    return tuple(mac for mac in wanted if mac not in macs)


def _section(tx: sqlite3.Connection, instance_id: str) -> Any:
    row = tx.execute("SELECT section FROM guest_extensions WHERE instance_id = ?", (instance_id,)).fetchone()
    return None if row is None else load(row["section"])


def _attached(tx: sqlite3.Connection, instance_id: str, serial: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = tx.execute(
        "SELECT * FROM volumes WHERE id = ? AND instance_id = ?", (serial, instance_id)
    ).fetchone()
    return row


def _look(tx: sqlite3.Connection, instance_id: str, serial: str) -> Found:
    volume = _attached(tx, instance_id, serial)
    if volume is None:
        return Found(error="device_missing", message=f"No disk with serial {serial} appeared.")
    if volume["filesystem_uuid"] is None:
        return Found(error="no_filesystem", message="The disk carries no file system.")
    return Found(type=volume["filesystem_type"], uuid=volume["filesystem_uuid"])


def _key(line: str) -> Sequence[str]:
    """A public key line without its comment."""
    return line.split()[:2]


def _admits(authorized_keys: Sequence[str], private_key: str) -> bool:
    public = _public_key(private_key)
    return public is not None and any(public in line for line in authorized_keys)


@lru_cache(maxsize=256)
def _public_key(private_key: str) -> str | None:
    """None when it is no key. Kept, because a server asks for it with every document."""
    try:
        key = serialization.load_ssh_private_key(private_key.encode(), None)
    except ValueError:
        return None
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()
