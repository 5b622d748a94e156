"""A client that never rests: ten times a second it appends to a file that it holds open, syncs, and looks around."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client_vm import ClientVm

PROGRAM = """
import json, os, sys, time

folder, stop, result = sys.argv[1:]
errors, lines, gap, last = [], 0, 0.0, None
held = os.open(f"{folder}/steady", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
first = os.stat(f"{folder}/steady").st_ino
while not os.path.exists(stop):
    begun = time.monotonic()
    try:
        os.write(held, b"%d\\n" % lines)
        os.fsync(held)
        lines += 1
        with open(f"{folder}/steady") as again:
            again.read(1)
        if "steady" not in os.listdir(folder):
            errors.append("not in its directory")
    except OSError as error:
        errors.append(f"{lines}: {error}")
    now = time.monotonic()
    gap = max(gap, now - last) if last is not None else 0.0
    last = now
    time.sleep(max(0.0, begun + 0.1 - time.monotonic()))
same = os.fstat(held).st_ino == os.stat(f"{folder}/steady").st_ino == first
os.close(held)
with open(result, "w") as file:
    json.dump({"errors": errors, "lines": lines, "gap": gap, "same": same}, file)
"""
POLL = "for i in $(seq 1200); do"


@dataclass
class Written:
    """``gap``: the longest time between two writes' ends, in seconds (0.1 when nothing hinders). ``same``: the handle
    held all the time is still that of the file by its name."""

    errors: list[str]
    lines: int
    gap: float
    same: bool


@contextmanager
def writing(client: ClientVm, folder: str) -> Iterator[list[Written]]:
    """Write in a mounted ``folder`` as long as the block runs; the list has the outcome afterwards."""
    stop, result, outcome = "/run/steady-stop", "/run/steady-result", list[Written]()
    steady = f"{shlex.quote(folder)}/steady"
    client.run(f"rm -f {stop} {result}; printf %s {shlex.quote(PROGRAM)} > /run/steady.py")
    command = f"python3 /run/steady.py {shlex.quote(folder)} {stop} {result}"
    client.run(f"nohup setsid {command} </dev/null >/run/steady.log 2>&1 &")
    client.run(f"{POLL} test $(wc -l < {steady}) -ge 5 && exit 0; sleep 0.1; done; cat /run/steady.log; exit 1")
    try:
        yield outcome
    finally:
        client.run(
            f"touch {stop}; {POLL} test -s {result} && exit 0; sleep 0.1; done; cat /run/steady.log; exit 1",
            timeout=180,
        )
    said: dict[str, Any] = json.loads(client.run(f"cat {result}"))
    outcome.append(Written(**said))
