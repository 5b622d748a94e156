"""Waiting a moment for more work of one kind, where what has to be done once for several is done again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Final

BUSY_SECONDS: Final = 0.1  # since the last round
_MANY: Final = 1000  # kinds; then those of long ago are forgotten


class Gathering:
    """Where rounds of one kind follow each other, each begins ``seconds`` later, so that more of those who are about to
    come are in it. Who comes alone, or again, does not wait."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended: dict[Hashable, tuple[float, int]] = {}  # kind → when its last round did, and whose it was

    def wait(self, kind: Hashable) -> None:
        """Before a round is closed to those who come."""
        ended, thread = self._ended.get(kind, (0.0, 0))
        if thread != threading.get_ident() and time.monotonic() < ended + BUSY_SECONDS:
            time.sleep(self._seconds)

    def end(self, kind: Hashable) -> None:
        """A round is over."""
        now = time.monotonic()
        if len(self._ended) >= _MANY:
            self._ended = {each: last for each, last in self._ended.copy().items() if now < last[0] + BUSY_SECONDS}
        self._ended[kind] = now, threading.get_ident()
