"""What is known about each guest's health, so that an unreachable one costs its callers seconds and not minutes.

Kept in memory per process, and written to ``share_servers`` (healthy, last_seen) when it changes, for the API and for
processes that start later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sharewright.errors import GuestBusy, GuestError, GuestUnreachable
from sharewright.service_instance import records
from sharewright.store.database import Store

LAST_SEEN_SECONDS = 60.0  # how old last_seen of a healthy server may be in the store


@dataclass(slots=True)
class _Health:
    healthy: bool | None = None  # None: unknown, treated as healthy
    failed_at: float = 0.0  # monotonic
    reason: str = ""
    written_at: float | None = None
    probing: bool = False


class HealthMemory:
    """Thread safe. ``retry_seconds`` is how long after a failure callers are refused without another try."""

    def __init__(self, store: Store, *, retry_seconds: float) -> None:
        self._store = store
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._servers: dict[str, _Health] = {}

    def learn(self, server_id: str, *, healthy: bool | None) -> None:
        """What the store says, for a server that this process has not met."""
        with self._lock:
            if server_id not in self._servers:
                # failed_at far in the past: a first probe is always allowed.
                self._servers[server_id] = _Health(healthy=healthy, failed_at=-self._retry_seconds - 1)

    def forget(self, server_id: str) -> None:
        with self._lock:
            self._servers.pop(server_id, None)

    def admit(self, server_id: str) -> bool:
        """Whether to call at once; False: probe first (this caller alone). GuestUnreachable when it failed just now.

        After False the caller must report ``succeeded`` or ``failed``.
        """
        with self._lock:
            health = self._servers.setdefault(server_id, _Health())
            if health.healthy is not False:
                return True
            since = time.monotonic() - health.failed_at
            if since < self._retry_seconds or health.probing:
                reason = health.reason or "another caller is trying it now"
                raise GuestUnreachable(
                    f"The service VM of server {server_id} does not answer: {reason}",
                    hint="It is being healed; the work will be tried again.",
                )
            health.probing = True
            return False

    def is_suspect(self, server_id: str) -> bool:
        """Whether it did not answer the last time."""
        with self._lock:
            health = self._servers.get(server_id)
            return health is not None and health.healthy is False

    def succeeded(self, server_id: str) -> None:
        now = time.monotonic()
        with self._lock:
            health = self._servers.setdefault(server_id, _Health())
            write = (
                health.healthy is not True or health.written_at is None or now - health.written_at > LAST_SEEN_SECONDS
            )
            health.healthy, health.reason, health.probing = True, "", False
            if write:
                health.written_at = now
        if write:
            self._write(server_id, healthy=True)

    def failed(self, server_id: str, reason: str) -> None:
        with self._lock:
            health = self._servers.setdefault(server_id, _Health())
            write = health.healthy is not False
            health.healthy, health.reason, health.probing = False, reason, False
            health.failed_at = time.monotonic()
        if write:
            self._write(server_id, healthy=False)

    @contextmanager
    def watching(self, server_id: str) -> Iterator[None]:
        """Learn from the outcome of a guest call: any answer, a refusal too, shows that the guest is there."""
        try:
            yield
        except GuestBusy:  # the call before knows more
            self._end_probe(server_id)
            raise
        except GuestUnreachable as error:
            self.failed(server_id, error.message)
            raise
        except GuestError:
            self.succeeded(server_id)
            raise
        except BaseException:
            self._end_probe(server_id)
            raise
        else:
            self.succeeded(server_id)

    def _end_probe(self, server_id: str) -> None:
        with self._lock:
            if server_id in self._servers:
                self._servers[server_id].probing = False

    def _write(self, server_id: str, *, healthy: bool) -> None:
        with self._store.begin() as tx:
            records.record_health(tx, server_id, healthy=healthy)
