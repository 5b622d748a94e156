"""Who loses his NFSv4 state when rules change, and who is left alone."""

from __future__ import annotations

import pytest
from guest_machines import Machine, Session, apply, document, rule, share

from sharewright.guest.document import Rule

# As Linux 6.1 shows them.
ADDRESSES = {
    "host": "10.0.0.5:893",
    "neighbour": "10.0.0.6:709",
    "network": "10.1.7.7:1003",
    "six": "[2001:db8::5]:760",
    "mapped": "[fd00::10.0.0.5]:760",
}


def connect(machine: Machine, *names: str) -> None:
    for name in names or ADDRESSES:
        machine.write(
            f"proc/fs/nfsd/clients/{name}/info",
            f'clientid: 0x1\naddress: "{ADDRESSES[name]}"\nstatus: confirmed\nname: "Linux NFSv4.2 c"\n',
        )
        machine.write(f"proc/fs/nfsd/clients/{name}/ctl", "")


def expired(machine: Machine) -> set[str]:
    return {name for name in ADDRESSES if machine.read(f"proc/fs/nfsd/clients/{name}/ctl") == "expire\n"}


@pytest.mark.parametrize(
    ("first", "second", "gone"),
    [
        ([rule("10.0.0.5")], [], {"host", "neighbour", "network", "six", "mapped"}),
        ([rule("10.0.0.5")], [rule("10.0.0.6")], {"host", "network", "six", "mapped"}),
        ([rule("10.0.0.0/8")], [rule("10.1.0.0/16"), rule("10.0.0.5")], {"neighbour", "six", "mapped"}),
        ([rule("0.0.0.0/0")], [rule("0.0.0.0/0", "ro")], {"six", "mapped"}),
        ([rule("0.0.0.0/0")], [rule("::/0")], {"host", "neighbour", "network"}),
        ([], [rule("2001:db8::/64"), rule("fd00::/8")], {"host", "neighbour", "network"}),
        ([], [rule("0.0.0.0/0"), rule("::/0")], set()),
    ],
)
def test_whoever_no_rule_admits_any_more(
    machine: Machine, session: Session, first: list[Rule], second: list[Rule], gone: set[str]
) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, *first)))
    connect(machine)
    state = apply(session, document(2, share(1, *second)))
    assert expired(machine) == gone
    assert any("end the NFSv4 leases" in words for words in state.changed) == bool(gone)


def test_a_client_of_another_share_is_left_alone(machine: Machine, session: Session) -> None:
    """Its lease is one for all shares: ending it would cost it the locks that it holds there."""
    machine.add_disk(1)
    machine.add_disk(2)
    apply(session, document(1, share(1, rule("10.0.0.0/24")), share(2, rule("10.0.0.6"))))
    connect(machine, "host", "neighbour")
    apply(session, document(2, share(1), share(2, rule("10.0.0.6"))))
    assert expired(machine) == {"host"}


def test_clients_of_a_share_that_goes_do_not_hold_its_unmount(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    connect(machine, "host")
    state = apply(session, document(2))
    assert expired(machine) == {"host"}
    leases = next(index for index, words in enumerate(state.changed) if "NFSv4 leases" in words)
    assert leases < next(index for index, words in enumerate(state.changed) if words.startswith("unmount"))


def test_a_share_that_cannot_be_served_just_now_admits_its_clients_all_the_same(
    machine: Machine, session: Session
) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    apply(session, document(1, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.6"))))
    connect(machine, "host", "neighbour")
    machine.hide_disk(1)
    machine.write("fail/mount", "no")
    apply(session, document(2, share(1, rule("10.0.0.5")), share(2, rule("10.0.0.6")), share(3, rule("10.1.7.7"))))
    assert expired(machine) == set()


def test_nobody_is_expired_while_it_is_unknown_what_is_exported(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    connect(machine, "host")
    machine.write("fail/exportfs", "")
    assert apply(session, document(2, share(1, rule("10.0.0.6")))).shares[0].error == "export_failed"
    assert expired(machine) == set()
    (machine.root / "fail/exportfs").unlink()
    apply(session, document(2, share(1, rule("10.0.0.6"))))
    assert expired(machine) == {"host"}
