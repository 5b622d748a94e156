"""Starts a daemon and then buries the dead below it, on hosts where nobody else does it promptly.

libvirt believes that a QEMU has ended when its process id is gone. QEMU detaches itself, so that happens when the
host's first process reaps it; in containers that process often takes seconds, or never does it. As a "child subreaper"
we become the parent of whatever detaches itself below us. We end with the last of them.

Run as: ``python -m sharewright.clouds.libvirt.reaper COMMAND…``; returns with the command's exit status once that has
detached itself, and stays behind in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    receive, send = os.pipe()
    if os.fork():
        os.close(send)
        with os.fdopen(receive, "rb") as file:
            status, _, message = file.read().partition(b"\n")
        sys.stderr.write(message.decode(errors="replace"))
        return int(status or b"1")
    os.close(receive)
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    result = subprocess.run(command, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, check=False)
    for descriptor in (0, 1, 2):  # whoever started us must not wait for us
        os.dup2(nothing, descriptor)
    with os.fdopen(send, "wb") as file:
        file.write(b"%d\n" % result.returncode + result.stderr)
    bury()
    os._exit(0)


def bury() -> None:
    """Reap children, ours by birth or by adoption, until there are none."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
