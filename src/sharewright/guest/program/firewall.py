"""The guest's own firewall: one nftables table, replaced as a whole, made only of values that parse_firewall read."""

from __future__ import annotations

import ipaddress
import json
import re

from . import values
from .host import RUN, STATE, CommandFailed, Host, Refusal

TABLE = "inet sharewright_guest"
SAVED = f"{STATE}/firewall.json"
LOADED = f"{RUN}/firewall.json"
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def parse_firewall(value: object) -> tuple[dict[str, list[str]], list[int]]:
    """A Firewall of guest/document.py → its MACs in lower case and canonical CIDRs, and its ports."""
    table = values.table(
        value,
        "firewall",
        ("management_macs", "management_from", "client_macs"),
        ("client_from", "admin_macs", "client_ports"),
    )
    parsed: dict[str, list[str]] = {}
    for name in ("management_macs", "client_macs", "admin_macs"):
        macs = values.items(table.get(name, []), name)
        parsed[name] = [values.text(mac.lower() if isinstance(mac, str) else mac, name, MAC) for mac in macs]
    for name in ("management_from", "client_from"):
        parsed[name] = [str(values.network(cidr, name)) for cidr in values.items(table.get(name, []), name)]
    ports = [
        values.integer(port, "client_ports", 1, 65535)
        for port in values.items(table.get("client_ports", [2049]), "ports")
    ]
    return parsed, ports


def interfaces(host: Host) -> dict[str, str]:
    """MAC address in lower case → interface name, of every NIC that is a device (no bridges, no loopback)."""
    found: dict[str, str] = {}
    for name in host.listing("/sys/class/net"):
        mac = host.read(f"/sys/class/net/{name}/address").strip().lower()
        if name != "lo" and mac and mac != "00:00:00:00:00:00":
            found.setdefault(mac, name)
    return found


def firewall_text(
    wanted: dict[str, list[str]], ports: list[int], names: dict[str, str], addresses: dict[str, list[str]] | None = None
) -> str:
    """What ``nft -f`` reads. ``wanted`` is a Firewall of guest/document.py already parsed, ``names`` MAC → interface,
    ``addresses`` interface → its addresses, where they are known.

    MACs that no NIC has get no rule: what is not admitted is dropped. Refusal (invalid) when no management NIC is
    there, for that would lock us out.
    """
    management = [names[mac] for mac in wanted["management_macs"] if mac in names]
    clients = [names[mac] for mac in wanted["client_macs"] if mac in names]
    admins = [names[mac] for mac in wanted["admin_macs"] if mac in names]
    if not management:
        raise Refusal("invalid", "No NIC has any of the firewall's management MACs: " + str(wanted["management_macs"]))
    lines = [
        "ct state vmap { established : accept, related : accept, invalid : drop }",
        'iifname "lo" accept',
        "icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept",
        "icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, "
        "nd-neighbor-solicit, nd-neighbor-advert } accept",
    ]
    lines += _own_only(addresses or {})
    lines += _admit(management, wanted["management_from"], [22], nobody_when_empty=True)
    lines += _admit(clients, wanted["client_from"], ports, nobody_when_empty=False)
    lines += _admit(admins, [], ports, nobody_when_empty=False)
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n"
        f"  chain input {{\n    type filter hook input priority filter; policy drop;\n{body}  }}\n"
        "  chain forward {\n    type filter hook forward priority filter; policy drop;\n  }\n}\n"
    )


OPEN_TEXT = f"add table {TABLE}\ndelete table {TABLE}\n"


def _own_only(addresses: dict[str, list[str]]) -> list[str]:
    """A packet to another NIC's address is not for this one. IPv4 has rp_filter for that, which IPv6 lacks."""
    if not any(":" in address for own in addresses.values() for address in own):
        return []
    lines = []
    for nic, own in sorted(addresses.items()):
        local = ", ".join([*(address for address in own if ":" in address), "fe80::/10", "ff00::/8"])
        lines.append(f'iifname "{nic}" ip6 daddr != {{ {local} }} drop')
    return lines


def _admit(nics: list[str], sources: list[str], ports: list[int], *, nobody_when_empty: bool) -> list[str]:
    if not nics or not ports or (not sources and nobody_when_empty):
        return []
    where = "iifname { " + ", ".join(f'"{nic}"' for nic in nics) + " }"
    what = "tcp dport { " + ", ".join(str(port) for port in ports) + " } accept"
    if not sources:
        return [f"{where} {what}"]
    lines = []
    # Anonymous sets refuse overlapping intervals, hence collapse_addresses.
    v4 = [network for network in map(ipaddress.ip_network, sources) if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in map(ipaddress.ip_network, sources) if isinstance(network, ipaddress.IPv6Network)]
    if v4:
        who = ", ".join(str(network) for network in ipaddress.collapse_addresses(v4))
        lines.append(f"{where} " + ("meta nfproto ipv4 " if who == "0.0.0.0/0" else f"ip saddr {{ {who} }} ") + what)
    if v6:
        who = ", ".join(str(network) for network in ipaddress.collapse_addresses(v6))
        lines.append(f"{where} " + ("meta nfproto ipv6 " if who == "::/0" else f"ip6 saddr {{ {who} }} ") + what)
    return lines


def ruleset_generation() -> int | None:
    """The kernel's number of the current rule set, which every change by anybody raises; None where it has none.

    Asked over netlink (NFT_MSG_GETGEN), because running nft to see that nothing changed costs a process per call.
    """
    import socket
    import struct

    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:  # 12: NETLINK_NETFILTER
            link.settimeout(1.0)
            link.bind((0, 0))
            link.send(struct.pack("=IHHIIBBH", 20, (10 << 8) | 16, 1, 1, 0, 0, 0, 0))  # 10: nftables, 16: GETGEN
            answer = link.recv(4096)
    except (OSError, AttributeError):
        return None
    if len(answer) < 28 or struct.unpack_from("=H", answer, 4)[0] != (10 << 8) | 15:  # 15: NEWGEN
        return None
    offset = 20
    while offset + 8 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, offset)
        if kind & 0x3FFF == 1:  # NFTA_GEN_ID
            return int(struct.unpack_from("!I", answer, offset + 4)[0])
        offset += max((length + 3) & ~3, 4)
    return None


def loaded_text(host: Host) -> str | None:
    """The text that we loaded since boot and that nobody changed since, or None."""
    try:
        mark = json.loads(host.read(LOADED) or "{}")
        return str(mark["text"]) if mark.get("generation") == ruleset_generation() else None
    except (ValueError, KeyError, AttributeError):
        return None


def load(host: Host, text: str) -> None:
    """Put the text in force, all or nothing. CommandFailed when nft refuses it; the old rules then stay."""
    host.run("nft", "-f", "-", data=text, timeout=30.0).check()
    host.replace(LOADED, json.dumps({"text": text, "generation": ruleset_generation()}), 0o600)


def forbid_forwarding(host: Host) -> None:
    """The server never routes between its NICs, whatever the image's sysctl files say."""
    for path in ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"):
        if host.read(path).strip() == "1" and not host.poke(path, "0"):
            raise CommandFailed(f"{path} cannot be set to 0")
