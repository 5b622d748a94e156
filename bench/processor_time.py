"""Processor time of this process and all below it, which other work on the machine changes little."""

from __future__ import annotations

import os
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
