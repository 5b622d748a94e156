"""Trees and disks small enough for unit tests: a few real files in a real ext4 file system, no virtual machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sharewright.guest.package import PROGRAM_PATH, build_program
from sharewright.image.check import PROGRAMS

MODULES = "lib/modules/6.1.0-test"


def write(root: Path, name: str, content: bytes | str = "", mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def make_service_tree(root: Path) -> Path:
    """A tree that meets every requirement, with merged /usr as Debian has it."""
    for name in PROGRAMS:
        write(root, f"usr/sbin/{name}", "program", 0o755)
    write(root, "usr/bin/python3.11", "program", 0o755)
    (root / "usr/bin/python3").symlink_to("python3.11")
    write(root, "usr/lib/python3.11/json/__init__.py")
    write(root, "usr/lib/python3.11/ctypes/__init__.py")
    write(root, f"usr/{MODULES}/modules.dep", "kernel/fs/nfsd/nfsd.ko: \nkernel/net/netfilter/nf_tables.ko:\n")
    write(
        root, f"usr/{MODULES}/modules.builtin", "kernel/a/virtio_net.ko\nkernel/a/virtio_scsi.ko\nkernel/fs/isofs.ko\n"
    )
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    write(root, "etc/samba/smb.conf", "[global]\n\tinclude = registry\n")
    write(root, PROGRAM_PATH.lstrip("/"), build_program(), 0o755)
    write(root, "etc/systemd/system/sharewright-boot.service", "[Unit]\n")
    (root / "etc/systemd/system/sysinit.target.wants").mkdir()
    (root / "etc/systemd/system/sysinit.target.wants/sharewright-boot.service").symlink_to(
        "/etc/systemd/system/sharewright-boot.service"
    )
    write(root, "etc/ssh/sshd_config", "PermitRootLogin forced-commands-only\nPasswordAuthentication no\n")
    write(root, "etc/shadow", "root:*:20000:0:99999:7:::\ndaemon:!:20000:0:99999:7:::\n", 0o640)
    write(root, "etc/nsswitch.conf", "hosts: files\n")
    write(root, "etc/machine-id")
    write(root, "etc/exports")
    write(root, "etc/fstab")
    (root / "etc/mtab").symlink_to("/proc/self/mounts")
    (root / "var/lib/nfs").mkdir(parents=True)
    return root


def make_filesystem(disk: Path, tree: Path, offset: int = 0, size_mib: int = 16) -> Path:
    """An ext4 file system with the tree's files at ``offset`` bytes into ``disk``."""
    with disk.open("ab") as file:
        file.truncate(offset + size_mib * 2**20)
    options = ["-E", f"offset={offset}"] if offset else []
    command = ["/usr/sbin/mkfs.ext4", "-q", "-F", *options, "-d", str(tree), str(disk), f"{size_mib * 1024}k"]
    subprocess.run(command, check=True, capture_output=True)
    return disk
