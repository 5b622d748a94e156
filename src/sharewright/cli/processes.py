"""Starting our service in the background, finding it again, ending it. A process is only ours when its command line
says so: a process id alone may long belong to somebody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sharewright.errors import SharewrightError


def read_pid(pid_file: Path, *, mark: str) -> int | None:
    """The id of the running process that wrote the file and has ``mark`` among its arguments, or None."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if _runs(pid, mark) else None


def write_pid(pid_file: Path) -> None:
    """Write this process's id, by rename."""
    temporary = pid_file.with_name(f"{pid_file.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.replace(pid_file)


def remove_pid(pid_file: Path) -> None:
    """Remove the file if it names this process."""
    try:
        if int(pid_file.read_text()) == os.getpid():
            pid_file.unlink()
    except (OSError, ValueError):
        pass


def start_detached(command: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which outlives us, with its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )


def stop(pid_file: Path, *, mark: str, timeout: float = 60.0) -> bool:
    """End the process gracefully and wait for its end. False when none was running."""
    pid = read_pid(pid_file, mark=mark)
    if pid is None:
        pid_file.unlink(missing_ok=True)
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + timeout
    killed = False
    while _runs(pid, mark):
        if time.monotonic() > end:
            if killed:
                raise SharewrightError(f"Process {pid} does not end.", hint=f"Look at it: ps -fp {pid}")
            os.kill(pid, signal.SIGKILL)
            killed, end = True, time.monotonic() + 10
        time.sleep(0.1)
    pid_file.unlink(missing_ok=True)
    return True


def _runs(pid: int, mark: str) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return mark.encode() in arguments and state != "Z"


def tail(log: Path, lines: int = 25) -> str:
    """The end of a log file."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 32768))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
