"""Channels whose calls are counted and timed (instruments.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from sharewright.guest.contract import Freeze, GuestAddress, GuestChannels
from sharewright.guest.document import Document, Facts, State
from sharewright.instruments import guest_call_duration, guest_call_errors, guest_phases, measured

# Phases of guest/program/acting.py that are told apart; what else a guest may name is "other".
PHASES: Final = frozenset(
    {"network", "observe", "firewall", "format", "identify", "mount", "finish_format", "grow", "release", "replace"}
    | {"switch", "exports", "extension", "unmount", "total"}
)


class MeasuredChannels:
    """Contract :class:`sharewright.guest.contract.GuestChannels`; ``unmeasured`` are the channels themselves."""

    def __init__(self, channels: GuestChannels) -> None:
        self.unmeasured = channels

    def wait_ready(self, address: GuestAddress, *, timeout: float) -> str:
        with measured(guest_call_duration, guest_call_errors, "ready"):
            return self.unmeasured.wait_ready(address, timeout=timeout)

    def apply(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        with measured(guest_call_duration, guest_call_errors, "apply"):
            state = self.unmeasured.apply(address, document, timeout=timeout)
        for phase, seconds in state.timings.items():
            guest_phases.labels(phase if phase in PHASES else "other").inc(max(0.0, seconds))
        return state

    def observe(self, address: GuestAddress, document: Document, *, timeout: float) -> State:
        with measured(guest_call_duration, guest_call_errors, "observe"):
            return self.unmeasured.observe(address, document, timeout=timeout)

    def flush(self, address: GuestAddress, share_ids: Sequence[str], *, timeout: float) -> None:
        with measured(guest_call_duration, guest_call_errors, "flush"):
            self.unmeasured.flush(address, share_ids, timeout=timeout)

    def inspect(self, address: GuestAddress, *, timeout: float) -> Facts:
        return self.unmeasured.inspect(address, timeout=timeout)

    @contextmanager
    def frozen(
        self, address: GuestAddress, share_ids: Sequence[str], *, seconds: float, timeout: float
    ) -> Iterator[Freeze]:
        with ExitStack() as stack:
            with measured(guest_call_duration, guest_call_errors, "freeze"):
                freeze = stack.enter_context(
                    self.unmeasured.frozen(address, share_ids, seconds=seconds, timeout=timeout)
                )
            yield freeze

    def forget(self, server_id: str) -> None:
        self.unmeasured.forget(server_id)

    def close(self) -> None:
        self.unmeasured.close()
