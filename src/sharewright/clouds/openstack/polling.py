"""Waiting for a cloud: deadlines, and polling that adapts to how long a thing usually takes."""

from __future__ import annotations

import threading
import time

from sharewright.errors import DeadlineExceeded

LEAST_PAUSE = 0.2
MOST_PAUSE = 2.0
LEARNING = 0.3  # how much one observation changes what is expected


class Deadline:
    """A point in time, ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it is over."""
        return self._end - time.monotonic()


class Pace:
    """How long one kind of work takes on this cloud, in seconds: a first guess, then what was seen. Thread safe."""

    def __init__(self, guess: float) -> None:
        self._expected = guess
        self._lock = threading.Lock()

    @property
    def expected(self) -> float:
        return self._expected

    def learn(self, seconds: float) -> None:
        with self._lock:
            self._expected += LEARNING * (seconds - self._expected)

    def pause(self, elapsed: float) -> float:
        """The next pause: short around the time that the end is expected, longer long before and long after it."""
        least = min(max(self._expected / 10, LEAST_PAUSE), MOST_PAUSE / 2)
        return min(max(abs(self._expected - elapsed) / 4, least), MOST_PAUSE)


class Paces:
    """What one cloud's work takes; the guesses are a small cloud's figures. Neutron's objects are there at once."""

    def __init__(self, *, server: float = 8.0, volume: float = 1.0) -> None:
        self.server_made = Pace(server)
        self.server_started = Pace(server / 2)
        self.server_deleted = Pace(server / 2)
        self.volume_made = Pace(volume)
        self.volume_deleted = Pace(volume)
        self.snapshot_made = Pace(volume)
        self.snapshot_deleted = Pace(volume)
        self.volume_attached = Pace(volume * 3)
        self.volume_detached = Pace(volume * 3)


class Wait:
    """One wait for ``what`` ("volume x to become available"). Look, and call :meth:`pause` until satisfied, then
    :meth:`done`."""

    def __init__(self, what: str, deadline: Deadline, pace: Pace) -> None:
        self._what = what
        self._deadline = deadline
        self._pace = pace
        self._begun = time.monotonic()

    def pause(self, status: str) -> None:
        """Sleep until the next look. DeadlineExceeded, with the last ``status`` seen, when there will be none."""
        remaining = self._deadline.remaining
        if remaining <= 0:
            raise DeadlineExceeded(
                f"Waited {time.monotonic() - self._begun:.0f} s for {self._what}; the last status was {status}.",
                hint="See the cloud's own logs; the same call may be repeated and goes on waiting.",
            )
        time.sleep(min(self._pace.pause(time.monotonic() - self._begun), max(remaining, 0.01)))

    def done(self) -> None:
        """What was waited for is there: remember how long it took."""
        self._pace.learn(time.monotonic() - self._begun)
