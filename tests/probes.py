"""Which doors are open, seen from a machine: many at once, because each that is silent takes the whole time."""

from __future__ import annotations

from collections.abc import Iterable

Target = tuple[str, int]  # address, port

# Arguments: seconds, then ADDRESS,PORT…; prints those of them that accept a TCP connection. Every attempt has the whole
# time, however long this program took to start.
CONNECT_TO = """
import errno, select, socket, sys, time
poll, waiting = select.poll(), {}
for target in sys.argv[2:]:
    address, port = target.split(",")
    attempt = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    attempt.setblocking(False)
    if attempt.connect_ex((address, int(port))) in (0, errno.EINPROGRESS):
        poll.register(attempt, select.POLLOUT)
        waiting[attempt.fileno()] = attempt, target
end = time.monotonic() + float(sys.argv[1])
while waiting and (left := end - time.monotonic()) > 0:
    for number, _ in poll.poll(left * 1000):
        attempt, target = waiting.pop(number)
        poll.unregister(number)
        if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            print(target, flush=True)
"""


def arguments(targets: Iterable[tuple[object, int]], seconds: float) -> list[str]:
    return [str(seconds), *(f"{address},{port}" for address, port in targets)]


def opened(output: str) -> set[Target]:
    """What the program has printed."""
    found = (line.split(",") for line in output.split())
    return {(address, int(port)) for address, port in found}
