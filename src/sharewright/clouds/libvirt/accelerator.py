"""Whether KVM boots a virtual machine here, found out by booting one.

/dev/kvm is no proof: on nested or partly emulated hosts it opens, and guests hang or QEMU aborts.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import structlog

from sharewright.clouds.libvirt.records import write_atomically

LOG = structlog.get_logger(__name__)
Accelerator = Literal["kvm", "tcg"]
DEVICE = Path("/dev/kvm")
PROBE_SECONDS = 10.0
# A kernel with nothing to mount has come a long way when it says this.
KERNEL_MARKER = b"Kernel panic - not syncing"
SECTOR_MARKER = b"SHAREWRIGHT"
QEMU = "qemu-system-x86_64"


def choose_accelerator(wanted: Literal["auto", "kvm", "tcg"], memory: Path, kernel: Path | None = None) -> Accelerator:
    """``memory`` keeps the probe's result until the host boots again. ``kernel`` makes the probe a thorough one."""
    if wanted != "auto":
        return wanted
    key = _host_key()
    with suppress(OSError, ValueError, KeyError):
        known = json.loads(memory.read_bytes())
        if known["key"] == key:
            return "kvm" if known["accelerator"] == "kvm" else "tcg"
    reason = probe_kvm(kernel)
    accelerator: Accelerator = "tcg" if reason else "kvm"
    if reason:
        LOG.warning("KVM does not work here: virtual machines run on emulation (TCG), which is slow", reason=reason)
    write_atomically(memory, json.dumps({"key": key, "accelerator": accelerator, "reason": reason}).encode())
    return accelerator


def _host_key() -> str:
    program = shutil.which(QEMU)
    version = Path(program).stat().st_mtime_ns if program else 0
    device = DEVICE.stat() if DEVICE.exists() else None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {version} {(device.st_mode, device.st_uid, device.st_gid) if device else None}"


def repair_device() -> None:
    """Give /dev/kvm the group that udev gives it, on hosts where no udev runs.

    Where QEMU's user may not open the device but root may, libvirt never believes its own cache and asks QEMU for its
    capabilities again at every start of a machine, which takes seconds.
    """
    if os.geteuid() != 0 or Path("/run/udev/control").exists() or not DEVICE.exists():
        return
    state = DEVICE.stat()
    with suppress(KeyError, OSError):
        group = grp.getgrnam("kvm").gr_gid
        if state.st_gid == 0 and not state.st_mode & 0o077:
            os.chown(DEVICE, state.st_uid, group)
            DEVICE.chmod(0o660)


def probe_kvm(kernel: Path | None = None) -> str:
    """Boot a kernel, or a boot sector, under KVM as libvirt would; return why not, or "" when it booted."""
    return boot(kernel) if DEVICE.exists() else "there is no /dev/kvm"


def boot(kernel: Path | None, *, accelerator: str = "kvm", cpu: str = "host", seconds: float = PROBE_SECONDS) -> str:
    """Boot and wait for a sign of life; return what went wrong, or ""."""
    program = shutil.which(QEMU)
    if program is None:
        return f"{QEMU} is not installed"
    command = [program, "-accel", accelerator, "-cpu", cpu, "-m", "256", "-nodefaults", "-no-user-config", "-no-reboot"]
    command += ["-display", "none", "-sandbox", "on", "-serial", "stdio"]
    with tempfile.TemporaryDirectory(prefix="sharewright-probe-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        if kernel is not None:
            copy = directory / "kernel"
            shutil.copyfile(kernel, copy)
            marker = KERNEL_MARKER
            command += ["-machine", "q35", "-kernel", str(copy), "-append", "console=ttyS0 panic=-1"]
        else:
            copy = directory / "sector"
            copy.write_bytes(boot_sector(SECTOR_MARKER))
            marker = SECTOR_MARKER
            command += ["-machine", "pc", "-drive", f"file={copy},format=raw,if=ide,snapshot=off,readonly=off"]
        copy.chmod(0o666)
        return _run(command, marker, seconds)


def _run(command: list[str], marker: bytes, seconds: float) -> str:
    identity = _qemu_identity()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **identity
    ) as process:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        assert process.stderr is not None  # noqa: S101
        output = b""
        end = time.monotonic() + seconds
        try:
            while marker not in output:
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
                if not ready:
                    return f"a test machine did not boot within {seconds:g} s"
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    process.wait(5)
                    lines = process.stderr.read(4096).decode(errors="replace").strip().splitlines()
                    return f"a test machine ended early ({lines[0] if lines else process.returncode})"
                output += piece
            return ""
        finally:
            process.kill()


def _qemu_identity() -> dict[str, Any]:
    """Run as libvirt runs QEMU, so that the permissions of /dev/kvm are tested too."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("libvirt-qemu")
    except KeyError:
        return {}
    groups = [group.gr_gid for group in grp.getgrall() if group.gr_name == "kvm"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}


def boot_sector(text: bytes) -> bytes:
    """512 bytes of 16-bit code that write text to the first serial port and halt."""
    code = bytes([0xBA, 0xF8, 0x03])  # mov dx, 0x3f8
    for character in text:
        code += bytes([0xB0, character, 0xEE])  # mov al, character; out dx, al
    code += bytes([0xFA, 0xF4, 0xEB, 0xFD])  # cli; hlt; jump to hlt
    return code.ljust(510, b"\0") + b"\x55\xaa"
