"""A process that is asked to end does, whatever its threads are at."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = """
import os, signal, subprocess, threading
from sharewright.cli.signals import wait_for_signal

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())

def start_commands():
    while True:
        subprocess.run(["/bin/true"], close_fds=False)

for _ in range(6):
    threading.Thread(target=start_commands, daemon=True).start()
print("ready", flush=True)
wait_for_signal(stopping)
assert signal.set_wakeup_fd(-1) == -1  # as it was
os._exit(0)
"""
TIMES = 40  # an event's own wait missed the signal about every sixth time


def test_no_signal_is_missed_while_threads_start_commands() -> None:
    for _ in range(TIMES):
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05)
            process.terminate()
            try:
                assert process.wait(30) == 0
            finally:
                process.kill()
