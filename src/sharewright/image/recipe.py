"""What the service image is made of: the packages, the files of ``files/``, the services that do not run, and the
kernel's arguments. All of it goes into the recipe's hash: while that is the same, a built image is used again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sharewright.errors import ConfigurationError
from sharewright.image.additions import NO_ADDITIONS, Additions, ImageFile

FORMAT_VERSION = 2  # of the recipe's code: raise it when build.py changes what it makes of the same data
SUITE = "bookworm"
SOURCE_DATE_EPOCH = 1764547200  # 2025-12-01: the newest time stamp that a file of the image may carry
GUEST_PROGRAM = "usr/lib/sharewright/sharewright-guest"

PACKAGES = (
    "linux-image-cloud-amd64",
    "busybox-static",  # the initial RAM disk's only program
    "systemd-sysv",
    "udev",
    "kmod",
    "iproute2",
    "procps",
    "openssh-server",
    "nfs-kernel-server",
    "nfs-common",
    "e2fsprogs",
    "xfsprogs",
    "nftables",
    "samba",
    "samba-common-bin",
    "python3",
    "grub-pc-bin",  # boot loader for clouds that boot a disk
)
# Not for reading: manuals, translations. Copyright files stay.
EXCLUDED_PATHS = (
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
INCLUDED_PATHS = ("/usr/share/doc/*/copyright",)

# Units that have no work to do on a file server made from an image and thrown away with its share network. Each one
# that does not run is a fork, an exec and some library loads less: most of a boot, on an emulated processor.
MASKED_UNITS = (
    # NFSv3 and its helpers; Kerberos; identity mapping (off for sec=sys, which sends numbers)
    "rpcbind.service",
    "rpcbind.socket",
    "rpc-statd.service",
    "rpc-statd-notify.service",
    "nfs-idmapd.service",
    "nfs-blkmap.service",
    "auth-rpcgss-module.service",
    "rpc-gssd.service",
    "rpc-svcgssd.service",
    # no logins
    "getty.target",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "console-getty.service",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    # nothing to keep from boot to boot, nothing to set up at the first one
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-done.service",
    "systemd-journal-flush.service",
    "systemd-journal-catalog-update.service",
    "systemd-hwdb-update.service",
    "systemd-pstore.service",
    "systemd-repart.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-initrd.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-binfmt.service",
    # done by the initial RAM disk, or by the kernel's devtmpfs
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-remount-fs.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "ldconfig.service",
    "kmod-static-nodes.service",
    "systemd-initctl.socket",
    "systemd-journald-audit.socket",
    "dbus.service",
    "dbus.socket",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount",
    # housekeeping of a machine that lives for years
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "systemd-tmpfiles-clean.timer",
    # the parts of Samba that are never used; smbd is only disabled, the guest program starts it
    "nmbd.service",
    "samba-ad-dc.service",
    "winbind.service",
)
DISABLED_UNITS = ("smbd.service", "nfs-client.target", "remote-fs.target", "networking.service")
ENABLED_UNITS = (  # unit, target
    ("sharewright-boot.service", "sysinit.target"),
    ("ssh.service", "multi-user.target"),
    ("nfs-server.service", "multi-user.target"),
)
KEPT_GENERATORS = ("systemd-fstab-generator",)  # in /lib/systemd/system-generators; the others are masked
KEPT_UDEV_RULES = (  # in /lib/udev/rules.d; the others are masked
    "50-udev-default.rules",
    "55-scsi-sg3_id.rules",
    "60-block.rules",
    "60-persistent-storage.rules",
    "80-drivers.rules",
    "99-nfs.rules",
    "99-systemd.rules",
)
# Kernel modules that the initial RAM disk loads, with what they depend on: the root disk's; what leads to an IDE drive,
# if there is such a controller; others to try when no root disk has shown up; and what the boot needs next (here udev
# and modprobe would cost seconds).
INITRD_MODULES = {
    "first": ("virtio_pci", "virtio_blk"),
    "ide": ("ata_piix", "sd_mod", "sr_mod"),
    "second": ("virtio_scsi", "sd_mod", "nvme"),
    "last": ("virtio_net", "virtio_scsi", "sd_mod", "sr_mod", "isofs", "nf_tables", "nft_ct", "virtio_rng"),
}

KERNEL_ARGUMENTS = (
    "rw",
    "console=ttyS0",
    "quiet",
    "loglevel=4",
    "net.ifnames=0",
    "systemd.show_status=0",
    # An emulated processor may fail the kernel's test of its timer ("IO-APIC + timer doesn't work!", and it panics).
    # The timers of virtual machines need no such test (kernel-parameters.txt).
    "no_timer_check",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One image to build. ``sources`` are apt source lines (``deb URL SUITE COMPONENT…``), ``program`` the guest
    program's file and ``program_identity`` what it answers to ``version``; only the latter is part of the hash, for the
    former also holds compiled code for the Python that packed it."""

    sources: tuple[str, ...]
    program: bytes
    program_identity: str
    packages: tuple[str, ...] = PACKAGES
    size_mib: int = 3072
    kernel_arguments: tuple[str, ...] = KERNEL_ARGUMENTS
    additions: Additions = NO_ADDITIONS

    @property
    def all_packages(self) -> tuple[str, ...]:
        return (*self.packages, *self.additions.packages)

    @property
    def enabled_units(self) -> tuple[tuple[str, str], ...]:
        """Unit, target."""
        return (*ENABLED_UNITS, *((unit, "multi-user.target") for unit in self.additions.enabled_units))

    def files(self) -> Iterator[ImageFile]:
        """Everything that is copied over the installed system; what comes later replaces what came before."""
        for name, content in sorted(overlay_files()):
            yield ImageFile(name, content)
        yield from self.additions.files

    def hash(self) -> str:
        """SHA-256 over everything that goes into the image, in hexadecimal."""
        digest = hashlib.sha256()
        description = {
            "format": FORMAT_VERSION,
            "suite": SUITE,
            "epoch": SOURCE_DATE_EPOCH,
            "sources": self.sources,
            "packages": self.all_packages,
            "excluded": EXCLUDED_PATHS,
            "included": INCLUDED_PATHS,
            "masked": MASKED_UNITS,
            "disabled": DISABLED_UNITS,
            "enabled": self.enabled_units,
            "generators": KEPT_GENERATORS,
            "udev": KEPT_UDEV_RULES,
            "initrd": INITRD_MODULES,
            "size": self.size_mib,
            "kernel_arguments": self.kernel_arguments,
        }
        digest.update(json.dumps(description, sort_keys=True).encode())
        for name, content in (
            *((f"{file.path} {file.mode:o}", file.content) for file in self.files()),
            ("initrd.sh", initrd_script()),
            ("program", self.program_identity.encode()),
        ):
            digest.update(f"\n{name} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


def overlay_root() -> Path:
    """The directory whose tree is copied over the installed system."""
    return Path(str(resources.files("sharewright.image"))) / "files"


def overlay_files() -> Iterator[tuple[str, bytes]]:
    """Path below the image's root, and content, of every file of ours."""
    root = overlay_root()
    for path in root.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix(), path.read_bytes()


def initrd_script() -> bytes:
    """The initial RAM disk's ``/init``."""
    return (overlay_root().parent / "initrd.sh").read_bytes()


def sources_for(mirror: str | None, *, apt: Path = Path("/etc/apt")) -> tuple[str, ...]:
    """apt source lines: from ``mirror`` (a URL of a Debian archive, or one whole ``deb …`` line), else the Debian
    archives that this host uses when it runs the same release, else Debian's own."""
    if mirror:
        if mirror.startswith("deb "):
            return (mirror,)
        if "://" not in mirror:
            raise ConfigurationError(
                f"The mirror {mirror!r} is not a URL.", hint='Give one such as "http://deb.debian.org/debian".'
            )
        return (f"deb {mirror} {SUITE} main",)
    return tuple(host_sources(apt)) or (
        f"deb http://deb.debian.org/debian {SUITE} main",
        f"deb http://deb.debian.org/debian {SUITE}-updates main",
        f"deb http://deb.debian.org/debian-security {SUITE}-security main",
    )


def host_sources(apt: Path) -> list[str]:
    """The lines for our suite, its updates and its security updates in the host's apt configuration."""
    suites = {SUITE, f"{SUITE}-updates", f"{SUITE}-security"}
    found: dict[str, None] = {}

    def add(uri: str, suite: str, components: Sequence[str]) -> None:
        if suite in suites and "main" in components and "://" in uri:
            found[f"deb {uri.rstrip('/')} {suite} main"] = None

    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split("#")[0].split()
            if words[:1] != ["deb"]:
                continue
            if len(words) > 1 and words[1].startswith("["):
                while words and not words[1].endswith("]"):
                    del words[1]
                del words[1:2]
            if len(words) >= 4:
                add(words[1], words[2], words[3:])
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            fields = {}
            for line in stanza.splitlines():
                key, colon, value = line.partition(":")
                if colon and not line.startswith(("#", " ")):
                    fields[key.strip().lower()] = value.split()
            if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false"):
                continue
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    add(uri, suite, fields.get("components", []))
    # A list without the suite itself (only its updates, say) is not one to install from.
    return list(found) if any(line.split()[2] == SUITE for line in found) else []
