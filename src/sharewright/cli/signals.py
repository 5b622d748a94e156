"""Waiting for signals in the main thread, so that none is missed.

A signal to a process may reach any of its threads; it was seen to do so while another thread was starting a command.
Python then notes it, and runs its handler when the main thread next does something: one that waits for a lock, as an
event's ``wait`` does, goes on waiting. So what wakes it is the byte that Python writes for each signal
(signal.set_wakeup_fd), whichever thread that reaches.
"""

from __future__ import annotations

import signal
import socket
import threading


def wait_for_signal(stopping: threading.Event) -> None:
    """Return when a signal's handler has set the event. For the main thread; nobody but a handler may set it."""
    written, read = socket.socketpair()
    with written, read:
        written.setblocking(False)
        before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        try:
            while not stopping.is_set():
                read.recv(4096)
        finally:
            signal.set_wakeup_fd(before)
