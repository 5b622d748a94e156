"""The program serving SMB shares, against tools that behave like Samba's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from guest_machines import Machine, Session, document, firewall, number, rule, share, user_rule
from test_guest_program import apply

from sharewright.guest.document import Document, ShareState

NAME = f"share-{number(1)}"


def smb(*rules: Any, index: int = 1, **fields: Any) -> Any:
    return share(index, *rules, protocol="CIFS", **fields)


def registry(machine: Machine) -> dict[str, str]:
    return {name: "\n".join(lines) for name, lines in json.loads(machine.read("var/lib/samba/registry.tdb")).items()}


def connect(machine: Machine, *clients: tuple[str, str, str], service: str = NAME, **fields: Any) -> None:
    """(process, address, account) of each client that is connected to a share."""
    found = [
        {"id": str(n), "pid": pid, "machine": address, "username": account, "service": service, **fields}
        for n, (pid, address, account) in enumerate(clients)
    ]
    machine.write("smb-clients", json.dumps(found))


def connected(machine: Machine) -> list[str]:
    return [client["machine"] for client in json.loads(machine.read("smb-clients"))]


def one(session: Session, wanted: Document) -> ShareState:
    (state,) = apply(session, wanted).shares
    return state


def programs(machine: Machine) -> list[str]:
    return [" ".join(call.split()[:3]) for call in machine.calls]


def test_a_share_from_nothing_to_gone(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    state = one(session, document(1, smb(rule("10.0.0.5"), rule("10.1.0.0/16"))))
    assert (state.mounted, state.exported, state.error) == (True, True, "")
    assert programs(machine) == ["mount -t ext4", "net conf import", "systemctl start smbd.service", "net conf list"]
    assert "hosts allow = 10.0.0.5/32, 10.1.0.0/16" in registry(machine)[NAME]
    assert "server min protocol = SMB3_11" in registry(machine)["global"]
    assert "x-systemd.before=smbd.service" in machine.read("etc/fstab")
    assert (machine.root / "etc/systemd/system/multi-user.target.wants/smbd.service").is_symlink()
    assert machine.read("etc/exports").count("\n") == 1, "not exported by NFS"

    again = apply(session, document(1, smb(rule("10.0.0.5"), rule("10.1.0.0/16"))))
    assert again.changed == ()
    assert machine.calls == []

    more = one(session, document(2, smb(rule("10.0.0.5"), rule("10.1.0.0/16"), rule("10.2.0.0/16"))))
    assert more.exported
    assert programs(machine) == ["net conf import", "smbcontrol smbd reload-config", "net conf list"]

    gone = apply(session, document(3))
    assert (gone.unmounted, gone.busy) == ((number(1),), {})
    assert registry(machine) == {}
    assert machine.mounted == []
    assert "sharewright" not in machine.read("etc/passwd")
    assert "systemctl stop smbd.service" in machine.calls
    assert not (machine.root / "etc/systemd/system/multi-user.target.wants/smbd.service").is_symlink()
    assert apply(session, document(3)).changed == ()
    assert machine.calls == []


def test_a_server_of_nfs_shares_runs_nothing_of_samba(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    apply(session, document(1, share(1, rule("10.0.0.5"))))
    assert not any(call.split()[0] in ("net", "smbcontrol", "smbstatus") for call in machine.calls)


def test_both_protocols_on_one_server(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    state = apply(session, document(1, smb(rule("10.0.0.5")), share(2, rule("10.0.0.6", "ro"))))
    assert [each.exported for each in state.shares] == [True, True]
    assert number(1) not in machine.read("etc/exports")
    assert set(registry(machine)) == {"global", NAME}


def test_a_denied_client_is_disconnected_and_nobody_else(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    one(session, document(1, smb(rule("10.0.0.5"), rule("10.0.0.6"))))
    connect(machine, ("100", "10.0.0.5", "nobody"), ("101", "10.0.0.6", "nobody"))
    assert machine.calls
    assert one(session, document(2, smb(rule("10.0.0.5")))).exported
    assert connected(machine) == ["10.0.0.5"]
    assert programs(machine) == [
        "net conf import", "smbcontrol smbd reload-config", "smbstatus --json", "kill 101", "smbstatus --json",
        "net conf list",
    ]  # fmt: skip
    assert not (machine.root / "run/sharewright/smb-closing.json").exists()


def test_who_is_denied_one_share_keeps_the_files_of_another(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    others = smb(rule("10.0.0.6"), index=2)
    apply(session, document(1, smb(rule("10.0.0.6")), others))
    connect(machine, ("101", "10.0.0.6", "nobody"))
    open_files = machine.root / "proc/101/fd"
    open_files.mkdir(parents=True)
    machine.write("proc/101/comm", "smbd\n")
    (open_files / "9").symlink_to(machine.root / f"shares/share-{number(2)}/file")
    apply(session, document(2, smb(), others))
    assert connected(machine) == []
    assert [call for call in machine.calls if "101" in call] == [f"smbcontrol 101 close-share {NAME}"]


def test_a_process_that_does_not_let_go_is_ended(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    one(session, document(1, smb(rule("10.0.0.5"), rule("10.0.0.6"))))
    connect(machine, ("101", "10.0.0.6", "nobody"), deaf=True)
    (machine.root / "proc/101/fd").mkdir(parents=True)
    (machine.root / "proc/101/fd/9").symlink_to(machine.root / f"shares/share-{number(2)}/file")
    one(session, document(2, smb(rule("10.0.0.5"))))
    assert connected(machine) == []
    assert "kill 101" in machine.calls


def test_disconnecting_that_was_cut_short_is_made_up_for(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    one(session, document(1, smb(rule("10.0.0.5"), rule("10.0.0.6"))))
    connect(machine, ("101", "10.0.0.6", "nobody"))
    machine.write("fail/smbstatus", "cannot")
    state = one(session, document(2, smb(rule("10.0.0.5"))))
    assert state.error == "export_failed"
    assert "smbstatus" in state.message
    (machine.root / "fail/smbstatus").unlink()
    assert one(session, document(2, smb(rule("10.0.0.5")))).exported
    assert connected(machine) == []


def test_users(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    state = one(session, document(1, smb(user_rule("alice"), user_rule("bobby", "ro"))))
    assert (state.exported, state.rule_errors) == (True, {})
    assert json.loads(machine.read("smb-users")) == {"smb.alice": "key-of-alice", "smb.bobby": "key-of-bobby"}
    assert machine.read("var/lib/sharewright/smb-users.map") == "!smb.alice = alice\n!smb.bobby = bobby\n"
    assert not any("key-of" in call for call in machine.calls), "no password in arguments"
    assert "key-of" not in machine.read("var/lib/sharewright/smb-passwords.json")

    connect(machine, ("100", "10.0.0.5", "smb.alice"), ("101", "10.0.0.6", "smb.bobby"))
    one(session, document(2, smb(user_rule("bobby", "ro"))))
    assert connected(machine) == ["10.0.0.6"]
    assert json.loads(machine.read("smb-users")) == {"smb.bobby": "key-of-bobby"}
    assert "smb.alice" not in machine.read("etc/passwd")

    one(session, document(3, smb(user_rule("bobby"))))
    assert connected(machine) == [], "comes back with the level that it has now"

    one(session, document(4, smb(user_rule("bobby", key="new"))))
    assert json.loads(machine.read("smb-users")) == {"smb.bobby": "new"}


@pytest.mark.parametrize(("tool", "word"), [("net", "net exited"), ("systemctl", "start Samba")])
def test_what_fails_is_said_of_the_share_and_of_no_other(
    machine: Machine, session: Session, tool: str, word: str
) -> None:
    machine.add_disk(1)
    machine.add_disk(2)
    apply(session, document(1, share(2, rule("10.0.0.6"))))
    machine.write(f"fail/{tool}", "cannot")
    state = apply(session, document(2, smb(rule("10.0.0.5")), share(2, rule("10.0.0.6"))))
    assert [each.error for each in state.shares] == ["export_failed", ""]
    assert word in state.shares[0].message
    (machine.root / f"fail/{tool}").unlink()
    assert one(session, document(3, smb(rule("10.0.0.5")))).exported


def test_a_registry_changed_by_others_is_put_right(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    one(session, document(1, smb(rule("10.0.0.5"))))
    machine.write("var/lib/samba/registry.tdb", json.dumps({NAME: ["\tguest ok = yes"], "spy": ["\tpath = /"]}))
    state = apply(session, document(1, smb(rule("10.0.0.5"))), "observe")
    assert state.changed
    assert not state.shares[0].exported
    assert one(session, document(1, smb(rule("10.0.0.5")))).exported
    assert set(registry(machine)) == {"global", NAME}


def test_the_port_is_opened_with_the_document(machine: Machine, session: Session) -> None:
    machine.add_nic("eth0", "52:54:00:00:00:01")
    machine.add_nic("eth1", "52:54:00:00:00:02")
    machine.add_disk(1)
    wanted = firewall()
    apply(session, document(1, smb(rule("10.0.0.5")), firewall=wanted))
    assert "445" not in machine.read("nft")
    opened = msgspec.structs.replace(wanted, client_ports=(2049, 445))
    apply(session, document(2, smb(rule("10.0.0.5")), firewall=opened))
    assert 'iifname { "eth1" } tcp dport { 2049, 445 } accept' in machine.read("nft")
