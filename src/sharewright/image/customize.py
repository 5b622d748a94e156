"""Turn a freshly installed Debian tree into the service image's root: our files, no secrets, no needless services.

Everything here works on a directory and needs no chroot, except compiling Python's library and the boot loader.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sharewright.errors import SharewrightError
from sharewright.image import recipe
from sharewright.image.initrd import build_initrd

REMOVED_TREES = ("var/lib/apt/lists", "var/cache", "var/log", "var/tmp", "tmp", "run", "root", "etc/update-motd.d")
DIRECTORIES = (  # path, mode
    ("var/cache", 0o755),
    ("var/log", 0o755),
    ("var/log/samba", 0o750),
    ("var/cache/samba", 0o755),
    ("var/tmp", 0o1777),
    ("tmp", 0o1777),
    ("run", 0o755),
    ("root", 0o700),
    ("root/.ssh", 0o700),
    ("shares", 0o755),
    ("var/lib/sharewright", 0o700),
    ("boot/grub", 0o755),
)


def customize(root: Path, image: recipe.Recipe) -> str:
    """Apply the recipe to the tree; return the kernel's version."""
    for name in REMOVED_TREES:
        _empty(root / name)
    for name, mode in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    copy_files(root, image)
    install_program(root, image.program)
    configure_units(root, image)
    remove_identity(root)
    lock_accounts(root)
    compile_python(root)
    return kernel_version(root)


def _empty(directory: Path) -> None:
    if not directory.is_dir() or directory.is_symlink():
        return
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def copy_files(root: Path, image: recipe.Recipe) -> None:
    """Copy the recipe's files over the tree, owned by root, below directories of 0755."""
    for file in image.files():
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)


def install_program(root: Path, program: bytes) -> None:
    path = root / recipe.GUEST_PROGRAM
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    path.chmod(0o755)


def configure_units(root: Path, image: recipe.Recipe) -> None:
    """Mask, disable and enable systemd units by their symbolic links; mask generators and udev rules not needed."""
    system = root / "etc/systemd/system"
    system.mkdir(parents=True, exist_ok=True)
    for wants in system.glob("*.wants"):
        shutil.rmtree(wants)
    for unit in recipe.MASKED_UNITS:
        _link(system / unit, "/dev/null")
    for unit, target in image.enabled_units:
        place = system / unit
        source = f"/etc/systemd/system/{unit}" if place.is_file() else f"/lib/systemd/system/{unit}"
        if not (root / source.lstrip("/")).exists():
            raise SharewrightError(f"The installed system has no unit {unit}.", hint="Check the recipe's packages.")
        _link(system / f"{target}.wants" / unit, source)
    _link(system / "default.target", "/lib/systemd/system/multi-user.target")
    _mask_others(root, "lib/systemd/system-generators", "etc/systemd/system-generators", recipe.KEPT_GENERATORS)
    _mask_others(root, "lib/udev/rules.d", "etc/udev/rules.d", recipe.KEPT_UDEV_RULES)


def _mask_others(root: Path, place: str, override: str, kept: tuple[str, ...]) -> None:
    for path in sorted((root / place).iterdir()):
        if path.name not in kept:
            _link(root / override / path.name, "/dev/null")


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def remove_identity(root: Path) -> None:
    """Take away what must differ between machines: host keys, machine id, resolver, random seed."""
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # Present and empty: systemd then makes an id for the running system, without treating every boot as the first one
    # (which would apply all unit presets again).
    (root / "etc/machine-id").write_bytes(b"")
    for name in ("var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/resolv.conf", "var/lib/nfs/etab"):
        (root / name).unlink(missing_ok=True)
    (root / "etc/exports").write_text("", encoding="ascii")
    (root / "var/lib/nfs").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/nfs/etab").write_bytes(b"")
    for tdb in (root / "var/lib/samba").rglob("*.tdb"):
        tdb.unlink()


def lock_accounts(root: Path) -> None:
    """No account has a password. ``*`` matches none, and unlike ``!`` does not make sshd refuse root's key."""
    shadow = root / "etc/shadow"
    lines = []
    for line in shadow.read_text(encoding="ascii").splitlines():
        name, _, rest = line.split(":", 2)
        lines.append(f"{name}:*:{rest}\n")
    shadow.write_text("".join(lines), encoding="ascii")
    for leftover in ("etc/shadow-", "etc/passwd-", "etc/group-", "etc/gshadow-"):
        (root / leftover).unlink(missing_ok=True)


def compile_python(root: Path) -> None:
    """Compile the library so that its cache holds whatever the files' time stamps are, with no check at run time."""
    for directory in sorted((root / "usr/lib").glob("python3*")):
        command = ["python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
        in_chroot(root, [*command, f"/usr/lib/{directory.name}"], allowed=(0, 1))


def in_chroot(root: Path, command: list[str], *, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a program of the tree inside it. Raises SharewrightError with the end of what it said."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
    environment["SOURCE_DATE_EPOCH"] = str(recipe.SOURCE_DATE_EPOCH)
    done = subprocess.run(
        ["chroot", str(root), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode not in allowed:
        raise SharewrightError(
            f"{command[0]} failed in the new image ({done.returncode}): {(done.stderr or done.stdout)[-500:].strip()}",
            hint="See the build log beside the image.",
        )


def kernel_version(root: Path) -> str:
    versions = sorted(path.name for path in (root / "lib/modules").iterdir() if (path / "modules.dep").is_file())
    if len(versions) != 1:
        raise SharewrightError(
            f"Expected one kernel in the image, found: {', '.join(versions) or 'none'}.",
            hint="Check the recipe's packages.",
        )
    return versions[0]


def installed_packages(root: Path) -> dict[str, str]:
    """Name → version, from dpkg's database."""
    packages = {}
    for stanza in (root / "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") == "install ok installed":
            packages[fields["Package"]] = fields["Version"]
    return dict(sorted(packages.items()))


def install_boot_files(root: Path, version: str) -> tuple[bytes, bytes]:
    """Make the initial RAM disk, leave it and the kernel in ``/boot`` under fixed names; return (kernel, initrd)."""
    boot = root / "boot"
    kernel = (boot / f"vmlinuz-{version}").read_bytes()
    initrd = build_initrd(root, version, recipe.initrd_script(), recipe.INITRD_MODULES)
    for path in boot.iterdir():
        if path.is_file():
            path.unlink()
    for name in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"):
        (root / name).unlink(missing_ok=True)
    (boot / "vmlinuz").write_bytes(kernel)
    (boot / "initrd").write_bytes(initrd)
    return kernel, initrd


def clamp_times(root: Path) -> None:
    """Set every time stamp later than the recipe's to the recipe's, so that builds from equal packages are equal."""
    epoch = recipe.SOURCE_DATE_EPOCH
    for directory, names, files in os.walk(root, topdown=False):
        for name in (*files, *names):
            path = Path(directory, name)
            if path.lstat().st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(root, (epoch, epoch))
