"""On a machine of an operator's: what others have there stays, and what cannot stand beside ours is refused at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guest_machines import Machine, Session, apply, document, number, rule, share, user_rule

from sharewright.guest.document import Document, encode_request

OWN = "etc/exports.d/sharewright.exports"
THEIRS = "/srv/data 10.9.0.0/16(rw)\n"
THEIRS_KERNEL = "/srv/data\t10.9.0.0/16(rw)\n"
THEIR_CONF = "[global]\n   workgroup = OFFICE\n   include = registry\n"
STRANGER = number(0xABC)


def borrowed(generation: int, *shares: Any) -> Document:
    return document(generation, *shares, borrowed=True)


def refused(session: Session, wanted: Document, call: str = "apply") -> str:
    answer = session.send(encode_request(call, document=wanted))
    assert answer["ok"] is False
    assert (answer["error"], bool(answer["hint"])) == ("failed", True)
    return str(answer["message"])


def contents(root: Path) -> dict[str, str]:
    """Everything below /etc and what is mounted."""
    files = [path for path in (root / "etc").rglob("*") if path.is_file()]
    return {str(path): path.read_text() for path in [*files, root / "proc/self/mountinfo"]}


def test_our_exports_have_a_file_of_their_own(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("etc/exports", THEIRS)
    machine.write("var/lib/nfs/etab", THEIRS_KERNEL)
    machine.write("etc/exports.d/more.exports", "/srv/more 10.8.0.0/16(ro)\n")
    state = apply(session, borrowed(1, share(1, rule("10.0.0.5"))))
    assert (state.shares[0].mounted, state.shares[0].exported) == (True, True)
    assert machine.read("etc/exports") == THEIRS
    assert "10.0.0.5(rw)" in machine.read(OWN)
    kernel = machine.read("var/lib/nfs/etab")
    assert THEIRS_KERNEL in kernel
    assert "/srv/more\t10.8.0.0/16(ro)" in kernel
    assert f"/shares/share-{number(1)}\t10.0.0.5(rw" in kernel
    assert "/dev/vda1 / ext4 rw 0 1" in machine.read("etc/fstab")
    # Again: nothing. What others change there is no work of ours.
    assert apply(session, borrowed(1, share(1, rule("10.0.0.5")))).changed == ()
    machine.write("etc/exports", THEIRS + "/srv/third 10.7.0.0/16(rw)\n")
    assert apply(session, borrowed(1, share(1, rule("10.0.0.5")))).changed == ()
    state = apply(session, borrowed(2))
    assert state.unmounted == (number(1),)
    assert "share-" not in machine.read(OWN)
    assert THEIRS_KERNEL in machine.read("var/lib/nfs/etab")
    assert json.loads(machine.read("var/lib/sharewright/borrowed.json")) == {"shares": [], "smb": False}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("proc/self/mountinfo", f"30 1 8:99 / /shares/share-{STRANGER} rw - ext4 /dev/sdz rw\n", STRANGER),
        ("etc/fstab", f"/dev/sdz /shares/share-{STRANGER} ext4 rw 0 0\n", STRANGER),
        ("var/lib/nfs/etab", f"/shares/share-{STRANGER}\t10.0.0.0/8(rw)\n", STRANGER),
        ("var/lib/nfs/etab", "/srv/by\\040hand\t10.0.0.0/8(rw)\n", "made by hand would end.*/srv/by hand"),
        ("etc/exports", "/ *(ro,crossmnt)\n", "would give his clients our shares"),
        ("etc/exports.d/x.exports", f"/shares/share-{number(1)} *(rw)\n", "would give his clients our shares"),
        ("etc/exports", '"/srv" *(rw,fsid=0)\n', "see nothing but /srv"),
    ],
)
def test_what_cannot_stand_beside_ours(machine: Machine, session: Session, file: str, text: str, why: str) -> None:
    machine.add_disk(1)
    machine.write(file, machine.read(file) + text)
    before = contents(machine.root)
    for call in ("observe", "apply"):
        message = refused(session, borrowed(1, share(1, rule("10.0.0.5"))), call)
        assert re.search(why, message), message
    assert contents(machine.root) == before
    assert machine.calls == []


def test_a_share_of_ours_is_never_a_stranger(machine: Machine, session: Session) -> None:
    """Taken out of a document it is let go, after a reboot too; one whose note was lost is known by the document."""
    machine.add_disk(1)
    machine.add_disk(2)
    apply(session, borrowed(1, share(1), share(2)))
    machine.write("busy/share-" + number(1), "")
    state = apply(session, borrowed(2, share(2)))
    assert list(state.busy) == [number(1)]
    (machine.root / f"busy/share-{number(1)}").unlink()
    assert apply(session, borrowed(3, share(2))).unmounted == (number(1),)
    (machine.root / "var/lib/sharewright/borrowed.json").unlink()
    assert apply(session, borrowed(4, share(2))).changed == ()
    assert json.loads(machine.read("var/lib/sharewright/borrowed.json"))["shares"] == [number(2)]


def test_empty_places_of_others_stay(machine: Machine, session: Session) -> None:
    (machine.root / f"shares/share-{STRANGER}").mkdir()
    apply(session, borrowed(1))
    assert apply(session, borrowed(1)).changed == ()
    assert (machine.root / f"shares/share-{STRANGER}").is_dir()


def test_the_nfs_server_is_not_started_anew_under_others(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("etc/exports", THEIRS)
    machine.write("var/lib/nfs/etab", THEIRS_KERNEL)
    apply(session, borrowed(1, share(1)))
    machine.write("busy/share-" + number(1), "nfsd")
    assert list(apply(session, borrowed(2)).busy) == [number(1)]
    assert "systemctl restart nfs-server.service" not in machine.calls
    machine.write("etc/exports", "")
    machine.write("var/lib/nfs/etab", "")
    state = apply(session, borrowed(3))
    assert state.unmounted == (number(1),), state.busy


def connect(machine: Machine, name: str, address: str, *devices: str) -> None:
    machine.write(f"proc/fs/nfsd/clients/{name}/info", f'clientid: 0x1\naddress: "{address}:900"\nstatus: confirmed\n')
    states = "".join(f'- 0x1: {{ type: open, superblock: "{device}:12", filename: "x" }}\n' for device in devices)
    machine.write(f"proc/fs/nfsd/clients/{name}/states", states)
    machine.write(f"proc/fs/nfsd/clients/{name}/ctl", "")


def test_clients_of_others_keep_what_they_have(machine: Machine, session: Session) -> None:
    machine.add_disk(1)  # 8:16
    machine.write("etc/exports", THEIRS)
    machine.write("var/lib/nfs/etab", THEIRS_KERNEL)
    apply(session, borrowed(1, share(1, rule("10.0.0.5"))))
    connect(machine, "denied", "10.0.0.5", "08:10")
    connect(machine, "both", "10.9.0.5", "08:10", "fe:01")
    connect(machine, "theirs", "10.9.0.6", "fe:01")
    connect(machine, "idle", "10.9.0.7")
    apply(session, borrowed(2, share(1)))
    expired = {name for name in ("denied", "both", "theirs", "idle")
               if machine.read(f"proc/fs/nfsd/clients/{name}/ctl")}  # fmt: skip
    assert expired == {"denied"}


def test_smb_where_nobody_else_has_it(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("etc/samba/smb.conf", THEIR_CONF)
    machine.write("etc/systemd/system/multi-user.target.wants/smbd.service", "")  # as Debian installs it
    state = apply(session, borrowed(1, share(1, user_rule("ada"), protocol="CIFS")))
    assert (state.shares[0].exported, state.shares[0].error) == (True, "")
    assert machine.read("etc/samba/smb.conf") == THEIR_CONF
    assert apply(session, borrowed(1, share(1, user_rule("ada"), protocol="CIFS"))).changed == ()
    apply(session, borrowed(2))
    assert "systemctl stop smbd.service" in machine.calls


def test_samba_of_others_is_left_alone(machine: Machine, session: Session) -> None:
    """NFS shares are served meanwhile, and SMB shares say why they are not."""
    machine.add_disk(1)
    machine.add_disk(2)
    machine.write("etc/samba/smb.conf", THEIR_CONF + "[homes]\n   browseable = no\n")
    machine.write("run/samba/smbd.pid", "77\n")
    machine.write("proc/77/comm", "smbd\n")
    machine.write("etc/systemd/system/multi-user.target.wants/smbd.service", "")
    passwd = machine.read("etc/passwd")
    shares = share(1, user_rule("ada"), protocol="CIFS"), share(2, rule("10.0.0.5"))
    smb, nfs = apply(session, borrowed(1, *shares)).shares
    assert (smb.error, smb.exported) == ("export_failed", False)
    assert "shares of this machine's operator (homes)" in smb.message
    assert (nfs.error, nfs.exported) == ("", True)
    apply(session, borrowed(2))
    assert machine.read("etc/passwd") == passwd
    assert not any("smb" in call or call.startswith("net ") for call in machine.calls)


def test_samba_in_use_without_shares(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("etc/samba/smb.conf", THEIR_CONF)
    machine.write("run/samba/smbd.pid", "77\n")
    machine.write("proc/77/comm", "smbd\n")
    (smb,) = apply(session, borrowed(1, share(1, user_rule("ada"), protocol="CIFS"))).shares
    assert "Samba is in use" in smb.message
    assert json.loads(machine.read("var/lib/sharewright/borrowed.json"))["smb"] is False


def test_the_number_of_smb_files_is_taken(machine: Machine, session: Session) -> None:
    machine.add_disk(1)
    machine.write("etc/passwd", machine.read("etc/passwd") + "cara:x:70000:70000::/home/cara:/bin/sh\n")
    (smb,) = apply(session, borrowed(1, share(1, user_rule("ada"), protocol="CIFS"))).shares
    assert "cara has the number 70000" in smb.message


@pytest.mark.parametrize(
    "more", [{"firewall": {"ports": [2049], "management_from": ["10.0.0.1/32"]}}, {"network": {"links": []}}]
)
def test_firewall_and_network_are_its_operators(machine: Machine, session: Session, more: dict[str, Any]) -> None:
    """However a controller comes to ask for it."""
    wanted = msgspec.to_builtins(borrowed(1)) | more
    before = contents(machine.root)
    answer = session.send(encode_request("apply", document=wanted))
    assert (answer["ok"], answer["error"]) == (False, "invalid")
    assert next(iter(more)) in answer["message"]
    assert contents(machine.root) == before
    assert machine.calls == []


def test_hello_tells_whose_it_is(machine: Machine, session: Session) -> None:
    wanted = borrowed(1)
    apply(session, wanted)
    assert session.send(encode_request("hello"))["server_id"] == wanted.server_id


def test_inspect_tells_what_is_missing(machine: Machine, session: Session) -> None:
    """The scratch root has few programs; what is there besides is told too."""
    facts = session.send(encode_request("inspect"))["facts"]
    assert "the program mkfs.ext4" in facts["missing"]
    assert "the program exportfs" not in facts["missing"]
    assert facts["warnings"][0].startswith("The NFS server is not started at boot")
    assert "there is no smbd" in facts["warnings"][1]
    machine.write("usr/sbin/smbd", "")
    assert "does not read its registry" in session.send(encode_request("inspect"))["facts"]["warnings"][1]
    for each in ("mkfs.ext4", "mkfs.xfs", "blkid", "debugfs", "e2fsck", "resize2fs", "rpc.mountd", "rpc.nfsd",
                 "tune2fs", "xfs_growfs"):  # fmt: skip
        machine.write(f"usr/sbin/{each}", "")
    machine.write("etc/samba/smb.conf", THEIR_CONF)
    machine.write("etc/systemd/system/multi-user.target.wants/nfs-server.service", "")
    assert session.send(encode_request("inspect"))["facts"] == {"missing": [], "warnings": []}
    machine.write("etc/samba/smb.conf", THEIR_CONF + "[homes]\n")
    machine.write("etc/fstab", f"/dev/sdz /shares/share-{STRANGER} ext4 rw 0 0\n")
    facts = session.send(encode_request("inspect"))["facts"]
    assert STRANGER in facts["missing"][0]
    assert "homes" in facts["warnings"][0]
    assert machine.calls == []
