"""What a guest tells about use: from files as Linux 6.1 writes them, and from file systems of which one hangs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from guest_machines import Machine, Session, document, number, rule, share

from sharewright.guest.document import Document, State, encode_request
from sharewright.guest.program import usage
from sharewright.guest.program.host import Host

OPERATIONS = [0] * 76
OPERATIONS[18], OPERATIONS[25], OPERATIONS[38], OPERATIONS[53] = 2, 7, 11, 40
COUNTERS = f"""\
rc 0 0 60
fh 0 0 0 0 0
io 4096 10485760
th 8 0 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000
ra 32 0 0 0 0 0 0 0 0 0 0 0
net 61 0 61 3
rpc 60 0 0 0 0
proc3 22 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
proc4 2 1 59
proc4ops {len(OPERATIONS)} {" ".join(map(str, OPERATIONS))}
"""
EXPORTS = """\
# Version 1.1
# Path Client Start-time
#\tStats
/shares/share-{one}\t10.0.0.0/24\t1690000000
\tfh_stale: 3
\tio_read: 100
\tio_write: 2000

/shares/share-{one}\t10.9.0.1\t1690000001
\tfh_stale: 0
\tio_read: 11
\tio_write: 0

/shares/share-{two}\t10.0.0.0/24\t1690000002
\tfh_stale: 0
\tio_read: 5
\tio_write: 6

