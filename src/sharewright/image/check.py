"""Does an image meet the requirements for service images? Works on any: ours, or one that an operator brings.

Nothing is booted and, for ext2/3/4, nothing mounted: the file system is read with debugfs. Each requirement is one
function that looks at a :class:`~sharewright.image.tree.Tree` and yields findings.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharewright.errors import NotFound, SharewrightError
from sharewright.guest.package import PROGRAM_PATH, program_identity
from sharewright.image.manifest import MANIFEST, ROOT, ImageManifest, read_manifest
from sharewright.image.tree import Tree, UnreadableDisk, open_tree

PYTHON_VERSION = (3, 11)  # the guest program's
BINARIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
UNITS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")


@dataclass(frozen=True, slots=True)
class Finding:
    """``error``: the image will not work as a service image. ``warning``: it works, worse or later than it could."""

    severity: Literal["error", "warning"]
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message} {self.hint}".rstrip()


Requirement = Callable[[Tree], Iterator[Finding]]


def error(subject: str, message: str, hint: str = "") -> Finding:
    return Finding("error", subject, message, hint)


def warning(subject: str, message: str, hint: str = "") -> Finding:
    return Finding("warning", subject, message, hint)


def check_image(path: Path) -> list[Finding]:
    """What keeps the image from being a service image; empty when nothing does.

    ``path`` is an image directory or a disk file (qcow2 or raw). Raises NotFound when there is nothing at ``path``,
    SharewrightError when a tool that this needs is not installed.
    """
    findings: list[Finding] = []
    disk = path
    if path.is_dir():
        disk = path / ROOT
        try:
            findings += check_manifest(path, read_manifest(path))
        except SharewrightError as problem:
            findings.append(error(MANIFEST, problem.message, problem.hint))
        if not disk.is_file():
            return [*findings, error(ROOT, f"{path} has no {ROOT}.", "Build it: sharewright image build.")]
    elif not path.exists():
        raise NotFound(f"There is no image {path}.", hint="Build one: sharewright image build.")
    try:
        with open_tree(disk) as (tree, bootable):
            if disk is path and not bootable:
                findings.append(
                    error("boot", "The disk has no boot sector.", "Give an image directory with kernel and initrd.")
                )
            findings += check_tree(tree)
    except UnreadableDisk as problem:
        findings.append(error("disk", problem.message, problem.hint))
    return findings


def check_tree(tree: Tree) -> list[Finding]:
    """The same for a file system that is open already."""
    return [finding for requirement in REQUIREMENTS for finding in requirement(tree)]


def check_manifest(image: Path, manifest: ImageManifest) -> Iterator[Finding]:
    """The files of an image directory are those that were built."""
    for name, wanted in sorted(manifest.files.items()):
        try:
            with (image / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            yield error(name, f"It cannot be read: {problem.strerror}.", "Run: sharewright image build --force.")
            continue
        if actual != wanted:
            yield error(name, "It is not the file that was built.", "Run: sharewright image build --force.")
    if not manifest.kernel_arguments:
        yield error(MANIFEST, "It has no kernel_arguments.", "Run: sharewright image build --force.")


def has_program(tree: Tree, name: str) -> bool:
    return any(tree.is_file(f"{directory}/{name}") for directory in BINARIES)


PROGRAMS = {  # program → (what for, Debian package)
    "exportfs": ("NFS exports", "nfs-kernel-server"),
    "rpc.nfsd": ("the kernel NFS server", "nfs-kernel-server"),
    "rpc.mountd": ("the kernel NFS server", "nfs-kernel-server"),
    "sshd": ("the controller's way in", "openssh-server"),
    "mkfs.ext4": ("new shares", "e2fsprogs"),
    "resize2fs": ("growing shares", "e2fsprogs"),
    "e2fsck": ("shrinking shares", "e2fsprogs"),
    "tune2fs": ("shrinking shares", "e2fsprogs"),
    "debugfs": ("shrinking shares", "e2fsprogs"),
    "mkfs.xfs": ("new shares on xfs", "xfsprogs"),
    "xfs_growfs": ("growing shares on xfs", "xfsprogs"),
    "net": ("SMB shares in Samba's registry", "samba-common-bin"),
    "smbd": ("SMB shares", "samba"),
    "nft": ("the guest's firewall", "nftables"),
    "ip": ("addresses from the config drive", "iproute2"),
    "blkid": ("recognising blank volumes", "util-linux"),
    "mount": ("mounting shares", "mount"),
    "flock": ("connecting to SMB shares", "util-linux"),
    "mountpoint": ("connecting to SMB shares", "util-linux"),
    "fsfreeze": ("snapshots", "util-linux"),
    "systemctl": ("starting services", "systemd"),
    "modprobe": ("loading drivers", "kmod"),
}


def programs(tree: Tree) -> Iterator[Finding]:
    for name, (purpose, package) in PROGRAMS.items():
        if not has_program(tree, name):
            yield error(
                name, f"The image has no {name}, needed for {purpose}.", f"Install the package {package} in it."
            )


def python(tree: Tree) -> Iterator[Finding]:
    wanted = ".".join(map(str, PYTHON_VERSION))
    target = tree.resolve("/usr/bin/python3")
    if target is None:
        yield error("python3", "The image has no /usr/bin/python3.", f"Install Python {wanted} or newer in it.")
        return
    match = re.search(r"python(\d+)\.(\d+)$", target)
    if not match:
        yield warning("python3", f"/usr/bin/python3 is {target}: its version cannot be told.", f"{wanted} is needed.")
        return
    version = (int(match[1]), int(match[2]))
    if version < PYTHON_VERSION:
        yield error(
            "python3", f"It is version {version[0]}.{version[1]}.", f"The guest program needs {wanted} or newer."
        )
    library = f"/usr/lib/python{version[0]}.{version[1]}"
    for package in ("json", "ctypes"):
        if tree.is_directory(library) and not tree.is_directory(f"{library}/{package}"):
            yield error("python3", f"{library} lacks the {package} package.", "Install the whole standard library.")


def kernel(tree: Tree) -> Iterator[Finding]:
    versions = tree.listing("/lib/modules")
    if not versions:
        yield error("kernel", "There is nothing in /lib/modules.", "Install a kernel with its modules.")
    for version in versions:
        known = tree.read(f"/lib/modules/{version}/modules.dep") + tree.read(f"/lib/modules/{version}/modules.builtin")
        for module in ("nfsd", "virtio_net", "virtio_scsi", "nf_tables", "isofs"):
            if not re.search(rb"/%s\.ko" % module.encode().replace(b"_", b"[_-]"), known):
                yield error("kernel", f"Kernel {version} has no {module}.", "Use a kernel with it, or built into it.")


def samba_registry(tree: Tree) -> Iterator[Finding]:
    if not has_program(tree, "smbd"):
        return  # said already
    text = tree.read("/etc/samba/smb.conf").decode("utf-8", "replace")
    settings = [line.strip().lower().replace(" ", "") for line in text.splitlines()]
    if "include=registry" not in settings and "configbackend=registry" not in settings:
        yield error(
            "smb.conf", "Samba does not read its registry.", 'Put "include = registry" into its [global] section.'
        )


def guest_program(tree: Tree) -> Iterator[Finding]:
    content = tree.read(PROGRAM_PATH)
    hint = "Build the image with: sharewright image build, or install sharewright-guest and its unit in it."
    if not content:
        yield error("sharewright-guest", f"The image has no {PROGRAM_PATH}.", hint)
        return
    if not tree.is_executable(PROGRAM_PATH):
        yield error("sharewright-guest", f"{PROGRAM_PATH} is not executable.", "chmod 755 it.")
    identity = packed_identity(content)
    if identity is None:
        yield error("sharewright-guest", f"{PROGRAM_PATH} is not a guest program.", hint)
    elif identity != program_identity():
        yield warning(
            "sharewright-guest",
            f"It is {identity[:12]}, this Sharewright has {program_identity()[:12]}.",
            "It is replaced at the first contact with a new server; a new image saves that time.",
        )
    unit = "sharewright-boot.service"
    if not any(tree.is_file(f"{directory}/{unit}") for directory in UNITS):
        yield error(unit, "The image has no such unit, so nothing reads the config drive.", hint)
    elif not any(
        tree.exists(f"{UNITS[0]}/{target}.target.wants/{unit}") for target in ("sysinit", "basic", "multi-user")
    ):
        yield error(unit, "It is not enabled, so nothing reads the config drive.", f"systemctl enable {unit}")


def packed_identity(program: bytes) -> str | None:
    """The identity that a guest program answers to ``version``; None when it is no guest program."""
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            names = [name for name in archive.namelist() if name.endswith("/identity.py")]
            text = archive.read(names[0]).decode("ascii") if names else ""
    except (zipfile.BadZipFile, UnicodeDecodeError):
        return None
    match = re.search(r'IDENTITY = "([0-9a-f]{64})"', text)
    return match[1] if match else None


def secrets(tree: Tree) -> Iterator[Finding]:
    """What would be the same on every server made from the image, and must not be."""
    for name in tree.listing("/etc/ssh"):
        if name.startswith("ssh_host_") and not name.endswith(".pub"):
            yield error(name, "The image holds an SSH host key.", f"Remove /etc/ssh/{name}: each server gets its own.")
    for line in tree.read("/etc/shadow").decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) > 1 and not fields[1].startswith(("!", "*")):
            what = "no password at all" if not fields[1] else "a password"
            yield error("accounts", f"The account {fields[0]} has {what}.", f"Lock it: passwd -l {fields[0]}")
    homes = ["/root", *(f"/home/{name}" for name in tree.listing("/home"))]
    for home in homes:
        for name in ("authorized_keys", "authorized_keys2"):
            if tree.read(f"{home}/.ssh/{name}").strip():
                yield error(name, f"The image admits keys of its own: {home}/.ssh/{name}.", "Remove it.")
        for name in tree.listing(f"{home}/.ssh"):
            if name.startswith("id_") and not name.endswith(".pub"):
                yield error(name, f"The image holds a private key: {home}/.ssh/{name}.", "Remove it.")
    machine_id = tree.read("/etc/machine-id").strip()
    if machine_id not in (b"", b"uninitialized"):
        yield warning("machine-id", "Every server would have the same one.", "Empty /etc/machine-id in the image.")


def sshd(tree: Tree) -> Iterator[Finding]:
    """The first value counts in sshd_config, so a later file cannot mend an earlier one."""
    text = tree.read("/etc/ssh/sshd_config").decode("utf-8", "replace")
    values: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split("#")[0].replace("=", " ").split()
        if len(words) > 1:
            if words[0].lower() == "match":
                break
            values.setdefault(words[0].lower(), words[1].lower())
    if values.get("permitrootlogin", "prohibit-password") == "no":
        yield error(
            "sshd", "PermitRootLogin is no.", 'Set it to "forced-commands-only": the guest program runs as root.'
        )
    if values.get("passwordauthentication", "yes") != "no":
        yield warning("sshd", "Passwords are admitted.", "Set PasswordAuthentication to no.")
    if values.get("usedns", "no") == "yes":
        yield warning("sshd", "UseDNS makes logins wait for a resolver.", "Set UseDNS to no.")


def names(tree: Tree) -> Iterator[Finding]:
    """A resolver that does not answer stalls mountd for 20 seconds per client."""
    for line in tree.read("/etc/nsswitch.conf").decode("utf-8", "replace").splitlines():
        key, _, value = line.split("#")[0].partition(":")
        if key.strip() == "hosts" and set(value.split()) & {"dns", "resolve"}:
            resolver = tree.read("/etc/resolv.conf").strip()
            if resolver:
                yield warning("nsswitch", "Host names are asked of DNS.", "Set hosts: files in /etc/nsswitch.conf.")


def tables(tree: Tree) -> Iterator[Finding]:
    for path in ("/etc/exports", "/etc/fstab"):
        if not tree.is_file(path):
            yield warning(path, "The file is missing.", "Create it empty; the guest program writes it.")
    if not tree.exists("/etc/mtab"):
        yield warning("/etc/mtab", "The file is missing.", "Link it to /proc/self/mounts.")
    if not tree.is_directory("/var/lib/nfs"):
        yield error("/var/lib/nfs", "The directory is missing: exportfs keeps etab there.", "Install nfs-common.")


REQUIREMENTS: tuple[Requirement, ...] = (
    programs,
    python,
    kernel,
    samba_registry,
    guest_program,
    sshd,
    secrets,
    names,
    tables,
)
