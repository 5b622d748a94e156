"""The packed program as a process: its protocol, and what it does to a machine (a scratch root with real files)."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guest_machines import (
    BOOT_ID,
    CLIENT_MAC,
    MANAGEMENT_MAC,
    MIB,
    Machine,
    Session,
    apply,
    document,
    firewall,
    number,
    rule,
    share,
)

from sharewright.guest.document import State, encode_request
from sharewright.guest.package import build_program, program_identity, program_sha256
from sharewright.guest.program import acting
from sharewright.guest.program.desired import parse_document
from sharewright.guest.program.host import CommandFailed, Host
from sharewright.guest.program.unmounting import unmount


def refusal(session: Session, **request: Any) -> tuple[str, str]:
    answer = session.send(json.dumps(request).encode() + b"\n")
    assert answer["ok"] is False
    return answer["error"], answer["message"]


def test_hello(session: Session) -> None:
    assert session.send(encode_request("hello")) == {
        "ok": True,
        "program": program_identity(),
        "boot_id": BOOT_ID,
        "generation": -1,
        "server_id": "",
    }


def test_version_and_usage(machine: Machine) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(machine.program), *arguments], env=machine.environment, capture_output=True, text=True
        )

    assert run("version").stdout == program_identity() + "\n"
    assert run().returncode == 2
    assert run("mount", "everything").returncode == 2


def test_a_share_from_nothing_to_gone(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    state = apply(session, document(1, share(1, rule("10.0.0.5"), rule("10.0.0.0/24", "ro"))))
    (one,) = state.shares
    assert (one.mounted, one.exported, one.formatted, one.error) == (True, True, True, "")
    assert one.bytes_total > 0
    assert (state.generation, state.boot_id, state.program) == (1, BOOT_ID, program_identity())
    assert machine.mounted == [f"/shares/share-{number(1)}"]
    assert (machine.root / f"shares/share-{number(1)}").stat().st_mode & 0o777 == 0o777
    assert f"UUID={number(0xF501)} /shares/share-{number(1)} ext4 rw,nosuid,nodev,noatime" in machine.read("etc/fstab")
    assert "/dev/vda1 / ext4 rw 0 1" in machine.read("etc/fstab")
    assert "10.0.0.5(rw) 10.0.0.0/24(ro)" in machine.read("etc/exports")
    assert [call.split()[0] for call in machine.calls] == ["mount", "systemctl", "exportfs"]

    again = apply(session, document(1, share(1, rule("10.0.0.5"), rule("10.0.0.0/24", "ro"))))
    assert again.changed == ()
    assert machine.calls == []

    more = apply(session, document(2, share(1, rule("10.0.0.5"), rule("10.0.0.0/24", "ro"), rule("10.1.0.0/16"))))
    assert more.shares[0].exported
    assert machine.calls == ["exportfs -ra"], "one process per rule change"

    gone = apply(session, document(3))
    assert (gone.unmounted, gone.busy, gone.shares) == ((number(1),), {}, ())
    assert machine.mounted == []
    assert machine.calls == ["exportfs -ra", "exportfs -f", f"umount /shares/share-{number(1)}"]
    assert number(1) not in machine.read("etc/fstab") + machine.read("etc/exports") + machine.read("var/lib/nfs/etab")
    assert not (machine.root / f"shares/share-{number(1)}").exists()
    assert apply(session, document(3)).changed == ()

    back = apply(session, document(4, share(1, create=False)))
    assert (back.shares[0].mounted, back.shares[0].formatted, back.shares[0].exported) == (True, False, False)


def test_observe_changes_nothing(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    state = apply(session, document(5, share(1, rule("10.0.0.5"))), "observe")
    assert (state.generation, state.shares[0].mounted, state.shares[0].error) == (-1, False, "")
    assert any("format" in words for words in state.changed)
    assert machine.calls == []
    assert machine.mounted == []
    apply(session, document(6, share(1, rule("10.0.0.5"))))
    state = apply(session, document(6, share(1, rule("10.0.0.5"))), "observe")
    assert (state.generation, state.changed, state.shares[0].exported) == (6, (), True)


def test_one_bad_share_hinders_no_other(machine: Machine, session: Session) -> None:
    for index in (1, 2, 3):
        machine.add_disk(index)
    with (machine.root / "dev/sdc").open("r+b") as file:
        file.seek(5000)
        file.write(b"somebody's")
    machine.add_disk(4, size=MIB)
    state = apply(session, document(1, *(share(index, rule("10.0.0.5")) for index in (1, 2, 3, 4, 5))))
    errors = {each.id: each.error for each in state.shares}
    assert errors == {
        number(1): "",
        number(2): "not_blank",
        number(3): "",
        number(4): "not_blank",
        number(5): "device_missing",
    }
    assert [each.id for each in state.shares if each.exported] == [number(1), number(3)]
    assert b"somebody's" in (machine.root / "dev/sdc").read_bytes()
    assert number(2) not in machine.read("etc/fstab") + machine.read("etc/exports")


def test_a_tool_that_fails_is_the_shares_error(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("fail/mount", "no such luck")
    state = apply(session, document(1, share(1, rule("10.0.0.5"))))
    assert (state.shares[0].error, state.shares[0].mounted) == ("mount_failed", False)
    assert "no such luck" in state.shares[0].message
    (machine.root / "fail/mount").unlink()
    machine.write("fail/exportfs", "no exports today")
    state = apply(session, document(1, share(1, rule("10.0.0.5"))))
    assert (state.shares[0].error, state.shares[0].mounted, state.shares[0].exported) == ("export_failed", True, False)
    assert "no exports today" in state.shares[0].message
    (machine.root / "fail/exportfs").unlink()
    state = apply(session, document(1, share(1, rule("10.0.0.5"))))
    assert (state.shares[0].error, state.shares[0].exported) == ("", True)
    assert (machine.root / f"shares/share-{number(1)}").stat().st_mode & 0o777 == 0o777


def test_the_roots_mode_is_the_tenants_afterwards(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1)))
    place = machine.root / f"shares/share-{number(1)}"
    place.chmod(0o750)
    apply(session, document(2, share(1, rule("10.0.0.5"))))
    assert place.stat().st_mode & 0o777 == 0o750


def test_an_interrupted_format_is_taken_up_again(machine: Machine, session: Session) -> None:
    device = machine.add_disk(1)
    with device.open("r+b") as file:
        file.seek(4096)
        file.write(b"half a file system")
    assert apply(session, document(1, share(1))).shares[0].error == "not_blank"
    mark = {"serial": share(1).serial, "uuid": share(1).filesystem.uuid}
    machine.write(f"var/lib/sharewright/formatting/{number(1)}.json", json.dumps(mark))
    assert apply(session, document(1, share(1))).shares[0].formatted
    assert not (machine.root / f"var/lib/sharewright/formatting/{number(1)}.json").exists()


def test_a_thousand_rules_are_one_call_of_exportfs(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    machine.calls  # noqa: B018 - forgets them
    many = [rule(f"10.1.{number // 250}.{number % 250 + 1}") for number in range(998)]
    many += [rule("10.1.0.0/16", "ro"), rule("nonsense")]
    (state,) = apply(session, document(2, share(1, *many))).shares
    assert (state.exported, list(state.rule_errors)) == (True, ["nonsense-rw"])
    assert [call for call in machine.calls if call.startswith("exportfs")] == ["exportfs -ra"]
    assert apply(session, document(3, share(1, *many))).changed == ()
    assert machine.calls == []


def test_a_busy_share_is_reported_and_unmounted_later(
    machine: Machine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    apply(session, document(1, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.5"))))
    machine.write(f"busy/share-{number(1)}", "")
    machine.write("proc/fs/nfsd/unlock_filesystem", "")
    machine.write("proc/fs/nfsd/clients/4/states", '- 0x1: { type: open, superblock: "08:10:12", filename: "a" }\n')
    machine.write("proc/fs/nfsd/clients/4/ctl", "")
    machine.write("proc/fs/nfsd/clients/5/states", '- 0x1: { type: open, superblock: "08:20:12", filename: "b" }\n')
    machine.write("proc/fs/nfsd/clients/5/ctl", "")
    monkeypatch.setattr(acting, "UNMOUNT_SECONDS", 1.8)  # instead of 10
    monkeypatch.setenv("SHAREWRIGHT_GUEST_ROOT", str(machine.root))
    wanted = parse_document(msgspec.json.decode(msgspec.json.encode(document(2, share(2, rule("10.0.0.5"))))))
    state = msgspec.convert(acting.apply(Host(str(machine.root)), wanted), State)
    assert "target is busy" in state.busy[number(1)]
    assert state.unmounted == ()
    assert machine.mounted == [f"/shares/share-{number(1)}", f"/shares/share-{number(2)}"]
    assert number(1) not in machine.read("etc/exports"), "nobody gets at it any more"
    assert machine.read("proc/fs/nfsd/unlock_filesystem") == f"/shares/share-{number(1)}"
    assert machine.read("proc/fs/nfsd/clients/4/ctl") == "expire\n"
    assert machine.read("proc/fs/nfsd/clients/5/ctl") == "", "another share's client is left alone"
    (machine.root / f"busy/share-{number(1)}").unlink()
    assert apply(session, document(2, share(2, rule("10.0.0.5")))).unmounted == (number(1),)


def test_what_only_nfsd_holds_is_freed_by_starting_it_anew(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    machine.write(f"busy/share-{number(1)}", "nfsd")
    host = Host(str(machine.root))
    unmount(host, number(1), seconds=0.1)
    assert machine.mounted == []
    assert "systemctl restart nfs-server.service" in machine.calls


def test_the_nfs_server_is_started_anew_once_for_a_share(machine: Machine, session: Session) -> None:
    """It costs all clients of the server a grace period, and what it does not free once it never will."""
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    machine.write(f"busy/share-{number(1)}", "")
    host = Host(str(machine.root))
    machine.calls  # noqa: B018 - forgets them
    for restarts in (1, 0):
        with pytest.raises(CommandFailed, match="a reboot of the server will"):
            unmount(host, number(1), seconds=0.1)
        assert sum(call.startswith("systemctl restart") for call in machine.calls) == restarts
    (machine.root / f"busy/share-{number(1)}").unlink()
    unmount(host, number(1), seconds=0.1)
    assert machine.mounted == []
    assert not (machine.root / f"run/sharewright/nfs-restarted/{number(1)}").exists()


def test_a_pulled_disk_and_its_return(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    wanted = document(1, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.5")))
    apply(session, wanted)
    machine.hide_disk(1)
    state = apply(session, wanted)
    assert [each.error for each in state.shares] == ["device_missing", ""]
    assert [each.mounted for each in state.shares] == [False, True]
    machine.show_disk("sdf", "8:80", share(1).serial)
    (machine.root / "dev/sdb").rename(machine.root / "dev/sdf")
    state = apply(session, wanted)
    assert [(each.error, each.mounted, each.exported, each.formatted) for each in state.shares] == [
        ("", True, True, False),
        ("", True, True, False),
    ]


def test_generations(machine: Machine, session: Session) -> None:
    apply(session, document(5))
    assert session.send(encode_request("hello"))["generation"] == 5
    assert refusal(session, call="apply", document=msgspec.to_builtins(document(4)))[0] == "stale"
    assert refusal(session, call="observe", document=msgspec.to_builtins(document(4)))[0] == "stale"
    apply(session, document(5))
    other = msgspec.structs.replace(document(6), server_id=number(9))
    assert refusal(session, call="apply", document=msgspec.to_builtins(other))[0] == "invalid"
    assert json.loads(machine.read("var/lib/sharewright/generation.json"))["generation"] == 5


def test_a_lower_generation_changes_nothing(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(5, share(1, rule("10.0.0.5"))))
    machine.calls  # noqa: B018 - forgets them
    assert refusal(session, call="apply", document=msgspec.to_builtins(document(4)))[0] == "stale"
    assert machine.calls == []
    assert len(machine.mounted) == 1


def test_firewall(machine: Machine, session: Session) -> None:
    machine.add_nic("eth0", MANAGEMENT_MAC)
    machine.add_nic("eth1", CLIENT_MAC)
    state = apply(session, document(1, firewall=firewall("10.0.0.0/24")))
    assert "load the firewall" in state.changed
    assert 'iifname { "eth1" } ip saddr { 10.0.0.0/24 } tcp dport { 2049 } accept' in machine.read("nft")
    assert machine.read("proc/sys/net/ipv4/ip_forward").strip() == "0"
    assert json.loads(machine.read("var/lib/sharewright/firewall.json"))["firewall"]["client_from"] == ["10.0.0.0/24"]
    machine.write("fail/nft", "syntax error")
    error, message = refusal(
        session, call="apply", document=msgspec.to_builtins(document(2, firewall=firewall("10.9.0.0/24")))
    )
    assert (error, "syntax error" in message) == ("failed", True)


def test_clients_are_admitted_when_their_shares_are_exported(machine: Machine, session: Session) -> None:
    """By the first document; a later one that admits fewer must not wait."""
    machine.add_nic("eth0", MANAGEMENT_MAC)
    machine.add_nic("eth1", CLIENT_MAC)
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5")), firewall=firewall("10.0.0.0/24")))
    called = [call.split()[0] for call in machine.calls]
    assert called.index("exportfs") < called.index("nft")
    apply(session, document(2, share(1, rule("10.0.0.6")), firewall=firewall("10.0.0.6/32")))
    called = [call.split()[0] for call in machine.calls]
    assert called.index("nft") < called.index("exportfs")


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"[]\n", b"{}\n", b'{"call": "format"}\n', b'{"call": "apply"}\n', b"\xff\xfe\n",
     b'{"call": "apply", "document": {"shares": []}}\n', b'{"call": "upgrade"}\n', b"[" * 100_000 + b"\n"],
)  # fmt: skip
def test_bad_requests_leave_the_session_usable(session: Session, line: bytes) -> None:
    answer = session.send(line)
    assert answer["ok"] is False
    assert session.send(encode_request("hello"))["ok"]


def test_the_session_ends_with_its_input(session: Session) -> None:
    assert session.close() == 0


def newer() -> tuple[bytes, str]:
    """The same program with another identity."""
    old = zipfile.ZipFile(BytesIO(build_program()))
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in old.namelist():
            if name.endswith("identity.py"):
                archive.writestr(name, 'IDENTITY = "newer"\n')
            elif name.endswith(".py"):
                archive.writestr(name, old.read(name))
    program = f"#!{sys.executable} -IS\n".encode() + buffer.getvalue()
    return program, hashlib.sha256(program).hexdigest()


def test_upgrade_in_place(machine: Machine, session: Session) -> None:
    program, digest = newer()
    before = session.process.pid
    answer = session.send(encode_request("upgrade", program=base64.b64encode(program).decode(), sha256=digest))
    assert answer == {"ok": True}
    assert session.send(encode_request("hello"))["program"] == "newer"
    assert session.process.pid == before
    assert session.process.poll() is None
    assert machine.program.read_bytes() == program
    assert machine.program.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("program", "digest"),
    [(build_program(), "0" * 64), (b"no program", hashlib.sha256(b"no program").hexdigest())],
)
def test_an_upgrade_that_is_not_what_it_says(machine: Machine, session: Session, program: bytes, digest: str) -> None:
    encoded = base64.b64encode(program).decode()
    assert refusal(session, call="upgrade", program=encoded, sha256=digest)[0] == "invalid"
    assert machine.program.read_bytes() == build_program()
    assert session.send(encode_request("hello"))["program"] == program_identity()


def test_two_sessions_apply_one_after_the_other(machine: Machine) -> None:
    machine.add_disk(1)
    sessions = [Session(machine), Session(machine)]
    wanted = document(1, share(1, rule("10.0.0.5")))
    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(lambda each: apply(each, wanted), sessions))
    assert sorted(state.shares[0].formatted for state in states) == [False, True]
    assert all(state.shares[0].exported for state in states)
    for each in sessions:
        each.close()


def test_the_packed_program(tmp_path: Path) -> None:
    """Deterministic, one interpreter line, standard library only, and runs without its compiled code too."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sharewright.guest.package import *; print(program_sha256())"
    )
    source = str(Path(__file__).resolve().parents[3] / "src")
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, source], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {program_sha256()}
    line = build_program().partition(b"\n")[0]
    assert line.startswith(b"#!/usr/bin/env -S /usr/bin/python3 -IS ")
    assert len(line) < 255, "what the kernel reads of it"
    packed = tmp_path / "packed"
    packed.write_bytes(build_program())
    by_name = subprocess.run(["/usr/bin/python3", str(packed), "version"], capture_output=True, text=True)
    assert by_name.stdout == program_identity() + "\n"
    plain = tmp_path / "plain"
    program, _ = newer()
    plain.write_bytes(program)
    plain.chmod(0o755)
    assert subprocess.run([str(plain), "version"], capture_output=True, text=True).stdout == "newer\n"


def test_the_program_imports_nothing_of_ours() -> None:
    folder = Path(__file__).resolve().parents[3] / "src/sharewright/guest/program"
    for path in folder.glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and not words[1].startswith("."):
                name = words[1].split(".")[0].rstrip(",")
                assert name in sys.stdlib_module_names, (path, line)