/srv/other\t*\t1690000003
\tfh_stale: 0
\tio_read: 999
\tio_write: 999
"""


def ask(session: Session, value: Document, call: str) -> State:
    answer = session.send(encode_request(call, document=value))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)


def serve_two(machine: Machine, session: Session) -> Document:
    machine.add_disk(1)
    machine.add_disk(2)
    both = document(1, share(1, rule("10.0.0.0/24")), share(2, rule("10.0.0.0/24")))
    ask(session, both, "apply")
    assert len(machine.calls) == 4
    return both


def test_observe_tells_what_is_in_use(machine: Machine, session: Session) -> None:
    both = serve_two(machine, session)
    machine.write("proc/net/rpc/nfsd", COUNTERS)
    machine.write("proc/fs/nfsd/export_stats", EXPORTS.format(one=number(1), two=number(2)))
    for client, status in enumerate(("confirmed", "confirmed", "courtesy", "unconfirmed")):
        info = f'clientid: 0x{client:016x}\naddress: "10.0.0.5:900"\nstatus: {status}\nname: "Linux NFSv4.2 c"\n'
        machine.write(f"proc/fs/nfsd/clients/{client}/info", info)
    state = ask(session, both, "observe")
    one, two = state.shares
    sizes = os.statvfs(machine.root / f"shares/share-{number(1)}")
    assert (one.bytes_total, one.inodes_total) == (sizes.f_blocks * sizes.f_frsize, sizes.f_files)
    assert one.bytes_used is not None
    assert 0 < one.bytes_used < sizes.f_blocks * sizes.f_frsize
    assert one.inodes_used is not None
    assert (one.bytes_read, one.bytes_written) == (111, 2000)
    assert (two.bytes_read, two.bytes_written) == (5, 6)
    assert state.usage is not None
    assert state.usage.nfs_clients == 2
    assert state.usage.nfs_calls == 60
    assert (state.usage.nfs_bytes_read, state.usage.nfs_bytes_written) == (4096, 10485760)
    assert state.usage.nfs_operations == tuple(OPERATIONS)
    assert state.usage.smb_sessions is None
    assert state.changed == ()
    assert machine.calls == [], "no process"


def test_a_server_that_serves_nothing_yet(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    state = ask(session, document(1, share(1)), "observe")
    (one,) = state.shares
    assert (one.mounted, one.bytes_total, one.bytes_used, one.bytes_read) == (False, None, None, 0)
    assert state.usage is not None
    assert (state.usage.nfs_clients, state.usage.nfs_operations) == (0, ())


@pytest.mark.parametrize(
    ("script", "sessions"),
    [('{"sessions": {"1": {}, "2": {}}, "tcons": {}}', 2), ('{"sessions": {}}', 0), ("no JSON", None), ("{}", None)],
)
def test_samba_is_asked_only_while_it_runs(
    machine: Machine, session: Session, script: str, sessions: int | None
) -> None:
    tool = machine.root / "usr/sbin/smbstatus"
    tool.write_text(f"#!/bin/sh\necho \"$0 $*\" >> {machine.root}/asked\ncat <<'END'\n{script}\nEND\n")
    tool.chmod(0o755)
    state = ask(session, document(1), "observe")
    assert state.usage is not None
    assert state.usage.smb_sessions is None
    assert machine.read("asked") == ""
    machine.write("run/samba/smbd.pid", "77\n")
    state = ask(session, document(1), "observe")
    assert state.usage is not None
    assert state.usage.smb_sessions == sessions
    assert [line.partition(" ")[2] for line in machine.read("asked").splitlines()] == ["--json", "--json --profile"]


STATUS = {
    "sessions": {
        "11": {"username": "smb.alice", "remote_machine": "10.0.0.5"},
        "12": {"username": "smb.bob", "remote_machine": "10.0.0.5"},
        "13": {"username": "sharewright", "remote_machine": "10.0.0.6"},
    },
    "tcons": {
        "1": {"service": f"share-{number(1)}", "machine": "10.0.0.5", "session_id": "11"},
        "2": {"service": f"share-{number(1)}", "machine": "10.0.0.5", "session_id": "12"},
        "3": {"service": f"SHARE-{number(2).upper()}", "machine": "10.0.0.6", "session_id": "13"},
        "4": {"service": "IPC$", "machine": "10.0.0.6", "session_id": "13"},
    },
}
# Cut down from what smbstatus of Debian 12 (4.17.12) says.
PROFILE = {
    "SMBD loop": {"connect": {"count": 4}, "request": {"count": 60}},
    "System Calls": {
        "syscall_pread": {"count": 1, "time": 0, "idle": 0, "bytes": 7},
        "syscall_asys_pread": {"count": 1, "time": 0, "idle": 0, "bytes": 4096},
        "syscall_asys_pwrite": {"count": 1, "time": 0, "idle": 0, "bytes": 668},
        "syscall_sendfile": {"count": 1, "time": 0, "idle": 0, "bytes": 100},
        "syscall_stat": {"count": 21, "time": 0},
    },
    "SMB2 Calls": {
        "smb2_read": {"count": 3, "time": 0, "idle": 0, "inbytes": 113, "outbytes": 748},
        "smb2_write": {"count": 2, "time": 0, "idle": 0, "inbytes": 780, "outbytes": 80},
    },
}


def test_what_samba_has_counted(machine: Machine, session: Session) -> None:
    """Clients are machines, however many users they have; what else Samba serves (IPC$) is no share of the document's
    and left to the reader."""
    machine.write("status", json.dumps(STATUS))
    machine.write("profile", json.dumps(PROFILE))
    machine.write("run/samba/smbd.pid", "77\n")
    tool = machine.root / "usr/sbin/smbstatus"
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *--profile) cat {machine.root}/profile ;; *) cat {machine.root}/status ;; esac\n'
    )
    tool.chmod(0o755)
    usage = ask(session, document(1), "observe").usage
    assert usage is not None
    assert (usage.smb_sessions, usage.smb_clients) == (3, 2)
    assert usage.smb_connections == {number(1): 2, number(2): 1, "ipc$": 1}
    assert (usage.smb_bytes_read, usage.smb_bytes_written) == (4203, 668)
    assert usage.smb_operations == {"smb2_read": 3, "smb2_write": 2}


def test_counters_that_cannot_be_read_are_left_out(machine: Machine) -> None:
    host = Host(str(machine.root))
    machine.write("proc/net/rpc/nfsd", "io 1\nrpc\nproc4ops\nnonsense here\n\nio x y z\n")
    assert usage.server(host) == {"nfs_clients": 0, "nfs_operations": []}
    machine.write("proc/fs/nfsd/export_stats", "\tio_read: 5\n/shares/share-x\tany\t1\n\tio_write: 6\n\tio_read\n")
    assert usage.exports(host) == {}


class Hanging:
    """statvfs of which some paths hang until ``free`` is called."""

    def __init__(self, *paths: str) -> None:
        self.paths = set(paths)
        self.asked: list[str] = []
        self._freed = threading.Event()

    def __call__(self, path: str) -> os.statvfs_result:
        self.asked.append(path)
        if path in self.paths:
            self._freed.wait(60)
        return os.statvfs("/")

    def free(self) -> None:
        self.paths.clear()
        self._freed.set()


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[Hanging, list[str]]]:
    paths = [f"{tmp_path}/{name}" for name in "abcde"]
    statvfs = Hanging(paths[1], paths[3])
    yield statvfs, paths
    statvfs.free()


def test_what_hangs_hinders_no_other_and_is_left_alone(hanging: tuple[Hanging, list[str]]) -> None:
    statvfs, paths = hanging
    answers = usage.file_systems(paths, statvfs=statvfs, seconds=0.2)
    assert answers.keys() == {paths[0], paths[2], paths[4]}
    assert usage.file_systems(paths, statvfs=statvfs, seconds=0.2).keys() == answers.keys()
    for path in (paths[1], paths[3]):
        assert statvfs.asked.count(path) == 1, "no thread is added while one still waits"
    statvfs.free()
    end = time.monotonic() + 30
    while usage.file_systems(paths, statvfs=statvfs, seconds=0.2).keys() != set(paths):
        assert time.monotonic() < end


def test_all_together_are_bounded(hanging: tuple[Hanging, list[str]]) -> None:
    statvfs, paths = hanging
    statvfs.paths.update(paths)
    assert usage.file_systems(paths, statvfs=statvfs, seconds=1e6) == {}
    assert statvfs.asked == paths[:1]


def test_a_file_system_that_fails_is_unknown(tmp_path: Path) -> None:
    assert usage.file_systems([str(tmp_path), f"{tmp_path}/missing"]).keys() == {str(tmp_path)}
