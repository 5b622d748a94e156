"""Telling share servers what they are to serve: their documents, and what they answer of single shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sharewright.drivers.generic.document import build_document
from sharewright.drivers.generic.failures import share_failure
from sharewright.drivers.generic.release import within
from sharewright.errors import CloudUnavailable, DeadlineExceeded, GuestUnreachable, NotFound
from sharewright.guest.document import Document, ShareState, State
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance, ServiceInstances
from sharewright.store.database import Store


class Converger(Protocol):
    """Group commit of documents (service_instance.convergence.Convergence)."""

    def converge(self, server_id: str, build: Callable[[], Document], timeout: float) -> State: ...


class ToldServers:
    """``guest_seconds``: what one call may take; ``open_key``: the secret that a key of the store seals."""

    def __init__(
        self,
        store: Store,
        instances: ServiceInstances,
        convergence: Converger,
        *,
        open_key: Callable[[str], str],
        guest_seconds: float,
    ) -> None:
        self._store = store
        self._instances = instances
        self._convergence = convergence
        self._open_key = open_key
        self._guest_seconds = guest_seconds

    def get(self, server_id: str) -> ServiceInstance:
        """NotFound when the share server has no service instance."""
        server = self._instances.find(server_id)
        if server is None:
            raise NotFound(f"Share server {server_id} has no service instance.", hint="Create the share again.")
        return server

    def document(self, server: ServiceInstance, *, advance: bool = True) -> Document:
        return build_document(
            self._store,
            server.id,
            server.firewall,
            self._open_key,
            network=server.network,
            borrowed=server.is_named,
            advance=advance,
        )

    def converge(self, server: ServiceInstance, progress: Progress, *, more: float = 0.0) -> State:
        """``more``: seconds that the guest may take besides what a call may take."""
        progress.check()
        try:
            return self._convergence.converge(
                server.id,
                lambda: self.document(server),
                within(self._guest_seconds + more, progress),
            )
        except DeadlineExceeded as error:
            if progress.remaining <= 0:
                raise
            # The call's time is over, not the operation's: like no answer, it may go better the next time.
            raise GuestUnreachable(error.message, hint=error.hint) from error

    def serve(self, share_instance_id: str, server: ServiceInstance, volume_id: str, progress: Progress) -> ShareState:
        """Converge the server and return the share's state in it; attach again, once, a disk the guest misses."""
        state = share_state(share_instance_id, self.converge(server, progress))
        if state.error == "device_missing":
            self._instances.attach_volume(server.id, volume_id, progress)
            state = share_state(share_instance_id, self.converge(server, progress))
        failure = share_failure(state)
        if failure is not None:
            raise failure
        return state


def share_state(share_instance_id: str, state: State) -> ShareState:
    """What a server says of one share; CloudUnavailable when it says nothing."""
    for share in state.shares:
        if share.id == share_instance_id:
            return share
    raise CloudUnavailable(f"The share server did not report share instance {share_instance_id}.")
