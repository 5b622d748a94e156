"""SMB clients that are parted from a share: real processes that are called smbd, and have files open as its have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest_machines import number
from loop_disks import LoopHost

from sharewright.guest.program import leaving
from sharewright.guest.program.desired import Share
from sharewright.guest.program.host import CommandFailed, Host
from sharewright.guest.program.leaving import InUse, close_gate, cut_off, has_files_elsewhere, part, resume
from sharewright.guest.program.smb import GATE, section_name

SHARE = Share(number(1), "disk", "ext4", number(101), protocol="CIFS")
OTHER = Share(number(2), "other-disk", "ext4", number(102), protocol="CIFS")
SERVE = """
import os, sys, time
for path in sys.argv[2:]:
    os.open(path, os.O_RDONLY)
os.chdir(sys.argv[1])
print("ready", flush=True)
time.sleep(600)
"""
TOOL = """#!/bin/sh
echo "$(basename $0) $*" >> {root}/calls
test $(basename $0) = smbstatus && cat {root}/status.json
test $(basename $0) = smbcontrol && echo '{{"sessions": {{}}, "tcons": {{}}}}' > {root}/status.json
exit 0
"""


class Samba:
    """Its processes; a share each client may be connected to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = LoopHost(str(root))
        self.processes: list[subprocess.Popen[str]] = []
        self.connected: list[tuple[int, str]] = []
        tools = root / "usr/sbin"
        tools.mkdir(parents=True)
        for name in ("smbstatus", "smbcontrol"):
            (tools / name).write_text(TOOL.format(root=root))
            (tools / name).chmod(0o755)
        (root / "bin").mkdir()
        (root / "bin/smbd").symlink_to(sys.executable)
        for share in (SHARE, OTHER):
            self.path(share).mkdir(parents=True)
            (self.path(share) / "file").write_text("x")
            (self.path(share) / "directory").mkdir()
        self.tell()

    def path(self, share: Share) -> Path:
        return Path(self.host.at(share.path))

    def serve(self, *open_files: Path, at: Path | None = None, share: Share | None = SHARE) -> subprocess.Popen[str]:
        """A process that serves a client."""
        command = [str(self.root / "bin/smbd"), "-S", "-c", SERVE, str(at or "/"), *map(str, open_files)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if share is not None:
            self.connected.append((process.pid, section_name(share.id)))
        self.tell()
        return process

    def tell(self) -> None:
        tcons = {
            str(position): {"service": name, "machine": "10.0.0.5", "session_id": "s", "server_id": {"pid": str(pid)}}
            for position, (pid, name) in enumerate(self.connected)
            if Path(f"/proc/{pid}").exists()
        }
        (self.root / "status.json").write_text(json.dumps({"sessions": {"s": {"username": "nobody"}}, "tcons": tcons}))

    def calls(self) -> list[str]:
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith("smbstatus")]


