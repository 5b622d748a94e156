"""Background processes: started, found again, ended; never a stranger's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharewright.cli import processes

PROGRAM = """
import signal, sys, time
from pathlib import Path
from sharewright.cli.processes import remove_pid, write_pid
pid_file, behaviour = Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    remove_pid(pid_file)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else stop)
print("here I am", flush=True)
write_pid(pid_file)
time.sleep(60)
"""


def start(tmp_path: Path, behaviour: str = "polite") -> tuple[subprocess.Popen[bytes], Path]:
    pid_file = tmp_path / "pid"
    command = [sys.executable, "-c", PROGRAM, str(pid_file), behaviour, "the-mark"]
    process = processes.start_detached(command, log=tmp_path / "logs" / "log")
    end = time.monotonic() + 20
    while not pid_file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return process, pid_file


def test_start_find_stop(tmp_path: Path) -> None:
    process, pid_file = start(tmp_path)
    assert processes.read_pid(pid_file, mark="the-mark") == process.pid
    assert os.getsid(process.pid) == process.pid
    assert processes.tail(tmp_path / "logs" / "log") == "here I am"
    assert processes.stop(pid_file, mark="the-mark", timeout=20)
    assert process.wait(5) == 0
    assert not pid_file.exists()
    assert not processes.stop(pid_file, mark="the-mark")


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process, pid_file = start(tmp_path, "stubborn")
    assert processes.stop(pid_file, mark="the-mark", timeout=0.3)
    assert process.wait(5) == -9
    assert not pid_file.exists()


def test_a_strangers_process_is_left_alone(tmp_path: Path) -> None:
    process, pid_file = start(tmp_path)
    try:
        assert processes.read_pid(pid_file, mark="another-mark") is None
        assert not processes.stop(pid_file, mark="another-mark")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "999999999"])
def test_a_nonsensical_pid_file_is_nobody(tmp_path: Path, text: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(text)
    assert processes.read_pid(pid_file, mark="the-mark") is None


def test_only_our_own_pid_file_is_removed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text("1\n")
    processes.remove_pid(pid_file)
    assert pid_file.exists()
    processes.write_pid(pid_file)
    processes.remove_pid(pid_file)
    assert not pid_file.exists()


def test_tail_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(10000)))
    assert processes.tail(log, 2) == "line 9998\nline 9999"
    assert processes.tail(tmp_path / "absent") == ""
