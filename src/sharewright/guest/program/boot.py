"""boot: from the config drive to a reachable, guarded server. Runs at every boot, before networking and sshd.

Order matters: the firewall is in force before any NIC is up, and sshd gets its host key before it starts. Without a
config drive the copy from the last boot serves, so that a server whose drive was detached still comes back.

Addresses are those of the last document; before there is one, of ``network_data`` in our user data; where that has
none, those of the drive's own network_data.json, which Nova writes as it sees fit.
"""

from __future__ import annotations

import json
import os
import time

from . import network
from .firewall import (
    OPEN_TEXT,
    SAVED,
    firewall_text,
    forbid_forwarding,
    interfaces,
    load,
    loaded_text,
    parse_firewall,
)
from .host import RUN, STATE, CommandFailed, Host, Refusal, polls

DRIVE_COPY = f"{STATE}/boot.json"  # what a later boot without the drive needs; no keys, they are in their own files
COPIED = ("sharewright", "firewall", "network_data")  # of our user data
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"
VOLUME_LABEL = b"config-2"
MOUNT_POINT = f"{RUN}/config"


def boot(host: Host, *, drive_seconds: float = 20.0, nic_seconds: float = 15.0) -> None:
    """Set the machine up from its config drive, waiting so long for the drive and the NICs to appear. Refusal or
    CommandFailed name what is wrong; what was not reached is left closed: no addresses, or no key."""
    started = time.monotonic()
    drive = read_drive(host, seconds=drive_seconds)
    if drive is None:
        say("no config drive with a label config-2; using the copy of the last boot")
        try:
            drive = dict(json.loads(host.read(DRIVE_COPY)))
        except (ValueError, TypeError):
            raise Refusal(
                "failed",
                "There is neither a config drive nor a copy of one.",
                "Attach an ISO9660 or VFAT volume labelled config-2 in OpenStack's format.",
            ) from None
    say(f"config drive read after {time.monotonic() - started:.2f} s")
    ours = drive["user_data"]
    forbid_forwarding(host)
    addresses_given = saved_network(host) or addresses_of(drive)
    start_firewall(host, ours.get("firewall"), addresses_given, nic_seconds=nic_seconds)
    say(f"firewall after {time.monotonic() - started:.2f} s")
    set_hostname(host, drive["meta_data"])
    install_keys(host, ours)
    addresses = network.configure(host, addresses_given, device_seconds=nic_seconds)
    say(f"addresses {' '.join(addresses) or 'none'} after {time.monotonic() - started:.2f} s")
    copy = {**drive, "user_data": {k: v for k, v in ours.items() if k in COPIED}}
    text = json.dumps(copy, sort_keys=True)
    if host.read(DRIVE_COPY) != text:
        host.replace(DRIVE_COPY, text, 0o600)


def saved_network(host: Host) -> dict[str, object] | None:
    """The network data of the last document, if it had any: NICs may have been added since the VM was made."""
    try:
        saved = json.loads(host.read(network.SAVED))
    except ValueError:
        return None
    return saved if isinstance(saved, dict) else None


def addresses_of(drive: dict[str, dict[str, object]]) -> dict[str, object]:
    """The network data that counts. Refusal (invalid) when ours is no object."""
    ours = drive["user_data"].get("network_data")
    if ours is None:
        return drive["network_data"]
    if not isinstance(ours, dict):
        raise Refusal("invalid", "network_data in user_data on the config drive is not a JSON object.")
    return ours


def say(message: str) -> None:
    """To the journal and the console."""
    print(f"sharewright-guest: {message}", flush=True)


def read_drive(host: Host, *, seconds: float) -> dict[str, dict[str, object]] | None:
    """The three files below openstack/latest/, parsed; None when no drive shows up in time. Refusal (invalid) when
    they are not what they should be."""
    found = None
    copied = host.exists(DRIVE_COPY)
    for _ in polls(3.0 if copied else seconds, 0.1):
        found = find_drive(host)
        if found:
            break
    if not found:
        return None
    device, kind = found
    os.makedirs(host.at(MOUNT_POINT), mode=0o700, exist_ok=True)
    host.run(
        "mount", "-t", kind, "-o", "ro,nosuid,nodev,noexec", host.at(device), host.at(MOUNT_POINT), timeout=30.0
    ).check()
    try:
        texts = {
            name: host.read(f"{MOUNT_POINT}/openstack/latest/{file}")
            for name, file in (
                ("meta_data", "meta_data.json"),
                ("network_data", "network_data.json"),
                ("user_data", "user_data"),
            )
        }
    finally:
        host.run("umount", host.at(MOUNT_POINT), timeout=30.0)
    return parse_drive(texts)


