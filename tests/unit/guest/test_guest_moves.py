"""Documents with a share that moves, as the program in the scratch root answers them.

What it does to real file systems is in test_guest_moving.py.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import msgspec
import pytest
from guest_machines import MIB, Machine, Session, document, number, rule, serial, share

from sharewright.guest.document import Document, Share, ShareState, State, Successor, encode_request
from sharewright.guest.program.desired import parse_document
from sharewright.guest.program.host import Refusal

CLIENT = rule("10.0.0.5")
SUCCESSOR = Successor(
    serial=serial(7), uuid=number(701), copy_uuid=number(702), size=1024 * MIB, step="copy", stall=30.0
)


def moving(step: Any = "copy", *, create: bool = False) -> Share:
    successor = msgspec.structs.replace(SUCCESSOR, step=step)
    return msgspec.structs.replace(share(1, CLIENT, create=create), successor=successor)


def ask(session: Session, call: str, wanted: Document) -> State:
    answer = session.send(encode_request(call, document=wanted))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)


def only(state: State) -> ShareState:
    (found,) = state.shares
    return found


def check_served(state: State) -> ShareState:
    found = only(state)
    assert (found.mounted, found.exported, found.error) == (True, True, "")
    return found


class TestParsing:
    def test_a_share_that_moves(self) -> None:
        sent = msgspec.json.decode(msgspec.json.encode(document(1, moving("switch"), share(2))))
        first, second = parse_document(sent).shares
        assert second.successor is None
        assert first.successor is not None
        assert (first.successor.step, first.successor.stall, first.has_moved) == ("switch", 30.0, False)
        moved = first.moved()
        assert (moved.id, moved.serial, moved.uuid, moved.size) == (first.id, serial(7), number(701), 1024 * MIB)
        assert (moved.has_moved, moved.create, moved.rules) == (True, False, first.rules)

    @pytest.mark.parametrize(
        ("field", "value", "word"),
        [
            ("serial", "--help", "successor.serial"),
            ("serial", serial(2), "unique"),
            ("serial", serial(1), "unique"),
            ("uuid", "x", "successor.uuid"),
            ("copy_uuid", "-U", "successor.copy_uuid"),
            ("size", 0, "successor.size"),
            ("size", True, "successor.size"),
            ("step", "jump", "successor.step"),
            ("stall", 0, "successor.stall"),
            ("stall", 1e9, "successor.stall"),
            ("stall", float("nan"), "successor.stall"),
            ("stall", True, "successor.stall"),
            ("surprise", 1, "surprise"),
        ],
    )
    def test_what_is_refused(self, field: str, value: object, word: str) -> None:
        sent = msgspec.json.decode(msgspec.json.encode(document(1, moving(), share(2))))
        sent["shares"][0]["successor"][field] = value
        with pytest.raises(Refusal, match=word):
            parse_document(sent)

    def test_xfs_does_not_move(self) -> None:
        sent = msgspec.json.decode(msgspec.json.encode(document(1, moving())))
        sent["shares"][0]["filesystem"]["type"] = "xfs"
        with pytest.raises(Refusal, match="only be kept with ext4"):
            parse_document(sent)


def test_the_new_disk_is_missing(machine: Machine, session: Session) -> None:
    machine.add_disk(1, size=1024 * MIB)
    check_served(ask(session, "apply", document(1, share(1, CLIENT))))
    for generation, step in enumerate(("copy", "switch"), start=2):
        found = check_served(ask(session, "apply", document(generation, moving(step))))
        assert (found.move, found.move_message) == ("", "no disk, or several, with the serial of the new one")
    assert check_served(ask(session, "apply", document(4, moving("cancel")))).move == "stopped"


def test_a_vm_that_knows_nothing_waits_for_the_new_disk(machine: Machine, session: Session) -> None:
    """Once a switch may have been made, the old disk alone is not served, unless this VM says that there was none."""
    disk = machine.add_disk(1, size=1024 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-U", number(0xF501), str(disk)], check=True)
    for generation, step in enumerate(("switch", "cancel"), start=1):
        found = only(ask(session, "apply", document(generation, moving(step))))
        assert (found.mounted, found.error) == (False, "device_missing")
        assert serial(7) in found.message
    check_served(ask(session, "apply", document(3, moving("copy"))))


def test_served_from_the_new_disk_once_it_carries_the_identity(machine: Machine, session: Session) -> None:
    for index, uuid in ((1, number(0xF501)), (7, number(701))):
        subprocess.run(["mkfs.ext4", "-q", "-U", uuid, str(machine.add_disk(index, size=1024 * MIB))], check=True)
    for generation, step in enumerate(("copy", "switch", "cancel"), start=1):
        assert check_served(ask(session, "apply", document(generation, moving(step)))).move == "moved"
    assert f"UUID={number(701)} " in machine.read("etc/fstab")
    assert number(0xF501) not in machine.read("etc/fstab")
    assert ask(session, "observe", document(4, moving("cancel"))).changed == ()


def test_a_copy_that_fails_is_reported_and_taken_away(machine: Machine, session: Session) -> None:
    machine.add_disk(1, size=1024 * MIB)
    check_served(ask(session, "apply", document(1, share(1, CLIENT))))
    subprocess.run(["mkfs.ext4", "-q", "-U", number(88), str(machine.add_disk(7, size=1024 * MIB))], check=True)
    wanted = document(2, moving())
    assert "copy share" in str(ask(session, "observe", wanted).changed)
    check_served(ask(session, "apply", wanted))
    end = time.monotonic() + 60
    while (found := only(ask(session, "observe", wanted))).move in ("", "copying"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert found.move == "failed"
    assert number(88) in found.move_message
    assert (machine.root / "run/sharewright/moves").is_dir()
    check_served(ask(session, "apply", document(3, share(1, CLIENT))))
    assert not (machine.root / "run/sharewright/moves").exists()
