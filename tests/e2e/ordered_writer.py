"""A client that counts in several shares, in a fixed order: a number is in the second one only when it is in the first,
on its server's disk."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from client_vm import ClientVm
from steady_writer import POLL

PROGRAM = """
import json, os, sys, time

stop, result, *folders = sys.argv[1:]
files = [os.open(f"{folder}/counter", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) for folder in folders]
number, gap, errors, last = 0, 0.0, [], time.monotonic()
while not os.path.exists(stop) and not errors:
    try:
        for file in files:
            os.write(file, b"%d\\n" % number)
            os.fsync(file)
            now = time.monotonic()
            gap, last = max(gap, now - last), now
        number += 1
    except OSError as error:
        errors.append(f"{number}: {error}")
for file in files:
    os.close(file)
with open(result, "w") as file:
    json.dump({"numbers": number, "gap": gap, "errors": errors}, file)
"""


@dataclass
class Counted:
    """``numbers`` that were written to every share; ``gap``: the longest time between two writes' ends, in seconds."""

    numbers: int
    gap: float
    errors: list[str]


@contextmanager
def counting(client: ClientVm, folders: Sequence[str]) -> Iterator[list[Counted]]:
    """Count in mounted ``folders`` as long as the block runs; the list has the outcome afterwards."""
    stop, result, outcome = "/run/count-stop", "/run/count-result", list[Counted]()
    named = " ".join(shlex.quote(folder) for folder in folders)
    client.run(f"rm -f {stop} {result}; printf %s {shlex.quote(PROGRAM)} > /run/count.py")
    client.run(f"nohup setsid python3 /run/count.py {stop} {result} {named} </dev/null >/run/count.log 2>&1 &")
    last = shlex.quote(folders[-1])
    client.run(f"{POLL} test $(wc -l < {last}/counter) -ge 5 && exit 0; sleep 0.1; done; cat /run/count.log; exit 1")
    try:
        yield outcome
    finally:
        client.run(
            f"touch {stop}; {POLL} test -s {result} && exit 0; sleep 0.1; done; cat /run/count.log; exit 1",
            timeout=180,
        )
    outcome.append(Counted(**json.loads(client.run(f"cat {result}"))))
