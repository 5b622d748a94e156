"""Showing long work to a person: what began, a sign of life while it lasts, how long it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

SIGN_OF_LIFE_SECONDS = 10.0


class Steps:
    """Lines "[ 12 s] text". Steps may overlap in several threads."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        sign_of_life: float = SIGN_OF_LIFE_SECONDS,
        begun: str | None = None,  # when the work really began, in seconds since the epoch
    ) -> None:
        self._stream = stream or sys.stdout
        self._begun = time.monotonic()
        with suppress(TypeError, ValueError):
            self._begun -= min(86400.0, max(0.0, time.time() - float(begun or "")))
        self._sign_of_life = sign_of_life
        self._lock = threading.Lock()
        self._failed: str | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    @property
    def failed(self) -> str | None:
        """The name of the first step that raised."""
        return self._failed

    def say(self, text: str) -> None:
        with self._lock:
            print(f"[{self.elapsed:3.0f} s] {text}", file=self._stream, flush=True)

    @contextmanager
    def step(self, name: str, *, tells: bool = False) -> Iterator[None]:
        """One step: a line at its start, one every few seconds, one at its end when it took longer than a moment.
        ``tells``: the work itself gives signs of life."""
        begun = time.monotonic()
        self.say(f"{name} …")
        over = threading.Event()

        def live() -> None:
            while not over.wait(self._sign_of_life):
                self.say(f"{name} … {time.monotonic() - begun:.0f} s so far")

        thread = threading.Thread(target=live, name="sign-of-life", daemon=True)
        if not tells:
            thread.start()
        try:
            yield
        except BaseException:
            if self._failed is None:
                self._failed = name
            raise
        finally:
            over.set()
            if not tells:
                thread.join()
        if time.monotonic() - begun >= 1.0:
            self.say(f"{name}: done in {time.monotonic() - begun:.0f} s")
