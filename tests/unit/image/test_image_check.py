"""check_image finds each thing that keeps an image from being a service image, and nothing else."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from image_help import MODULES, make_filesystem, write

from sharewright.errors import NotFound
from sharewright.guest.package import PROGRAM_PATH
from sharewright.image.check import Finding, check_image, check_tree
from sharewright.image.tree import DebugfsTree, DirectoryTree, find_root


def subjects(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.subject) for finding in findings]


def partitioned(disk: Path, tree: Path, *, boot_code: bytes = b"\xeb\x63\x90") -> Path:
    make_filesystem(disk, tree, offset=2**20)
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, 16 * 2048)
    with disk.open("r+b") as file:
        file.write(boot_code.ljust(446, b"\0") + entry + b"\0" * 48 + b"\x55\xaa")
    return disk


def test_a_good_tree_has_no_findings(service_tree: Path) -> None:
    assert check_tree(DirectoryTree(service_tree)) == []


def test_a_good_disk_has_no_findings(service_tree: Path, tmp_path: Path) -> None:
    assert check_image(partitioned(tmp_path / "disk.raw", service_tree)) == []


def test_a_good_qcow2_has_no_findings(service_tree: Path, tmp_path: Path) -> None:
    raw = partitioned(tmp_path / "disk.raw", service_tree)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(tmp_path / "disk.qcow2")], check=True)
    raw.unlink()
    assert check_image(tmp_path / "disk.qcow2") == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("sharewright-image-")] == []


def test_a_disk_that_firmware_cannot_boot(service_tree: Path, tmp_path: Path) -> None:
    assert subjects(check_image(make_filesystem(tmp_path / "disk.raw", service_tree))) == [("error", "boot")]


def test_an_image_without_exportfs(service_tree: Path, tmp_path: Path) -> None:
    (service_tree / "usr/sbin/exportfs").unlink()
    (finding,) = check_image(partitioned(tmp_path / "disk.raw", service_tree))
    assert finding.severity == "error"
    assert str(finding) == (
        "error: exportfs: The image has no exportfs, needed for NFS exports. "
        "Install the package nfs-kernel-server in it."
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("etc/ssh/ssh_host_ed25519_key", "secret", ("error", "ssh_host_ed25519_key")),
        ("etc/shadow", "root:$y$j9T$abc:20000:0:99999:7:::\n", ("error", "accounts")),
        ("etc/shadow", "root:!:1::::::\ndebian::20000:0:99999:7:::\n", ("error", "accounts")),
        ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n", ("error", "authorized_keys")),
        ("home/debian/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n", ("error", "authorized_keys")),
        ("root/.ssh/id_ed25519", "secret", ("error", "id_ed25519")),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", ("warning", "machine-id")),
        ("etc/samba/smb.conf", "[global]\n\tworkgroup = X\n", ("error", "smb.conf")),
        ("etc/ssh/sshd_config", "PermitRootLogin no\nPasswordAuthentication no\n", ("error", "sshd")),
        ("etc/ssh/sshd_config", "PermitRootLogin yes\n", ("warning", "sshd")),
        (f"usr/{MODULES}/modules.dep", "kernel/net/netfilter/nf_tables.ko:\n", ("error", "kernel")),
        (PROGRAM_PATH.lstrip("/"), "#!/bin/sh\n", ("error", "sharewright-guest")),
    ],
)
def test_each_fault_is_found_alone(service_tree: Path, name: str, content: str, expected: tuple[str, str]) -> None:
    write(service_tree, name, content, 0o755 if name.endswith("-guest") else 0o644)
    assert subjects(check_tree(DirectoryTree(service_tree))) == [expected]


def test_an_empty_authorized_keys_is_no_fault(service_tree: Path) -> None:
    write(service_tree, "root/.ssh/authorized_keys", "\n")
    assert check_tree(DirectoryTree(service_tree)) == []


@pytest.mark.parametrize(("version", "found"), [("3.9", True), ("3.10", True), ("3.11", False), ("3.13", False)])
def test_python_versions(service_tree: Path, version: str, found: bool) -> None:
    (service_tree / "usr/bin/python3").unlink()
    write(service_tree, f"usr/bin/python{version}", "program", 0o755)
    write(service_tree, f"usr/lib/python{version}/json/__init__.py")
    write(service_tree, f"usr/lib/python{version}/ctypes/__init__.py")
    (service_tree / "usr/bin/python3").symlink_to(f"/usr/bin/python{version}")
    assert subjects(check_tree(DirectoryTree(service_tree))) == ([("error", "python3")] if found else [])


def test_a_minimal_python_lacks_json(service_tree: Path) -> None:
    (service_tree / "usr/lib/python3.11/json/__init__.py").unlink()
    (service_tree / "usr/lib/python3.11/json").rmdir()
    assert subjects(check_tree(DirectoryTree(service_tree))) == [("error", "python3")]


def test_another_guest_program_is_a_warning(service_tree: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sharewright_guest/identity.py", f'IDENTITY = "{"0" * 64}"\n')
    write(service_tree, PROGRAM_PATH.lstrip("/"), b"#!/usr/bin/python3\n" + buffer.getvalue(), 0o755)
    assert subjects(check_tree(DirectoryTree(service_tree))) == [("warning", "sharewright-guest")]


def test_a_unit_that_is_not_enabled(service_tree: Path) -> None:
    (service_tree / "etc/systemd/system/sysinit.target.wants/sharewright-boot.service").unlink()
    assert subjects(check_tree(DirectoryTree(service_tree))) == [("error", "sharewright-boot.service")]


def test_what_is_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="sharewright image build"):
        check_image(tmp_path / "nothing")
    write(tmp_path, "text", "not a disk\n")
    assert subjects(check_image(tmp_path / "text")) == [("error", "disk")]
    write(tmp_path, "broken.qcow2", b"QFI\xfb" + b"\0" * 100)
    assert subjects(check_image(tmp_path / "broken.qcow2")) == [("error", "disk")]
    assert subjects(check_image(tmp_path)) == [("error", "manifest.json"), ("error", "root.qcow2")]


def test_both_trees_read_the_same(service_tree: Path, tmp_path: Path) -> None:
    write(service_tree, "etc/with space", "x")
    (service_tree / "etc/long").symlink_to("/usr/" + "../usr/" * 12 + "bin/python3.11")
    (service_tree / "etc/loop").symlink_to("loop")
    (service_tree / "etc/broken").symlink_to("/nowhere")
    directory = DirectoryTree(service_tree)
    debugfs = DebugfsTree(make_filesystem(tmp_path / "disk.raw", service_tree, offset=2**20), 2**20)
    for path in ("/etc/with space", "/etc/long", "/etc/loop", "/etc/broken", "/sbin/sshd", "/lib/modules", "/etc/mtab"):
        for question in ("exists", "is_file", "is_directory", "is_executable", "read", "resolve", "listing"):
            assert getattr(debugfs, question)(path) == getattr(directory, question)(path), (question, path)
    assert debugfs.resolve("/etc/long") == "/usr/bin/python3.11"
    assert debugfs.listing("/lib/modules") == ["6.1.0-test"]


def test_the_root_of_a_gpt_disk(tmp_path: Path) -> None:
    """As cloud images have it: an EFI partition, a small one, the root."""
    disk = tmp_path / "disk.raw"
    linux = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    efi = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
    entries = b""
    for kind, start, end in ((efi, 34, 99), (linux, 100, 199), (linux, 262144, 999999)):
        entries += (kind + b"\1" * 16 + struct.pack("<QQQ", start, end, 0)).ljust(128, b"\0")
    protective = b"\0" * 446 + struct.pack("<B3xB3xII", 0, 0xEE, 1, 0xFFFFFFFF) + b"\0" * 48 + b"\x55\xaa"
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 3, 128)
    disk.write_bytes(protective + header.ljust(512, b"\0") + entries)
    assert find_root(disk) == (262144 * 512, True)