def parse_drive(texts: dict[str, str]) -> dict[str, dict[str, object]]:
    """Config drive files by name → their content. Refusal (invalid) says which is missing or wrong."""
    parsed: dict[str, dict[str, object]] = {}
    for name, text in texts.items():
        try:
            value = json.loads(text)
        except ValueError as error:
            raise Refusal("invalid", f"{name} on the config drive is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise Refusal("invalid", f"{name} on the config drive is not a JSON object.")
        parsed[name] = value
    if parsed["user_data"].get("sharewright") != 1:
        raise Refusal("invalid", 'user_data on the config drive is not ours: it lacks "sharewright": 1.')
    return parsed


def find_drive(host: Host) -> tuple[str, str] | None:
    """Device and file system type of the config drive, recognised by its label, which is read from the disk itself:
    udev may not have got there yet."""
    for name in host.listing("/sys/block"):
        if name.startswith(("loop", "ram", "zram", "dm-", "md", "nbd", "fd")):
            continue
        try:
            descriptor = os.open(host.at(f"/dev/{name}"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # an empty CD drive
        try:
            label = os.pread(descriptor, 32, 32768 + 40)  # ISO9660's volume identifier
            if label.rstrip(b" \0").lower() == VOLUME_LABEL:
                return f"/dev/{name}", "iso9660"
            sector = os.pread(descriptor, 512, 0)
            if VOLUME_LABEL in (sector[offset : offset + 11].rstrip(b" ").lower() for offset in (43, 71)):
                return f"/dev/{name}", "vfat"  # FAT16 and FAT32; Nova can make these
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return None


def start_firewall(host: Host, first: object, data: dict[str, object], *, nic_seconds: float) -> None:
    """Load the firewall of the last document, or else the config drive's (None: admit everything), for NICs with the
    addresses of this network data.

    Before the first document clients are not admitted: what they mounted from the VM before this one is not exported
    yet, and they would take that for its end.
    """
    wanted, served = first, False
    try:
        wanted, served = json.loads(host.read(SAVED))["firewall"], True
    except (ValueError, KeyError, TypeError):
        pass  # no document yet
    if wanted is None:
        text = OPEN_TEXT
    else:
        parsed, ports = parse_firewall(wanted)
        names: dict[str, str] = {}
        for _ in polls(nic_seconds, 0.1):
            names = interfaces(host)
            if all(mac in names for mac in [*parsed["management_macs"], *parsed["client_macs"], *parsed["admin_macs"]]):
                break
        addresses = network.addresses_by_nic(data, names)
        text = firewall_text(parsed, ports if served else [], names, addresses)
    if loaded_text(host) != text:
        load(host, text)


def set_hostname(host: Host, meta_data: dict[str, object]) -> None:
    name = str(meta_data.get("hostname") or meta_data.get("name") or "").split(".")[0].lower()
    if not name:
        return
    if len(name) > 63 or not all(letter.isascii() and (letter.isalnum() or letter == "-") for letter in name):
        raise Refusal("invalid", f"{name!r} in meta_data.json is not a host name.")
    host.poke("/proc/sys/kernel/hostname", name)
    if host.read("/etc/hostname") != f"{name}\n":
        host.replace("/etc/hostname", f"{name}\n")


def install_keys(host: Host, ours: dict[str, object]) -> None:
    """sshd's host key and the keys it admits. Absent ones (the copy has none) leave the files as they are."""
    host_key = ours.get("ssh_host_ed25519_key")
    if host_key is not None:
        if not isinstance(host_key, str) or "-----BEGIN OPENSSH PRIVATE KEY-----" not in host_key:
            raise Refusal("invalid", "ssh_host_ed25519_key on the config drive is not an OpenSSH private key.")
        text = host_key if host_key.endswith("\n") else host_key + "\n"
        if host.read(HOST_KEY) != text:
            host.replace(HOST_KEY, text, 0o600)
            host.remove(HOST_KEY + ".pub")  # it would be another key's
    keys = ours.get("authorized_keys")
    if keys is not None:
        if not isinstance(keys, list) or not all(isinstance(key, str) and key.isprintable() for key in keys):
            raise Refusal("invalid", "authorized_keys on the config drive is not a list of lines.")
        text = "".join(f"{key}\n" for key in keys)
        if host.read(AUTHORIZED_KEYS) != text:
            os.makedirs(host.at("/root/.ssh"), mode=0o700, exist_ok=True)
            host.replace(AUTHORIZED_KEYS, text, 0o600)


def main(host: Host) -> int:
    try:
        boot(host)
    except Refusal as error:
        say(f"boot failed: {error.message} {error.hint}")
        return 1
    except (CommandFailed, OSError) as error:
        say(f"boot failed: {error}")
        return 1
    return 0
