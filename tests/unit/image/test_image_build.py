"""Customizing a tree, the initial RAM disk, the disk's layout, and when an image is built again."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest
from image_help import write

from sharewright.errors import NotFound, SharewrightError
from sharewright.guest.package import build_program, program_identity
from sharewright.image import build, customize, disk, initrd, recipe
from sharewright.image.manifest import ImageManifest, read_manifest, write_manifest
from sharewright.image.recipe import Recipe, sources_for
from sharewright.image.tree import DebugfsTree, find_root

VERSION = "6.1.0-test"


def make_installed_tree(root: Path) -> Path:
    """What matters here of a freshly installed Debian."""
    for unit in ("ssh.service", "nfs-server.service", "dbus.service"):
        write(root, f"lib/systemd/system/{unit}")
    write(root, "etc/systemd/system/multi-user.target.wants/dbus.service")
    for name in ("systemd-fstab-generator", "nfs-server-generator"):
        write(root, f"lib/systemd/system-generators/{name}", "", 0o755)
    for name in ("60-block.rules", "78-sound-card.rules"):
        write(root, f"lib/udev/rules.d/{name}")
    write(root, "etc/ssh/ssh_host_rsa_key", "secret", 0o600)
    write(root, "etc/ssh/ssh_host_rsa_key.pub", "public")
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    write(root, "etc/resolv.conf", "nameserver 192.0.2.1\n")
    write(root, "etc/shadow", "root::20000:0:99999:7:::\nsync:*:20000:0:99999:7:::\nx:$6$a$b:1::::::\n", 0o640)
    write(root, "etc/shadow-", "root:$6$a$b:1::::::\n")
    write(root, "var/lib/samba/private/secrets.tdb", "secret")
    write(root, "var/lib/apt/lists/partial/x")
    write(root, "var/log/dpkg.log", "log")
    write(root, "bin/busybox", "busybox", 0o755)
    modules = f"lib/modules/{VERSION}"
    write(root, f"{modules}/modules.builtin", "kernel/nvme.ko\nkernel/virtio_rng.ko\n")
    lines, names = [], {name for group in recipe.INITRD_MODULES.values() for name in group} - {"nvme", "virtio_rng"}
    for name in sorted(names):
        write(root, f"{modules}/kernel/{name.replace('_', '-')}.ko", name)
        lines.append(f"kernel/{name.replace('_', '-')}.ko: {'kernel/virtio_ring.ko' if 'virtio' in name else ''}\n")
    write(root, f"{modules}/kernel/virtio_ring.ko", "virtio_ring")
    write(root, f"{modules}/modules.dep", "".join(lines) + "kernel/virtio_ring.ko:\n")
    write(root, f"boot/vmlinuz-{VERSION}", "the kernel")
    status = "Package: {}\nStatus: {}\nVersion: {}\n\n"
    write(
        root,
        "var/lib/dpkg/status",
        status.format("zlib", "install ok installed", "1.2") + status.format("gone", "deinstall ok config-files", "1"),
    )
    return root


def make_recipe() -> Recipe:
    return Recipe(sources=(), program=build_program(), program_identity=program_identity())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_installed_tree(tmp_path / "tree")


def test_customizing_leaves_no_identity(tree: Path) -> None:
    assert customize.customize(tree, make_recipe()) == VERSION
    assert not list((tree / "etc/ssh").glob("ssh_host_*"))
    assert (tree / "etc/machine-id").read_bytes() == b""
    assert not (tree / "etc/resolv.conf").exists()
    assert not (tree / "etc/shadow-").exists()
    assert not list((tree / "var/lib/samba").rglob("*.tdb"))
    assert not list((tree / "var/log").glob("*.log"))
    fields = [line.split(":")[:2] for line in (tree / "etc/shadow").read_text().splitlines()]
    assert fields == [["root", "*"], ["sync", "*"], ["x", "*"]]
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o640


def test_customizing_installs_our_files_and_program(tree: Path) -> None:
    customize.customize(tree, make_recipe())
    assert (tree / recipe.GUEST_PROGRAM).read_bytes() == build_program()
    assert (tree / recipe.GUEST_PROGRAM).stat().st_mode & 0o777 == 0o755
    for name, content in recipe.overlay_files():
        assert (tree / name).read_bytes() == content
    assert (tree / "root/.ssh").stat().st_mode & 0o777 == 0o700


def test_customizing_chooses_what_runs(tree: Path) -> None:
    customize.customize(tree, make_recipe())
    units = tree / "etc/systemd/system"
    assert (units / "rpcbind.service").readlink() == Path("/dev/null")
    assert not (units / "multi-user.target.wants/dbus.service").exists()
    assert (units / "multi-user.target.wants/ssh.service").readlink() == Path("/lib/systemd/system/ssh.service")
    boot = units / "sysinit.target.wants/sharewright-boot.service"
    assert boot.readlink() == Path("/etc/systemd/system/sharewright-boot.service")
    assert (tree / "etc/systemd/system-generators/nfs-server-generator").readlink() == Path("/dev/null")
    assert not (tree / "etc/systemd/system-generators/systemd-fstab-generator").exists()
    assert (tree / "etc/udev/rules.d/78-sound-card.rules").readlink() == Path("/dev/null")
    assert not (tree / "etc/udev/rules.d/60-block.rules").exists()


def test_customizing_twice_changes_nothing(tree: Path) -> None:
    def state() -> dict[str, object]:
        return {
            str(path.relative_to(tree)): path.readlink() if path.is_symlink() else path.read_bytes()
            for path in tree.rglob("*")
            if path.is_symlink() or path.is_file()
        }

    customize.customize(tree, make_recipe())
    first = state()
    customize.customize(tree, make_recipe())
    assert state() == first


def test_a_missing_unit_is_told(tree: Path) -> None:
    (tree / "lib/systemd/system/ssh.service").unlink()
    with pytest.raises(SharewrightError, match=r"no unit ssh\.service"):
        customize.customize(tree, make_recipe())


def test_only_installed_packages_count(tree: Path) -> None:
    assert customize.installed_packages(tree) == {"zlib": "1.2"}


def test_times_are_clamped(tree: Path) -> None:
    old = write(tree, "etc/old")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    (tree / "etc/link").symlink_to("nowhere")
    customize.clamp_times(tree)
    assert old.stat().st_mtime == 1_000_000_000
    assert all(path.lstat().st_mtime <= recipe.SOURCE_DATE_EPOCH for path in (tree, *tree.rglob("*")))


def test_modules_come_after_what_they_need(tree: Path) -> None:
    modules = tree / "lib/modules" / VERSION
    assert initrd.module_files(modules, ["virtio_blk", "nvme"]) == ["kernel/virtio_ring.ko", "kernel/virtio-blk.ko"]
    with pytest.raises(SharewrightError, match="no module floppy"):
        initrd.module_files(modules, ["floppy"])


def test_the_initial_ram_disk_unpacks(tree: Path, tmp_path: Path) -> None:
    customize.customize(tree, make_recipe())
    kernel, archive = customize.install_boot_files(tree, VERSION)
    assert kernel == b"the kernel"
    assert archive == customize.build_initrd(tree, VERSION, recipe.initrd_script(), recipe.INITRD_MODULES)
    assert sorted(path.name for path in (tree / "boot").iterdir() if path.is_file()) == ["initrd", "vmlinuz"]
    out = tmp_path / "out"
    out.mkdir()
    entries = read_archive(archive)
    assert entries["init"] == (stat.S_IFREG | 0o755, recipe.initrd_script())
    assert entries["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
    assert entries["proc"][0] == stat.S_IFDIR | 0o755
    assert entries["modules/first"][1].decode().split() == ["virtio_ring.ko", "virtio-pci.ko", "virtio-blk.ko"]
    listed = {name for group in recipe.INITRD_MODULES for name in entries[f"modules/{group}"][1].decode().split()}
    assert listed == {name.removeprefix("modules/") for name in entries if name.endswith(".ko")}
    assert b"net/ipv4/conf/all/arp_ignore 1\n" in entries["variables"][1]


def read_archive(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """A reader of newc archives, from the format's description."""
    entries, position = {}, 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        start = position + 110
        name = archive[start : start + fields[11] - 1].decode()
        start = (start + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return entries
        entries[name] = (fields[1], archive[start : start + fields[6]])
        position = (start + fields[6] + 3) & ~3


def test_the_initial_script_is_valid_shell() -> None:
    subprocess.run(["sh", "-n"], input=recipe.initrd_script(), check=True)


def test_the_disk_has_one_partition_with_the_tree(tree: Path, tmp_path: Path) -> None:
    raw, identity = tmp_path / "disk.raw", "11223344-5566-7788-99aa-bbccddeeff00"
    loader = b"B" * 440 + b"X" * 72 + b"C" * 1000
    disk.write_partition_table(raw, 64, loader, identity)
    command = disk.mkfs_command(raw, tree, 64, identity)
    subprocess.run(["/usr/sbin/" + command[0], *command[1:]], check=True, capture_output=True)
    content = raw.read_bytes()
    assert len(content) == 64 * 2**20
    assert content[:440] == b"B" * 440
    assert content[512:1512] == b"C" * 1000
    assert struct.unpack_from("<B3xB3xII", content, 446) == (0x80, 0x83, 2048, 64 * 2048 - 2048)
    assert find_root(raw) == (2**20, True)
    assert DebugfsTree(raw, 2**20).read("/boot/vmlinuz-6.1.0-test") == b"the kernel"
    assert content[2**20 + 1024 + 0x68 :][:16].hex() == identity.replace("-", "")
    assert content[2**20 + 1024 + 0x78 :][:16].rstrip(b"\0") == b"root"


def test_equal_trees_make_equal_disks(tree: Path, tmp_path: Path) -> None:
    """However long after each other they are made, and whoever has read the tree in between."""
    identity = "11223344-5566-7788-99aa-bbccddeeff00"
    customize.clamp_times(tree)
    contents = []
    for number in (1, 2):
        raw = tmp_path / f"{number}.raw"
        disk.write_partition_table(raw, 64, b"", identity)
        environment = {"E2FSPROGS_FAKE_TIME": str(recipe.SOURCE_DATE_EPOCH), "PATH": "/usr/sbin:/sbin"}
        subprocess.run(disk.mkfs_command(raw, tree, 64, identity), check=True, capture_output=True, env=environment)
        command, script = disk.change_times_script(raw)
        subprocess.run(command, input=script.encode(), check=True, capture_output=True, env=environment)
        contents.append(raw.read_bytes())
        for path in tree.rglob("*"):
            os.utime(path, (2_000_000_000 + number, path.lstat().st_mtime), follow_symlinks=False)
    assert contents[0] == contents[1]


# ---- building again, or not ----


def make_image(target: Path, wanted: str) -> ImageManifest:
    target.mkdir(parents=True)
    manifest = ImageManifest(
        hash=wanted,
        suite="bookworm",
        kernel_version=VERSION,
        kernel_arguments="root=UUID=x",
        root_uuid="x",
        program_sha256="0" * 64,
        program_identity=program_identity(),
        files=dict.fromkeys(("root.qcow2", "kernel", "initrd"), "0" * 64),
        packages={},
        build_seconds=1.0,
    )
    for name in manifest.files:
        write(target, name)
    write_manifest(target, manifest)
    return manifest


def current_hash() -> str:
    return Recipe(sources=sources_for("http://x/debian"), program=b"", program_identity=program_identity()).hash()


def test_an_image_of_the_same_recipe_is_used_again(tmp_path: Path) -> None:
    manifest = make_image(tmp_path / "service", current_hash())
    said: list[str] = []
    assert build.build_image(tmp_path / "service", mirror="http://x/debian", progress=said.append) == manifest
    assert "up to date" in said[0]


def test_the_environment_names_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_image(tmp_path / "service", current_hash())
    monkeypatch.setenv("SHAREWRIGHT_DEBIAN_MIRROR", "http://x/debian")
    assert build.build_image(tmp_path / "service") == manifest


@pytest.mark.parametrize("spoil", ["hash", "file", "manifest", "format"])
def test_anything_else_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """The build itself is cut short by a host without its tools, which is what tells that it was tried."""
    target = tmp_path / "service"
    make_image(target, "0" * 64 if spoil == "hash" else current_hash())
    if spoil == "file":
        (target / "kernel").unlink()
    if spoil == "manifest":
        (target / "manifest.json").write_text("{")
    if spoil == "format":
        (target / "manifest.json").write_text('{"hash": "x"}')
    before = sorted(path.name for path in target.iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "TOOLS", {"no-such-program": "no-such-package"})
    with pytest.raises(SharewrightError, match=r"root|no-such-package"):
        build.build_image(target, mirror="http://x/debian")
    assert sorted(path.name for path in target.iterdir()) == before


def test_a_failed_build_leaves_the_old_image_and_a_log(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("needs root, as the build does")
    target = tmp_path / "service"
    make_image(target, "0" * 64)
    with pytest.raises(SharewrightError, match="mmdebstrap ended with") as caught:
        build.build_image(target, mirror=f"deb file://{tmp_path}/no-archive bookworm main")
    assert "service-failed-build.log" in caught.value.hint
    assert "mmdebstrap" in (tmp_path / "service-failed-build.log").read_text()
    assert read_manifest(target).hash == "0" * 64
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".service.lock",
        "service",
        "service-failed-build.log",
    ]


def test_publishing_swaps_a_link_and_keeps_one_earlier_image(tmp_path: Path) -> None:
    target = tmp_path / "service"
    for number in range(4):
        builder = build._Builder(target, make_recipe(), f"{number}" * 64, lambda message: None)
        make_image(builder.work / "out", f"{number}" * 64)
        builder._publish()
        builder.work.rmdir()
        assert read_manifest(target).hash == f"{number}" * 64
        os.utime(target.resolve(), (1000 + number, 1000 + number))
    assert target.is_symlink()
    assert [path.name for path in build.superseded_images(target)] == ["service." + "2" * 12]


def test_a_forced_build_of_the_same_recipe_gets_a_place_of_its_own(tmp_path: Path) -> None:
    target = tmp_path / "service"
    for _ in range(2):
        builder = build._Builder(target, make_recipe(), "a" * 64, lambda message: None)
        make_image(builder.work / "out", "a" * 64)
        builder._publish()
        builder.work.rmdir()
    assert target.readlink() == Path("service." + "a" * 12 + "-2")


def test_ensuring_an_image_builds_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="sharewright image build"):
        build.ensure_image(tmp_path / "service")
    manifest = make_image(tmp_path / "service", "0" * 64)
    assert build.ensure_image(tmp_path / "service") == manifest
    assert msgspec.json.decode((tmp_path / "service/manifest.json").read_bytes())["kernel_arguments"] == "root=UUID=x"
    (tmp_path / "service/root.qcow2").unlink()
    with pytest.raises(NotFound, match=r"lacks root\.qcow2"):
        build.ensure_image(tmp_path / "service")
