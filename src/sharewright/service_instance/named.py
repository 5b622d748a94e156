"""The machine that an operator names for a backend's shares (contract ServiceInstances, with what can be done to it).

It is somebody else's. Volumes are attached to it and its guest program is told what to serve; it is never made,
started, rebooted, changed or deleted. When it is gone or silent, that is said, and with it the shares come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address

import structlog
from sqlalchemy import select

from sharewright.clouds.contract import Cloud, Instance
from sharewright.errors import CloudError, CloudObjectMissing, GuestBusy, GuestUnreachable
from sharewright.guest.contract import Freeze, GuestAddress, GuestChannels
from sharewright.guest.document import Document, State
from sharewright.progress import Progress
from sharewright.service_instance.contract import NamedMachine, ServiceInstance, ServiceInstanceSettings, TenantNetwork
from sharewright.service_instance.guests import Guests
from sharewright.store.database import Store
from sharewright.store.tables import share_servers

log = structlog.get_logger()

HINT = "It is its operator's: see there. The shares are served again as soon as it answers."


def guest_address(machine: NamedMachine, server_id: str, address: str) -> GuestAddress:
    """How to log in there. Raises ConfigurationError when the key cannot be read."""
    return GuestAddress(
        server_id=server_id,
        host=address,
        host_key=machine.host_key,
        private_key=machine.read_key(),
        port=machine.port,
        user=machine.user,
    )


def addresses_on(networks: Mapping[str, Sequence[str]], name: str) -> tuple[str, ...]:
    """A machine's first address of each family on one of its networks. CloudObjectMissing when there is none."""
    found: dict[int, str] = {}
    for address in networks.get(name, ()):
        found.setdefault(ip_address(address).version, address)
    if not found:
        raise CloudObjectMissing(
            f"The machine has no address on {name}; it is on {', '.join(networks) or 'no network that is known'}.",
            hint="Name one of its networks, or an IP address, in [backends.NAME.server].",
        )
    return tuple(found.values())


def management_address(machine: NamedMachine, networks: Mapping[str, Sequence[str]]) -> str:
    return (_literal(machine.management) or addresses_on(networks, machine.management))[0]


def _literal(name: str) -> tuple[str] | None:
    try:
        return (str(ip_address(name)),)
    except ValueError:
        return None


class NamedServer:
    """Contract ServiceInstances for the one machine of a backend. Thread safe; one per process and backend."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        channels: GuestChannels,
        machine: NamedMachine,
        settings: ServiceInstanceSettings,
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._machine = machine
        self._settings = settings
        self._networks: dict[str, tuple[str, ...]] = {}  # its addresses by network, as the cloud last told
        self._guests = Guests(store, cloud, channels, settings, self._read_address)

    # ---- found ----

    def find(self, server_id: str) -> ServiceInstance | None:
        """What the configuration says; the cloud is asked only for addresses on a network. CloudObjectMissing when it
        does not know them."""
        return self._found(server_id)

    def _found(self, server_id: str) -> ServiceInstance:
        return ServiceInstance(
            id=server_id,
            backend=self._settings.backend,
            layout="named",
            instance_id=self._machine.reference,
            management_address=self._addresses(self._machine.management)[0],
            export_addresses=tuple(
                dict.fromkeys(
                    address
                    for name in self._machine.exports or (self._machine.management,)
                    for address in self._addresses(name)
                )
            ),
            ports=(),
            firewall=None,
        )

    def look(self, server_id: str) -> Instance | None:
        found = self._cloud.compute.find_named_instance(self._machine.reference)
        if found is not None:
            self._networks = dict(found.addresses)
        return found

    def _addresses(self, name: str) -> tuple[str, ...]:
        """An address is itself; on a network, the machine's first of each family. Never empty."""
        literal = _literal(name)
        if literal is None and name not in self._networks and self.look("") is None:
            raise self._missing()
        return literal or addresses_on(self._networks, name)

    def _missing(self) -> CloudObjectMissing:
        return CloudObjectMissing(
            f"The cloud has no machine {self._machine.reference}, on which backend {self._settings.backend} has its "
            "shares.",
            hint="Bring it back, or name another in the configuration.",
        )

    # ---- what is not done to it ----

    def ensure(
        self,
        server_id: str,
        network: TenantNetwork,
        progress: Progress,
        *,
        further: Sequence[TenantNetwork] = (),
        flavor: str | None = None,
    ) -> ServiceInstance:
        raise self._not_ours("makes and changes")

    def check(self, server_id: str, networks: Sequence[TenantNetwork], progress: Progress) -> ServiceInstance:
        raise self._not_ours("manages")

    def delete(self, server_id: str, progress: Progress) -> None:
        raise self._not_ours("deletes")

    def _not_ours(self, verb: str) -> CloudError:
        return CloudError(
            f"Nobody but its operator {verb} machine {self._machine.reference} of backend {self._settings.backend}.",
            hint="This is a bug.",
        )

    # ---- talked to ----

    def apply(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        with self._explained():
            return self._guests.apply(server_id, document, timeout=timeout)

    def observe(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        with self._explained():
            return self._guests.observe(server_id, document, timeout=timeout)

    def flush(self, server_id: str, share_ids: Sequence[str]) -> None:
        self._guests.flush(server_id, share_ids)

    def frozen(self, server_id: str, share_ids: Sequence[str], *, seconds: float) -> AbstractContextManager[Freeze]:
        return self._guests.frozen(server_id, share_ids, seconds=seconds)

    def ensure_running(self, server_id: str, progress: Progress, *, ask: Callable[[], object] | None = None) -> bool:
        """A look, and no act of healing. What an apply mends, the caller applies."""
        instance = self.look(server_id)
        if instance is None or not instance.running:
            reason = "does not run" if instance else "does not exist in the cloud"
            log.warning("named server is not there", backend=self._settings.backend, reason=reason)
            self._guests.hang_up(server_id)
            self._guests.health.failed(server_id, f"its machine {reason}.")
            return False
        try:
            return self._guests.answers(server_id, ask)
        except GuestBusy:
            log.info("named server is busy", backend=self._settings.backend)
            return False

    def _read_address(self, server_id: str) -> tuple[GuestAddress, bool | None]:
        with self._store.read() as tx:
            healthy = tx.execute(select(share_servers.c.healthy).where(share_servers.c.id == server_id)).scalar()
        return guest_address(self._machine, server_id, self._addresses(self._machine.management)[0]), healthy

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Silence, in words that fit a machine which nobody heals."""
        try:
            yield
        except GuestBusy:
            raise
        except GuestUnreachable as error:
            reason = error.message.rpartition("does not answer: ")[2]  # after what health.py says of a share server
            raise GuestUnreachable(
                f"Machine {self._machine.reference} of backend {self._settings.backend} does not answer: {reason}",
                hint=HINT,
            ) from error

    # ---- volumes ----

    def attach_volume(self, server_id: str, volume_id: str, progress: Progress) -> ServiceInstance:
        progress.check()
        instance = self.look(server_id)
        if instance is None:
            raise self._missing()
        self._cloud.compute.attach_volume(instance.id, volume_id, timeout=self._settings.attach_seconds)
        return self._found(server_id)

    def detach_volume(self, server_id: str, volume_id: str, progress: Progress) -> None:
        progress.check()
        instance = self.look(server_id)
        if instance is not None:
            self._cloud.compute.detach_volume(instance.id, volume_id, timeout=self._settings.attach_seconds)
