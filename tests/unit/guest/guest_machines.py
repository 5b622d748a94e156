"""A scratch root that looks to the guest program like a service VM, with disks that are sparse files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import msgspec

from sharewright.guest.document import Document, Filesystem, Firewall, Rule, Share, State, encode_request
from sharewright.guest.package import build_program
from sharewright.guest.program.host import Host

TOOLS = Path(__file__).with_name("guest_tools.py")
SERVER_ID = "5a1e6c0e-0000-4000-8000-00000000cafe"
BOOT_ID = "b0071d00-0000-4000-8000-000000000001"
MIB = 1024 * 1024
MANAGEMENT_MAC = "52:54:00:00:00:01"
CLIENT_MAC = "52:54:00:00:00:02"


def number(index: int) -> str:
    """A UUID to tell apart at a glance."""
    return str(uuid.UUID(int=index))


def serial(index: int) -> str:
    return f"5e41a100-0000-4000-8000-{index:012d}"


def rule(access_to: str, access_level: Any = "rw") -> Rule:
    return Rule(
        id=f"{access_to}-{access_level}".replace("/", "_").replace(":", "."),
        access_to=access_to,
        access_level=access_level,
    )


def user_rule(name: str, access_level: Any = "rw", key: str = "") -> Rule:
    key = key or f"key-of-{name}"
    return Rule(
        id=f"{name}-{access_level}", access_to=name, access_level=access_level, access_type="user", access_key=key
    )


def share(
    index: int,
    *rules: Rule,
    create: bool = True,
    type: Any = "ext4",
    squash: Any = "no_root_squash",
    size: int = 0,
    protocol: Any = "NFS",
    encryption: Any = "",
) -> Share:
    return Share(
        id=number(index),
        serial=serial(index),
        filesystem=Filesystem(type=type, uuid=number(0xF500 + index), create=create, size=size),
        protocol=protocol,
        rules=rules,
        squash=squash,
        encryption=encryption,
    )


def firewall(*client_from: str) -> Firewall:
    return Firewall(
        management_macs=(MANAGEMENT_MAC,),
        management_from=("10.254.0.1/32",),
        client_macs=(CLIENT_MAC,),
        client_from=client_from,
    )


def document(generation: int, *shares: Share, **fields: Any) -> Document:
    return Document(server_id=SERVER_ID, generation=generation, shares=shares, **{"device_timeout": 0.3, **fields})


class Machine:
    """The scratch root and what a test does to it from outside."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("dev", "etc", "proc/self", "proc/fs/nfsd", "proc/sys/kernel/random", "run", "shares",
                     "sys/block", "sys/dev/block", "usr/sbin", "usr/lib/sharewright", "var/lib/nfs",
                     "proc/sys/net/ipv4", "busy", "fail"):  # fmt: skip
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("mount", "umount", "exportfs", "systemctl", "nft", "ip", "net", "smbstatus", "smbcontrol",
                     "smbpasswd", "kill", "sync", "fsfreeze"):  # fmt: skip
            shutil.copy(TOOLS, root / "usr/sbin" / name)
            (root / "usr/sbin" / name).chmod(0o755)
        self.write("proc/self/mountinfo", "20 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n")
        self.write("proc/sys/kernel/random/boot_id", BOOT_ID + "\n")
        self.write("proc/fs/nfsd/threads", "0\n")
        self.write("proc/sys/net/ipv4/ip_forward", "1\n")
        self.write("etc/fstab", "# the image's own line\n/dev/vda1 / ext4 rw 0 1\n")
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n")
        self.write("etc/group", "root:x:0:\n")
        self.write("lib/systemd/system/smbd.service", "[Service]\n")
        self.program = root / "usr/lib/sharewright/sharewright-guest"
        self.program.write_bytes(build_program())
        self.program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"SHAREWRIGHT_GUEST_ROOT": str(self.root), "PATH": os.environ["PATH"]}

    def read(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add_nic(self, name: str, mac: str) -> None:
        self.write(f"sys/class/net/{name}/address", mac + "\n")

    def add_disk(self, index: int, *, size: int = 64 * MIB, kind: str = "scsi", text: str | None = None) -> Path:
        """Disk ``index`` with :func:`serial` of it, as the kernel shows a SCSI or virtio disk."""
        name = f"{'sd' if kind == 'scsi' else 'vd'}{chr(ord('a') + index)}"
        device = self.root / "dev" / name
        with device.open("wb") as file:
            file.truncate(size)
        self.show_disk(name, f"8:{16 * index}", text or serial(index), kind)
        return device

    def grow_disk(self, index: int, size: int) -> None:
        """What the cloud does to a SCSI disk, and the kernel has noticed."""
        name = f"sd{chr(ord('a') + index)}"
        os.truncate(self.root / "dev" / name, size)
        self._list_disks()

    def show_disk(self, name: str, numbers: str, text: str, kind: str = "scsi") -> None:
        self.write(f"sys/block/{name}/dev", numbers + "\n")
        if kind == "scsi":
            (self.root / f"sys/block/{name}/device").mkdir(exist_ok=True)
            page = b"\x00\x80" + len(text).to_bytes(2, "big") + text.encode()
            (self.root / f"sys/block/{name}/device/vpd_pg80").write_bytes(page)
        else:
            self.write(f"sys/block/{name}/serial", text[:20])
        link = self.root / "sys/dev/block" / numbers
        if not link.is_symlink():
            link.symlink_to(f"../../block/{name}")
        self._list_disks()

    def hide_disk(self, index: int) -> None:
        """Unplug a SCSI disk; its file stays. Its entry's inode is never used again, as in sysfs."""
        name = f"sd{chr(ord('a') + index)}"
        gone = self.root / "gone"
        gone.mkdir(exist_ok=True)
        (self.root / "sys/block" / name).rename(gone / str(len(list(gone.iterdir()))))
        (self.root / f"sys/dev/block/8:{16 * index}").unlink()
        self._list_disks()

    def _list_disks(self) -> None:
        """/proc/partitions, with the sizes of the files that are the disks."""
        lines = ["major minor  #blocks  name\n", "\n"]
        for number in sorted((self.root / "sys/block").glob("*/dev")):
            major, _, minor = number.read_text().strip().partition(":")
            disk = self.root / "dev" / number.parent.name
            blocks = disk.stat().st_size // 1024 if disk.exists() else 0
            lines.append(f"{major:>4} {minor:>8} {blocks:>10} {number.parent.name}\n")
        self.write("proc/partitions", "".join(lines))

    @property
    def calls(self) -> list[str]:
        """The tools called since the last look, by name and arguments."""
        lines = self.read("calls").splitlines()
        (self.root / "calls").unlink(missing_ok=True)
        return lines

    @property
    def frozen(self) -> list[str]:
        """Mount points whose file systems stand still."""
        return self.read("frozen").splitlines()

    @property
    def mounted(self) -> list[str]:
        return [line.split()[4] for line in self.read("proc/self/mountinfo").splitlines() if "/shares/" in line]


class CountingHost(Host):
    """The program's view of its machine, counting the files that it reads."""

    reads = 0

    def read_bytes(self, path: str) -> bytes:
        self.reads += 1
        return super().read_bytes(path)


class Session:
    """A running ``serve``, spoken to over its pipes."""

    def __init__(self, machine: Machine) -> None:
        self.process = subprocess.Popen(
            [str(machine.program), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=machine.environment,
        )

    def send(self, line: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.process.stderr.read() if self.process.stderr else ""
        value = json.loads(answer)
        assert isinstance(value, dict)
        return value

    def close(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status


def apply(session: Session, value: Document, call: str = "apply") -> State:
    answer = session.send(encode_request(call, document=value))
    assert answer["ok"], answer
    return msgspec.convert(answer["state"], State)
