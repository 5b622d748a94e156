"""A driver's extension of the guest program, in the packed program: that of examples/rsync_driver."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest_machines import Machine, Session, document, number, rule, share
from guest_sshd import Sshd

from rsync_driver import RSYNC, guest
from sharewright.guest.channel import SshChannels
from sharewright.guest.document import Filesystem, Share, encode_request
from sharewright.guest.package import build_program, program_identity
from sharewright.guest.program.host import Host

EXTENSION = RSYNC.guest_extension
assert EXTENSION is not None
SHARE = Share(number(1), share(1).serial, Filesystem("ext4", share(1).filesystem.uuid, create=True), "NONE")


def section(*hosts: str) -> dict[str, Any]:
    return {"modules": [{"share": number(1), "hosts": list(hosts)}]}


@pytest.fixture
def extended(machine: Machine) -> Iterator[Session]:
    machine.program.write_bytes(build_program(EXTENSION))
    running = Session(machine)
    yield running
    running.process.kill()
    running.close()


def send(session: Session, generation: int, part: Any, *shares: Share, call: str = "apply") -> dict[str, Any]:
    answer = session.send(encode_request(call, document=document(generation, *shares, extension=part)))
    assert answer["ok"], answer
    state: dict[str, Any] = answer["state"]
    return state


def test_the_extension_is_part_of_the_programs_identity(extended: Session) -> None:
    assert extended.send(encode_request("hello"))["program"] == program_identity(EXTENSION) != program_identity()


def test_a_share_is_mounted_and_served_by_the_extension(machine: Machine, extended: Session) -> None:
    machine.add_disk(1)
    state = send(extended, 1, section("10.0.0.5", "10.1.0.0/16"), SHARE)
    assert (state["shares"][0]["mounted"], state["shares"][0]["exported"]) == (True, False)
    assert state["extension"] == {"errors": {}}
    assert {"write rsyncd.conf", "start the rsync daemon"} <= set(state["changed"])
    text = machine.read("etc/rsyncd.conf")
    assert f"[share-{number(1)}]\npath = /shares/share-{number(1)}/files\n" in text
    assert "hosts allow = 10.0.0.5/32 10.1.0.0/16\n" in text
    assert "systemctl start rsync-shares.service" in machine.calls
    directory = machine.root / f"shares/share-{number(1)}/files"
    assert (directory.stat().st_uid, directory.stat().st_mode & 0o777) == (guest.NOBODY, 0o755)


def test_a_second_run_changes_nothing_and_drift_is_seen(machine: Machine, extended: Session) -> None:
    machine.add_disk(1)
    send(extended, 1, section("10.0.0.5"), SHARE)
    machine.write(guest.PROCESSES.lstrip("/"), "77\n")
    assert send(extended, 1, section("10.0.0.5"), SHARE)["changed"] == []
    assert send(extended, 1, section("10.0.0.5"), SHARE, call="observe")["changed"] == []
    machine.write("etc/rsyncd.conf", "somebody was here\n")
    assert send(extended, 1, section("10.0.0.5"), SHARE, call="observe")["changed"] == ["write rsyncd.conf"]
    assert machine.read("etc/rsyncd.conf") == "somebody was here\n"


def test_without_a_host_a_module_is_not_served(machine: Machine, extended: Session) -> None:
    machine.add_disk(1)
    assert send(extended, 1, section(), SHARE)["extension"] == {"errors": {}}
    assert "[share-" not in machine.read("etc/rsyncd.conf")


def test_what_is_not_mounted_is_not_served(machine: Machine, extended: Session) -> None:
    state = send(extended, 1, section("10.0.0.5"), SHARE)
    assert state["shares"][0]["error"] == "device_missing"
    assert list(state["extension"]["errors"]) == [number(1)]
    assert "[share-" not in machine.read("etc/rsyncd.conf")


def test_a_document_without_its_part_leaves_the_extension_alone(machine: Machine, extended: Session) -> None:
    machine.add_disk(1)
    send(extended, 1, section("10.0.0.5"), SHARE)
    before = machine.read("etc/rsyncd.conf")
    assert send(extended, 2, None, SHARE)["extension"] == {}
    assert machine.read("etc/rsyncd.conf") == before


def test_transfers_of_who_may_no_longer_end(machine: Machine, extended: Session) -> None:
    """A process whose root is the share's directory ends with a rule of that share, and with no other's."""
    machine.add_disk(1)
    send(extended, 1, section("10.0.0.5", "10.0.0.6"), SHARE)
    with subprocess.Popen(["sleep", "1000"]) as transfer:
        process = machine.root / f"proc/{transfer.pid}"
        process.mkdir()
        (process / "root").symlink_to(f"{machine.root}/shares/share-{number(1)}/files")
        try:
            send(extended, 2, section("10.0.0.5", "10.0.0.6", "10.0.0.7"), SHARE)
            assert transfer.poll() is None
            state = send(extended, 3, section("10.0.0.5"), SHARE)
            assert f"end the transfers of share {number(1)}" in state["changed"]
            assert transfer.wait(60) == -9
        finally:
            transfer.kill()


def test_a_crash_before_the_transfers_ended_is_made_good(machine: Machine, extended: Session) -> None:
    machine.add_disk(1)
    send(extended, 1, section("10.0.0.5"), SHARE)
    machine.write("etc/rsyncd.conf", guest.configuration({}))  # as an apply that died there leaves it
    with subprocess.Popen(["sleep", "1000"]) as transfer:
        (machine.root / f"proc/{transfer.pid}").mkdir()
        (machine.root / f"proc/{transfer.pid}/root").symlink_to(guest.directory(number(1)))
        try:
            send(extended, 2, section(), SHARE)
            assert transfer.wait(60) == -9
        finally:
            transfer.kill()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ([], "modules"),
        ({"modules": [{"share": "x"}]}, "share and hosts"),
        ({"modules": [{"share": "../etc", "hosts": []}]}, "not the id"),
        ({"modules": [{"share": number(1), "hosts": ["10.0.0.5]\npath = /"]}]}, "does not appear"),
        ({"modules": [{"share": number(1), "hosts": [5]}]}, "not a list of addresses"),
        ({"modules": [{"share": number(1), "hosts": []}, {"share": number(1), "hosts": []}]}, "there twice"),
    ],
)
def test_what_the_extension_refuses_is_not_done(machine: Machine, extended: Session, part: Any, message: str) -> None:
    machine.add_disk(1)
    answer = extended.send(encode_request("apply", document=document(1, SHARE, extension=part)))
    assert (answer["ok"], answer["error"]) == (False, "invalid")
    assert message in answer["message"]
    assert machine.mounted == []


def test_our_own_program_has_no_extension(session: Session) -> None:
    answer = session.send(encode_request("apply", document=document(1, extension={})))
    assert (answer["error"], "no extension" in answer["message"]) == ("invalid", True)


def test_a_share_that_is_only_mounted_has_no_rules(session: Session) -> None:
    wrong = Share(SHARE.id, SHARE.serial, SHARE.filesystem, "NONE", (rule("10.0.0.5"),))
    answer = session.send(encode_request("apply", document=document(1, wrong)))
    assert (answer["error"], "cannot have rules" in answer["message"]) == ("invalid", True)


def test_the_channel_brings_the_drivers_program(tmp_path: Path, machine: Machine) -> None:
    """What the image has is our own program; the first contact replaces it."""
    sshd = Sshd(tmp_path / "sshd", machine).start()
    channels = SshChannels(extension=EXTENSION)
    try:
        machine.add_disk(1)
        state = channels.apply(
            sshd.address(document(1).server_id), document(1, SHARE, extension=section("::1")), timeout=30
        )
        assert (state.program, state.extension) == (program_identity(EXTENSION), {"errors": {}})
        assert machine.program.read_bytes() == build_program(EXTENSION)
    finally:
        channels.close()
        sshd.stop()


def test_observing_needs_no_process(machine: Machine) -> None:
    guest.observe(Host(str(machine.root)), {number(1): ["10.0.0.0/8"]}, {number(1): "/shares/x"})
    assert machine.calls == []
