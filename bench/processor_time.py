"""Processor time of this process and all below it, which other work on the machine changes little; and how fast the
processors are just now, which is not always the same where others have a share of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


def processor_seconds() -> float:
    """User and system time so far of this process, its descendants, and those of them that have ended."""
    times: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                values = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            times[int(entry.name)] = int(values[1]), sum(map(int, values[11:15])) * _TICK
    ours = os.getpid()

    def is_ours(pid: int) -> bool:
        while pid in times and pid != ours:
            pid = times[pid][0]
        return pid == ours

    return sum(seconds for pid, (_, seconds) in times.items() if is_ours(pid))


def yardstick() -> float:
    """Milliseconds of processor time that a fixed piece of work takes now. Figures of different runs compare as far as
    this is the same."""
    begun, value = time.thread_time(), 0
    for number in range(1_000_000):
        value += number * number % 7
    return 1000 * (time.thread_time() - begun)
