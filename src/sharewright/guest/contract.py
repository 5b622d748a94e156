"""What the layers above need from the way into a service VM; guest/channel.py does it over SSH, the simulated cloud in
memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sharewright.guest.document import Document, Facts, State


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAddress:
    """Where a service VM answers and who it must be. ``host_key`` is the pinned public key, one line as in known_hosts
    without the host ("ssh-ed25519 AAAA…"); ``private_key`` is ours, OpenSSH PEM."""

    server_id: str
    host: str
    host_key: str
    private_key: str = field(repr=False)
    port: int = 22
    user: str = "root"


@dataclass(slots=True)
class Freeze:
    """``held``, known after the block: the file systems all stood still all the time; for how many ``seconds``."""

    held: bool = False
    seconds: float = 0.0


class GuestChannels(Protocol):
    """Open connections to service VMs, one per server, kept open between calls and shared by threads.

    Raises GuestUnreachable, StaleDocument, GuestError. ``timeout`` is in seconds and bounds the whole call, connecting
    included. Every call that reaches a guest counts as one round trip in :data:`round_trips`.
    """

    def wait_ready(self, address: GuestAddress, *, timeout: float) -> str:
        """Return the guest's boot id as soon as it answers; bring its program up to our version."""
        ...

    def apply(self, address: GuestAddress, document: Document, *, timeout: float) -> State: ...

    def observe(self, address: GuestAddress, document: Document, *, timeout: float) -> State: ...

    def flush(self, address: GuestAddress, share_ids: Sequence[str], *, timeout: float) -> None:
        """Have the guest write to the disks what clients have written to mounted shares, so that freezing them takes
        less time afterwards. GuestBusy when there is too much of it."""
        ...

    def inspect(self, address: GuestAddress, *, timeout: float) -> Facts:
        """What a machine of an operator's lacks for the job. Changes nothing there but the guest program."""
        ...

    def frozen(
        self, address: GuestAddress, share_ids: Sequence[str], *, seconds: float, timeout: float
    ) -> AbstractContextManager[Freeze]:
        """The file systems of mounted shares stand still together while the block runs; when one cannot, none does. No
        other call goes to the server meanwhile. The guest itself ends it after ``seconds``, whatever becomes of us;
        then, and when the guest cannot be asked any more, ``held`` is False afterwards. GuestBusy while other shares of
        the server are frozen. Two round trips, ``timeout`` for each."""
        ...

    def forget(self, server_id: str) -> None:
        """Close the server's connection, if any: it was deleted or rebooted."""
        ...

    def close(self) -> None: ...


class RoundTripCounter(threading.local):
    """Guest round trips made by this thread, for measurements; like store.database.statements. ``handshakes`` are the
    greetings and upgrades of new connections, which ``count`` leaves out."""

    count = 0
    handshakes = 0


round_trips = RoundTripCounter()
