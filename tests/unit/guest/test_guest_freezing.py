"""A share's file system stands still, and thaws whatever happens."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guest_machines import Machine, Session, document, number, rule, share

from sharewright.guest.document import encode_request
from sharewright.guest.program.freezing import FROZEN, INSISTENCE_SECONDS

TOKEN = "70ce4000-0000-4000-8000-000000000001"
OTHER = "70ce4000-0000-4000-8000-000000000002"


@pytest.fixture
def served(machine: Machine, session: Session) -> Session:
    """Shares 1 and 2 are mounted."""
    for index in (1, 2):
        machine.add_disk(index)
    answer = session.send(
        encode_request("apply", document=document(1, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.6"))))
    )
    assert [each["error"] for each in answer["state"]["shares"]] == ["", ""]
    return session


def freeze(session: Session, *indexes: int, token: str = TOKEN, seconds: float = 60.0) -> dict[str, Any]:
    shares = [number(index) for index in indexes or (1,)]
    return session.send(encode_request("freeze", share_ids=shares, token=token, seconds=seconds))


def thaw(session: Session, token: str = TOKEN) -> dict[str, Any]:
    return session.send(encode_request("thaw", token=token))


def paths(*indexes: int) -> list[str]:
    return [f"/shares/share-{number(index)}" for index in indexes]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_from_freeze_to_thaw(machine: Machine, served: Session) -> None:
    assert machine.calls
    assert freeze(served) == {"ok": True}
    path = f"/shares/share-{number(1)}"
    assert machine.frozen == [path]
    # What can be written before is written before.
    assert machine.calls == [f"sync -f {path}", f"sync -f {path}", f"fsfreeze --freeze {path}"]
    answer = thaw(served)
    assert (answer["ok"], answer["held"], answer["seconds"] > 0) == (True, True, True)
    assert machine.frozen == []
    assert thaw(served)["held"] is False
    assert freeze(served, token=OTHER)["ok"]
    assert thaw(served, token=OTHER)["held"] is True


def test_the_same_again_and_another_meanwhile(machine: Machine, served: Session) -> None:
    assert freeze(served)["ok"]
    assert freeze(served)["ok"]  # an answer was lost
    refused = freeze(served, 2, token=OTHER)
    assert (refused["ok"], refused["error"]) == (False, "busy")
    assert number(1) in refused["message"]
    assert thaw(served, OTHER)["held"] is False
    assert len(machine.frozen) == 1
    assert thaw(served)["held"] is True


def test_the_dead_man_thaws_when_nobody_does(machine: Machine, served: Session) -> None:
    """The controller, its connection and ``serve`` are gone."""
    assert freeze(served, seconds=1.0)["ok"]
    served.process.send_signal(signal.SIGKILL)
    served.process.wait(10)
    until(lambda: machine.frozen == [])
    again = Session(machine)
    try:
        assert thaw(again)["held"] is False
        assert freeze(again, token=OTHER)["ok"]
        assert thaw(again, token=OTHER)["held"] is True
    finally:
        again.close()


def test_the_dead_man_of_an_ended_freeze_lets_the_next_one_be(machine: Machine, served: Session) -> None:
    assert freeze(served, seconds=1.0)["ok"]
    until(lambda: len(dead_men(machine)) == 1)
    assert thaw(served)["held"] is True
    assert freeze(served, token=OTHER)["ok"]
    until(lambda: len(dead_men(machine)) == 1)  # the first has gone
    assert machine.frozen != []
    assert thaw(served, token=OTHER)["held"] is True
    until(lambda: dead_men(machine) == [])


def test_the_connection_ends_although_the_dead_man_lives(machine: Machine, served: Session) -> None:
    assert freeze(served, seconds=60.0)["ok"]
    assert served.process.stdin is not None
    assert served.process.stdout is not None
    served.process.stdin.close()
    assert served.process.stdout.read() == b""  # nobody else holds the pipe
    again = Session(machine)
    try:
        assert thaw(again)["held"] is True  # by another connection
    finally:
        again.close()


@pytest.mark.parametrize("sure", [False, True])
def test_what_nobody_ended_hinders_no_other_for_ever(machine: Machine, served: Session, sure: bool) -> None:
    """Its dead man has given up on a freeze that may never have been one, or was killed."""
    until = time.monotonic() - INSISTENCE_SECONDS - 1.0
    old = {"token": TOKEN, "share_ids": [number(2)], "begun": until - 20.0, "until": until, "sure": sure}
    machine.write(FROZEN.lstrip("/"), json.dumps(old))
    machine.write("frozen", f"/shares/share-{number(2)}\n" if sure else "")
    assert freeze(served, token=OTHER)["ok"]
    assert machine.frozen == [f"/shares/share-{number(1)}"]
    assert thaw(served, token=OTHER)["held"] is True


def test_another_hand_that_thaws_is_noticed(machine: Machine, served: Session) -> None:
    assert freeze(served)["ok"]
    machine.write("frozen", "")
    assert thaw(served)["held"] is False
    assert freeze(served, token=OTHER)["ok"]
    assert thaw(served, token=OTHER)["held"] is True


def test_what_is_not_mounted_is_not_frozen(machine: Machine, served: Session) -> None:
    refused = freeze(served, 3)
    assert (refused["error"], "not mounted" in refused["message"]) == ("failed", True)
    assert machine.frozen == []


def test_a_file_system_that_refuses(machine: Machine, served: Session) -> None:
    machine.write("fail/fsfreeze", "fsfreeze: freeze failed: Operation not supported")
    refused = freeze(served)
    assert (refused["error"], "not supported" in refused["message"]) == ("failed", True)
    (machine.root / "fail/fsfreeze").unlink()
    assert freeze(served, token=OTHER)["ok"]
    assert thaw(served, token=OTHER)["held"] is True


def test_one_with_much_to_write_is_busy(machine: Machine, served: Session) -> None:
    machine.write("fail/sync", "sync: error syncing: Input/output error")
    assert freeze(served)["error"] == "busy"
    assert machine.frozen == []


@pytest.mark.parametrize(
    "fields",
    [
        {"share_ids": ["../etc"], "token": TOKEN, "seconds": 1.0},
        {"share_ids": number(1), "token": TOKEN, "seconds": 1.0},
        {"share_ids": [], "token": TOKEN, "seconds": 1.0},
        {"share_ids": [number(1), number(1)], "token": TOKEN, "seconds": 1.0},
        {"share_ids": [number(1)], "token": "x", "seconds": 1.0},
        {"share_ids": [number(1)], "token": TOKEN, "seconds": 0},
        {"share_ids": [number(1)], "token": TOKEN, "seconds": 301},
        {"share_ids": [number(1)], "token": TOKEN, "seconds": True},
        {"share_ids": [number(1)], "token": TOKEN, "seconds": 1.0, "odd": 1},
        {"share_ids": [number(1)], "token": TOKEN},
        {"token": TOKEN, "seconds": 1.0},
    ],
)
def test_bad_requests_are_refused(machine: Machine, served: Session, fields: dict[str, Any]) -> None:
    assert served.send(encode_request("freeze", **fields))["error"] == "invalid"
    assert machine.frozen == []


def test_a_share_is_thawed_before_it_is_unmounted(machine: Machine, served: Session) -> None:
    assert freeze(served)["ok"]
    answer = served.send(encode_request("apply", document=document(2, share(2, rule("10.0.0.6"), create=False))))
    assert answer["state"]["unmounted"] == [number(1)]
    assert machine.frozen == []
    assert thaw(served)["held"] is False


class TestSeveralShares:
    def test_stand_still_together(self, machine: Machine, served: Session) -> None:
        assert machine.calls
        assert freeze(served, 1, 2) == {"ok": True}
        assert sorted(machine.frozen) == sorted(paths(1, 2))
        first, second = paths(1, 2)
        calls = machine.calls
        assert sorted(calls[:2]) == sorted(calls[2:4]) == sorted([f"sync -f {first}", f"sync -f {second}"])
        assert sorted(calls[4:]) == sorted([f"fsfreeze --freeze {first}", f"fsfreeze --freeze {second}"])
        until(lambda: len(dead_men(machine)) == 1)  # one for all of them
        answer = thaw(served)
        assert (answer["held"], machine.frozen) == (True, [])

    def test_none_is_frozen_when_one_cannot_be(self, machine: Machine, served: Session) -> None:
        machine.write("frozen", paths(2)[0] + "\n")  # by another hand: fsfreeze refuses it
        refused = freeze(served, 1, 2)
        assert (refused["error"], "resource busy" in refused["message"]) == ("failed", True)
        assert machine.frozen == paths(2)
        machine.write("frozen", "")
        assert thaw(served)["held"] is False
        assert freeze(served, 1, 2, token=OTHER)["ok"]
        assert thaw(served, OTHER)["held"] is True

    def test_none_is_frozen_when_one_is_not_mounted(self, machine: Machine, served: Session) -> None:
        refused = freeze(served, 1, 3)
        assert (refused["error"], number(3) in refused["message"]) == ("failed", True)
        assert machine.frozen == []

    def test_the_dead_man_thaws_all(self, machine: Machine, served: Session) -> None:
        assert freeze(served, 1, 2, seconds=1.0)["ok"]
        served.process.send_signal(signal.SIGKILL)
        served.process.wait(10)
        until(lambda: machine.frozen == [])
        again = Session(machine)
        try:
            assert thaw(again)["held"] is False
        finally:
            again.close()

    @pytest.mark.parametrize("index", [1, 2])
    def test_it_has_not_held_when_one_was_thawed(self, machine: Machine, served: Session, index: int) -> None:
        assert freeze(served, 1, 2)["ok"]
        machine.write("frozen", paths(index)[0] + "\n")  # the other one was thawed by another hand
        assert thaw(served)["held"] is False
        assert machine.frozen == []
        assert freeze(served, 1, 2, token=OTHER)["ok"]
        assert thaw(served, OTHER)["held"] is True

    def test_unmounting_one_ends_the_freeze_of_all(self, machine: Machine, served: Session) -> None:
        assert freeze(served, 1, 2)["ok"]
        answer = served.send(encode_request("apply", document=document(2, share(2, rule("10.0.0.6"), create=False))))
        assert answer["state"]["unmounted"] == [number(1)]
        assert machine.frozen == []
        assert thaw(served)["held"] is False

    def test_what_hangs_is_left_to_the_dead_man_and_the_rest_goes_on(self, machine: Machine, served: Session) -> None:
        machine.write(f"slow/share-{number(2)}", "")
        refused = freeze(served, 1, 2, seconds=1.0)
        assert (refused["ok"], "did not end" in refused["message"]) == (False, True)
        assert machine.frozen == []
        assert freeze(served, token=OTHER)["error"] == "busy"  # as it may freeze yet
        machine.write("frozen", paths(2)[0] + "\n")  # and does
        until(lambda: machine.frozen == [])
        until(lambda: not (machine.root / FROZEN.lstrip("/")).exists())
        assert freeze(served, token=OTHER)["ok"]
        assert thaw(served, OTHER)["held"] is True

    def test_one_that_an_older_program_began(self, machine: Machine, served: Session) -> None:
        now = time.monotonic()
        old = {"token": TOKEN, "share_id": number(2), "begun": now, "until": now + 60.0, "sure": True}
        machine.write(FROZEN.lstrip("/"), json.dumps(old))
        machine.write("frozen", paths(2)[0] + "\n")
        assert freeze(served, token=OTHER)["error"] == "busy"
        assert thaw(served)["held"] is True
        assert machine.frozen == []


def test_flushing_writes_and_freezes_nothing(machine: Machine, served: Session) -> None:
    assert machine.calls
    shares = [number(1), number(2)]
    assert served.send(encode_request("flush", share_ids=shares)) == {"ok": True}
    assert sorted(machine.calls) == sorted([f"sync -f {path}" for path in paths(1, 2)] * 2)
    assert served.send(encode_request("flush", share_ids=[number(3)]))["error"] == "failed"
    assert served.send(encode_request("flush", share_ids=["x"]))["error"] == "invalid"


def dead_men(machine: Machine) -> list[int]:
    """Processes of this scratch root's program in sessions of their own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(machine.program).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return [pid for pid in found if os.getsid(pid) != os.getsid(0)]
