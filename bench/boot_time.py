#!/usr/bin/env python3
"""How long a service VM takes from power on to the SSH banner, with QEMU alone: no libvirt, no controller.

usage (root): bench/boot_time.py IMAGE_DIRECTORY [--runs N] [--cpu MODEL] [--accelerator tcg|kvm] [--disk]

The VM has a disk, a config drive and one network card on a tap in a network namespace of its own, so nothing outside
sees it. --disk boots through the disk's boot loader instead of the kernel beside it.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import io
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import pycdlib
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ADDRESS, HOST, MAC = "10.0.2.15", "10.0.2.2", "52:54:00:aa:bb:01"
TIMEOUT = 180.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def enter_namespace(name: str, tap: str) -> None:
    """Make a network namespace with the tap, and move this process into it."""
    ip("netns", "add", name)
    ip("-n", name, "tuntap", "add", tap, "mode", "tap")
    ip("-n", name, "addr", "add", f"{HOST}/24", "dev", tap)
    ip("-n", name, "link", "set", tap, "up")
    # Without this the first connection waits for ARP, a second at a time.
    ip("-n", name, "neigh", "replace", ADDRESS, "lladdr", MAC, "dev", tap, "nud", "permanent")
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
    os.close(descriptor)


def config_drive(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    link = {"id": "l0", "type": "phy", "ethernet_mac_address": MAC, "mtu": 1500}
    network = {
        "id": "n0",
        "link": "l0",
        "type": "ipv4",
        "ip_address": ADDRESS,
        "netmask": "255.255.255.0",
        "routes": [],
    }
    files = {
        "meta_data.json": {"uuid": "b1c0a2a4-3e54-4d7b-9c38-5a7b0a7f0001", "name": "bench", "hostname": "bench"},
        "network_data.json": {"links": [link], "networks": [network], "services": []},
        "user_data": {
            "sharewright": 1,
            "authorized_keys": [f"restrict ssh-ed25519 {base64.b64encode(os.urandom(51)).decode()}"],
            "ssh_host_ed25519_key": private.decode(),
            "firewall": None,
        },
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", vol_ident="config-2")
    iso.add_directory("/OPENSTACK", rr_name="openstack")
    iso.add_directory("/OPENSTACK/LATEST", rr_name="latest")
    for number, (name, value) in enumerate(files.items()):
        content = json.dumps(value).encode()
        iso.add_fp(io.BytesIO(content), len(content), f"/OPENSTACK/LATEST/F{number}.;1", rr_name=name)
    iso.write(str(path))
    iso.close()


def command(image: Path, drive: Path, tap: str, arguments: argparse.Namespace) -> list[str]:
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none", "-snapshot"]
    words += ["-accel", arguments.accelerator, "-cpu", arguments.cpu, "-smp", "1", "-m", "512", "-serial", "null"]
    words += ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"]
    words += ["-device", f"virtio-net-pci,netdev=n0,mac={MAC},romfile=", "-device", "virtio-scsi-pci"]
    words += ["-device", "virtio-rng-pci", "-drive", f"file={image / 'root.qcow2'},if=virtio,format=qcow2"]
    words += ["-drive", f"file={drive},if=virtio,format=raw,readonly=on"]
    if not arguments.disk:
        kernel_arguments = json.loads((image / "manifest.json").read_bytes())["kernel_arguments"]
        words += ["-kernel", str(image / "kernel"), "-initrd", str(image / "initrd"), "-append", kernel_arguments]
    return words


def measure(words: list[str]) -> float:
    """Seconds until the banner. A connection before the guest listens is refused or lost at once, and repeated."""
    begun = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        while time.monotonic() - begun < TIMEOUT and process.poll() is None:
            try:
                with socket.create_connection((ADDRESS, 22), timeout=0.2) as connection:
                    connection.settimeout(30.0)
                    if connection.recv(100).startswith(b"SSH-"):
                        return time.monotonic() - begun
            except OSError:
                time.sleep(0.05)
        raise SystemExit("The VM did not answer.")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("image", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu", default="qemu64")
    parser.add_argument("--accelerator", default="tcg", choices=("tcg", "kvm"))
    parser.add_argument("--disk", action="store_true", help="boot through the disk's boot loader")
    arguments = parser.parse_args()
    name, tap = f"swboot{os.getpid()}", "swboot0"
    try:
        enter_namespace(name, tap)
        with tempfile.TemporaryDirectory(prefix="sharewright-boot-") as scratch:
            drive = Path(scratch) / "config.iso"
            config_drive(drive)
            times = []
            for _ in range(arguments.runs):
                times.append(measure(command(arguments.image, drive, tap, arguments)))
                print(f"{times[-1]:.1f} s   load {os.getloadavg()[0]:.1f}", flush=True)
        print(f"median {statistics.median(times):.1f} s")
    finally:
        ip("netns", "delete", name)


if __name__ == "__main__":
    main()