@pytest.fixture
def samba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Samba]:
    monkeypatch.setattr(leaving, "OPEN_SECONDS", 0.5)
    monkeypatch.setattr(leaving, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(leaving, "LEAVE_SECONDS", 1.0)
    made = Samba(tmp_path / "root")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def state(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def leave(samba: Samba, how: Callable[[Host, Share], None] = part) -> None:
    """Part, or be cut off, with somebody who waits for processes that ended, as the real one's parent does."""
    listing = samba.host.listing

    def listing_and_reaping(path: str) -> list[str]:
        for process in samba.processes:
            process.poll()
        if not any("close-share" in call for call in samba.calls()):
            samba.tell()
        return listing(path)

    samba.host.listing = listing_and_reaping  # type: ignore[method-assign]
    how(samba.host, SHARE)


def test_who_has_a_file_open_notices_nothing(samba: Samba) -> None:
    idle = samba.serve(at=samba.path(SHARE))
    writing = samba.serve(samba.path(SHARE) / "file")
    with pytest.raises(InUse, match=r"open: .file.$"):
        leave(samba)
    assert (idle.poll(), writing.poll()) == (None, None)
    assert "T" not in (state(idle), state(writing))
    assert samba.calls() == []


def test_who_opens_one_in_the_last_moment_notices_nothing(samba: Samba, monkeypatch: pytest.MonkeyPatch) -> None:
    client = samba.serve(samba.path(SHARE) / "file")
    idle = samba.serve(at=samba.path(SHARE))
    monkeypatch.setattr(leaving, "_await_closed", lambda *_: None)
    with pytest.raises(InUse):
        leave(samba)
    for process in (client, idle):
        end = time.monotonic() + 5
        while state(process) == "T":
            assert time.monotonic() < end
        assert process.poll() is None


def test_directories_may_be_open(samba: Samba) -> None:
    client = samba.serve(samba.path(SHARE), samba.path(SHARE) / "directory")
    leave(samba)
    assert client.wait(5) == -signal.SIGKILL


def test_who_is_connected_is_parted_wherever_he_is(samba: Samba) -> None:
    """A process that has turned to another share serves this one again as soon as its client asks."""
    client = samba.serve(at=samba.path(OTHER))
    stranger = samba.serve(at=samba.path(OTHER), share=OTHER)
    leave(samba)
    assert client.wait(5) == -signal.SIGKILL
    assert stranger.poll() is None


def test_who_has_files_of_another_share_open_keeps_them(samba: Samba) -> None:
    client = samba.serve(samba.path(OTHER) / "file")
    leave(samba)
    assert client.poll() is None
    assert samba.calls() == [f"smbcontrol {client.pid} close-share {section_name(SHARE.id)}"]


def test_who_is_cut_off_loses_what_he_has_open_there_and_nothing_else(samba: Samba) -> None:
    writing = samba.serve(samba.path(SHARE) / "file")
    both = samba.serve(samba.path(OTHER) / "file")
    stranger = samba.serve(samba.path(OTHER) / "file", share=OTHER)
    leave(samba, cut_off)
    assert writing.wait(5) == -signal.SIGKILL
    assert (both.poll(), stranger.poll()) == (None, None)
    assert "T" not in (state(both), state(stranger))
    assert samba.calls() == [f"smbcontrol {both.pid} close-share {section_name(SHARE.id)}"]


def test_files_elsewhere(samba: Samba) -> None:
    here = str(samba.serve(samba.path(SHARE) / "file", samba.path(OTHER) / "directory").pid)
    both = str(samba.serve(samba.path(SHARE) / "file", samba.path(OTHER) / "file").pid)
    asked = [
        has_files_elsewhere(samba.host, process, paths)
        for paths in ([SHARE.path], [SHARE.path, OTHER.path])
        for process in (here, both)
    ]
    assert asked == [False, True, False, False]


def test_one_that_does_not_go(samba: Samba) -> None:
    samba.serve(samba.path(OTHER) / "file", at=samba.path(SHARE))
    with pytest.raises(CommandFailed, match="does not let go"):
        leave(samba)


def test_a_strange_name_is_told_in_one_line(samba: Samba) -> None:
    path = samba.path(SHARE) / ("a\nb\x1b[31m" + "c" * 150)
    path.write_text("")
    samba.serve(path)
    with pytest.raises(InUse) as caught:
        leave(samba)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_samba_that_does_not_answer(samba: Samba) -> None:
    (samba.root / "status.json").write_text("[]")
    with pytest.raises(CommandFailed, match="who is connected"):
        part(samba.host, SHARE)


def test_nobody_passes_the_gate_meanwhile(samba: Samba) -> None:
    try_gate = ["flock", "-n", "-s", samba.host.at(GATE), "true"]
    gate = close_gate(samba.host)
    assert subprocess.run(try_gate, check=False).returncode == 1
    os.close(gate)
    assert subprocess.run(try_gate, check=False).returncode == 0


def test_what_a_killed_call_has_stopped_goes_on(samba: Samba) -> None:
    client = samba.serve(at=samba.path(SHARE))
    client.send_signal(signal.SIGSTOP)
    while state(client) != "T":
        time.sleep(0.01)
    resume(samba.host, SHARE)
    while state(client) == "T":
        time.sleep(0.01)
    assert client.poll() is None
