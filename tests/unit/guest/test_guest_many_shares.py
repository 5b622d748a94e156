"""A server with many shares: what one more costs does not depend on how many are there, and what is remembered from
call to call is never mistaken for what is there now."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import msgspec
import pytest
from guest_machines import MIB, CountingHost, Machine, Session, document, number, rule, serial, share
from guest_machines import apply as apply_over

from sharewright.guest.document import Share
from sharewright.guest.program.acting import apply
from sharewright.guest.program.desired import parse_document
from sharewright.guest.program.filesystems import read_superblock
from sharewright.guest.program.host import Host, Refusal

CLIENT = rule("10.0.0.0/24")


@pytest.fixture
def host(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> CountingHost:
    for name, value in machine.environment.items():  # for the tools
        monkeypatch.setenv(name, value)
    return CountingHost(str(machine.root))


def send(host: CountingHost, generation: int, *shares: Share) -> Any:
    """One call of a process that goes on, as ``serve`` makes it."""
    plain = json.loads(msgspec.json.encode(document(generation, *shares)))
    return apply(host, parse_document(plain, host.memory))


def new_uuid(machine: Machine, name: str, uuid: str) -> None:
    subprocess.run(["tune2fs", "-f", "-U", uuid, str(machine.root / "dev" / name)], check=True, capture_output=True)


def test_one_more_share_costs_the_same(machine: Machine, host: CountingHost) -> None:
    """Files read, and disks opened, by an apply that makes the 2nd, 10th and 20th share of a server."""
    shares, counts = [], {}
    for index in range(1, 21):
        machine.add_disk(index)
        shares.append(share(index, CLIENT))
        host.reads = 0
        state = send(host, index, *shares)
        assert [each["mounted"] for each in state["shares"]] == [True] * index
        counts[index] = host.reads
    assert counts[2] == counts[10] == counts[20]


def test_another_disk_under_an_old_name_is_told(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    assert apply_over(session, document(1, share(1, CLIENT))).shares[0].mounted
    apply_over(session, document(2))
    machine.hide_disk(1)
    machine.add_disk(1, text=serial(7))
    first, second = apply_over(session, document(3, share(1, CLIENT), share(7, CLIENT))).shares
    assert (first.error, first.mounted) == ("device_missing", False)
    assert (second.error, second.mounted) == ("", True)


def test_a_disk_that_was_unmounted_is_looked_at_again(machine: Machine, session: Session) -> None:
    """Somebody takes a share off and makes it another; what was known of it when it was mounted says nothing now."""
    machine.add_disk(1)
    wanted = msgspec.structs.replace(share(1, CLIENT), filesystem=share(1, create=False).filesystem)
    assert apply_over(session, document(1, share(1, CLIENT))).shares[0].mounted
    subprocess.run([machine.root / "usr/sbin/umount", machine.root / f"shares/share-{number(1)}"],
                   env=machine.environment, check=True)  # fmt: skip
    new_uuid(machine, "sdb", number(0xABC))
    (found,) = apply_over(session, document(2, wanted)).shares
    assert (found.error, found.mounted) == ("filesystem_mismatch", False)


def test_a_grown_disk_is_looked_at_again(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    acted = []
    for generation, size in enumerate((64, 256, 256, 512, 512)):
        machine.grow_disk(1, size * MIB)
        state = apply_over(session, document(generation, share(1, CLIENT, size=size * MIB)))
        assert state.shares[0].error == ""
        acted.append(any(words.startswith("grow") for words in state.changed))
    assert acted == [False, True, False, True, False]
    found = read_superblock(Host(str(machine.root)), "/dev/sdb")
    assert found is not None
    assert found.size == 512 * MIB


def test_what_of_a_share_has_changed_is_read(host: CountingHost) -> None:
    """Its neighbour is not read again; and a wrong value is refused, whatever the one before was."""

    def parse(*rules: Any) -> Any:
        plain = json.loads(msgspec.json.encode(document(1, share(1, *rules), share(2, CLIENT))))
        return parse_document(plain, host.memory).shares

    first, neighbour = parse(CLIENT)
    again, _ = parse(CLIENT)
    assert again is first
    other, same = parse(CLIENT, rule("10.0.1.0/24"))
    assert (len(first.rules), len(other.rules), same) == (1, 2, neighbour)
    with pytest.raises(Refusal, match=r"rule\.access_level"):
        parse(rule("10.0.0.0/24", "rx"))
    assert parse(CLIENT)[0].rules[0].access_level == "rw"
