"""Calls of the guests of service instances: how to log in, who is refused at once, what each call tells of health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from sharewright.clouds.contract import Cloud
from sharewright.errors import CloudError, DeadlineExceeded, GuestBusy, GuestError, GuestUnreachable
from sharewright.guest.contract import Freeze, GuestAddress, GuestChannels
from sharewright.guest.document import Document, State
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstanceSettings
from sharewright.service_instance.health import HealthMemory
from sharewright.service_instance.readiness import wait_ready
from sharewright.store.database import Store

log = structlog.get_logger()


class Guests:
    """Thread safe; one per process and backend. Calls raise NotFound when the server has no VM, and GuestUnreachable at
    once when its guest failed to answer a moment ago."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        channels: GuestChannels,
        settings: ServiceInstanceSettings,
        read_address: Callable[[str], tuple[GuestAddress, bool | None]],
    ) -> None:
        """``read_address`` tells how to log in to a server, and whether it was well when somebody last looked."""
        self._cloud = cloud
        self._channels = channels
        self._settings = settings
        self._read_address = read_address
        self.health = HealthMemory(store, retry_seconds=settings.retry_seconds)
        self._addresses: dict[str, GuestAddress] = {}
        self._addresses_lock = threading.Lock()

    def apply(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        seconds = timeout or self._settings.guest_seconds
        return self._call(server_id, lambda address: self._channels.apply(address, document, timeout=seconds))

    def observe(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        seconds = timeout or self._settings.guest_seconds
        return self._call(server_id, lambda address: self._channels.observe(address, document, timeout=seconds))

    def flush(self, server_id: str, share_ids: Sequence[str]) -> None:
        timeout = self._settings.guest_seconds
        address = self._admitted(server_id)
        with self._watching(server_id):
            self._channels.flush(address, share_ids, timeout=timeout)

    @contextmanager
    def frozen(self, server_id: str, share_ids: Sequence[str], *, seconds: float) -> Iterator[Freeze]:
        timeout = self._settings.guest_seconds
        address = self._admitted(server_id)
        with ExitStack() as stack:
            with self._watching(server_id):
                freeze = stack.enter_context(
                    self._channels.frozen(address, share_ids, seconds=seconds, timeout=timeout)
                )
            yield freeze

    def greet(self, server_id: str) -> None:
        """One short try, also of a guest that others are refused: its result is what ends that."""
        address = self._address(server_id)
        with self._watching(server_id):
            self._channels.wait_ready(address, timeout=self._settings.probe_seconds)

    def is_believed_well(self, server_id: str) -> bool:
        self._address(server_id)  # with it the health is learnt
        return not self.health.is_suspect(server_id)

    def answers(self, server_id: str, ask: Callable[[], object] | None) -> bool:
        """Whether the guest answers a call that the caller wants to make anyway or, where it is not believed well, a
        greeting. GuestBusy when it is at work."""
        if ask is not None and self.is_believed_well(server_id):
            try:
                ask()
                return True
            except GuestBusy:
                raise
            except GuestUnreachable as error:  # or it is only slow; a greeting tells
                log.info("guest does not answer a look", share_server=server_id, reason=error.message)
            except GuestError:  # a refusal is an answer
                return True
        try:
            self.greet(server_id)
        except GuestBusy:
            raise
        except GuestUnreachable as error:
            log.info("guest does not answer", share_server=server_id, reason=error.message)
            return False
        except GuestError:
            return True
        return True

    def await_boot(self, server_id: str, instance_id: str, progress: Progress) -> None:
        """Wait until a VM that was just begun answers; see readiness.wait_ready for what it raises."""
        address = self._address(server_id)
        with self._watching(server_id):
            wait_ready(
                self._cloud.compute,
                self._channels,
                address,
                instance_id,
                seconds=self._settings.boot_seconds,
                progress=progress,
            )

    def hang_up(self, server_id: str) -> None:
        """Forget the connection and the address: the VM ends or begins anew."""
        with self._addresses_lock:
            self._addresses.pop(server_id, None)
        self._channels.forget(server_id)

    def _call(self, server_id: str, call: Callable[[GuestAddress], State]) -> State:
        address = self._admitted(server_id)
        with self._watching(server_id):
            return call(address)

    def _admitted(self, server_id: str) -> GuestAddress:
        """The address, when the guest is believed to answer or just has. GuestUnreachable otherwise."""
        address = self._address(server_id)
        if not self.health.admit(server_id):
            self.greet(server_id)
        return address

    def _address(self, server_id: str) -> GuestAddress:
        """How to log in; read and decrypted once per process, and again after the guest was unreachable."""
        with self._addresses_lock:
            address = self._addresses.get(server_id)
        if address is not None:
            return address
        address, healthy = self._read_address(server_id)
        self.health.learn(server_id, healthy=healthy)
        try:
            self._cloud.networks.repair()
        except (CloudError, DeadlineExceeded) as error:  # the call itself will show whether the way is there
            log.warning("the cloud's networks were not looked after", reason=error.message)
        with self._addresses_lock:
            self._addresses[server_id] = address
        return address

    @contextmanager
    def _watching(self, server_id: str) -> Iterator[None]:
        """Around a guest call: remember its outcome, and on silence read the address again next time."""
        try:
            with self.health.watching(server_id):
                yield
        except GuestUnreachable:
            with self._addresses_lock:
                self._addresses.pop(server_id, None)
            raise
