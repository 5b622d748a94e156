"""The host's packet filter: two nftables tables of our own, written whole from the records.

* ``bridge``: per port, what may reach the VM and what the VM may send. It is stateless, because many kernels have no
  connection tracking for bridges: TCP packets that open a connection (SYN without ACK) are admitted by port and source,
  all other TCP passes (it cannot open anything); of UDP only answers of a DHCP server pass.
* ``inet``: what may enter the host from our bridges, and what may be routed between networks.

Rules of other tables are left alone; a drop in ours is final whatever others accept, and the other way round. The text
goes to ``nft`` by stdin and consists of validated values only. Chain ``digest_…`` tells which text is in force.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from sharewright.clouds.contract import Address, Admission, Cidr
from sharewright.errors import CloudError

DEVICE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")
MAC = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
UNSPECIFIED = ip_address(0)  # the sender of an address probe, and of a DHCP request
NFT_SECONDS = 30.0
OPENS = "tcp flags & (syn | ack) == syn"
ICMP = "{ echo-request, echo-reply, destination-unreachable, time-exceeded, parameter-problem }"
ECHO_REQUESTS = ("icmp type echo-request drop", "icmpv6 type echo-request drop")
ICMPV6 = (
    "{ echo-request, echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem,"
    " nd-neighbor-solicit, nd-neighbor-advert }"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRules:
    device: str
    mac: str
    address: Address
    admissions: tuple[Admission, ...]
    outgoing: bool = True

    def __post_init__(self) -> None:
        _validate(self.device, *(port for admission in self.admissions for port in admission.ports))
        if not MAC.match(self.mac):
            raise ValueError(f"not a MAC: {self.mac!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Tenants on ``tenant_bridge`` may open TCP connections to ``ports`` in the service subnet, and nothing else."""

    tenant_bridge: str
    tenant_cidr: Cidr
    service_bridge: str
    service_cidr: Cidr
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        _validate(self.tenant_bridge, *self.ports)
        _validate(self.service_bridge)


def _validate(device: str, *ports: int) -> None:
    if not DEVICE.match(device):
        raise ValueError(f"not a network device's name: {device!r}")
    if not all(isinstance(port, int) and 0 < port < 65536 for port in ports):
        raise ValueError(f"not TCP ports: {ports!r}")


def ruleset(table: str, bridges: Sequence[str], ports: Sequence[PortRules], routes: Sequence[Route]) -> str:
    """The text for nft: both tables, replaced in one transaction."""
    for bridge in bridges:
        _validate(bridge)
    body = "\n".join([*_inet(table, sorted(bridges), routes), *_bridge(table, ports)])
    head = [f"table {family} {table} {{}}\ndelete table {family} {table}" for family in ("inet", "bridge")]
    return "\n".join([*head, body.replace("@DIGEST@", digest_chain(body)), ""])


def digest_chain(body: str) -> str:
    return "digest_" + hashlib.sha256(body.encode()).hexdigest()[:24]


def _set(values: Iterable[object]) -> str:
    return "{ " + ", ".join(str(value) for value in values) + " }"


def _names(values: Iterable[str]) -> str:
    return _set(f'"{value}"' for value in values)


def _family(address: Address | Cidr) -> str:
    return "ip" if address.version == 4 else "ip6"


def _inet(table: str, bridges: Sequence[str], routes: Sequence[Route]) -> list[str]:
    lines = [f"table inet {table} {{", "chain @DIGEST@ { }"]
    lines += ["chain input {", "type filter hook input priority filter; policy accept;"]
    if bridges:
        lines += [
            f"iifname != {_names(bridges)} accept",
            "udp sport 68 udp dport 67 accept",
            "udp sport 546 udp dport 547 accept",
            f"icmp type {ICMP} accept",
            f"icmpv6 type {ICMPV6} accept",
            "icmpv6 type nd-router-solicit accept",
            f"meta l4proto tcp {OPENS} drop",
            "meta l4proto tcp accept",  # answers to connections of the host
            "drop",
        ]
    lines += ["}", "chain forward {", "type filter hook forward priority filter; policy accept;"]
    if bridges:
        # Bridged packets come by here too where the kernel passes them to IP filters (bridge-nf-call-iptables).
        lines += [f'iifname "{bridge}" oifname "{bridge}" accept' for bridge in bridges]
        for route in routes:
            if not route.ports:
                continue
            family, client, server = _family(route.tenant_cidr), route.tenant_cidr, route.service_cidr
            there = f'iifname "{route.tenant_bridge}" oifname "{route.service_bridge}"'
            back = f'iifname "{route.service_bridge}" oifname "{route.tenant_bridge}"'
            lines += [
                f"{there} {family} saddr {client} {family} daddr {server} tcp dport {_set(route.ports)} accept",
                f"{back} {family} saddr {server} {family} daddr {client} tcp sport {_set(route.ports)} {OPENS} drop",
                f"{back} {family} saddr {server} {family} daddr {client} tcp sport {_set(route.ports)} accept",
            ]
            for way, source, target in ((there, client, server), (back, server, client)):
                kinds = f"icmp type {ICMP}" if family == "ip" else f"icmpv6 type {ICMPV6}"
                lines.append(f"{way} {family} saddr {source} {family} daddr {target} {kinds} accept")
        lines += [f"iifname {_names(bridges)} drop", f"oifname {_names(bridges)} drop"]
    return [*lines, "}", "}"]


def _bridge(table: str, ports: Sequence[PortRules]) -> list[str]:
    ordered = sorted(ports, key=lambda port: port.device)
    lines = [f"table bridge {table} {{", "chain @DIGEST@ { }"]
    for port in ordered:
        lines += [f"chain from_{_chain(port)} {{", *_from_instance(port), "}"]
        lines += [f"chain to_{_chain(port)} {{", *_to_instance(port), "}"]
    for hook, key, prefix in (("prerouting", "iifname", "from"), ("postrouting", "oifname", "to")):
        lines += [f"chain {hook} {{", f"type filter hook {hook} priority filter; policy accept;"]
        if ordered:
            jumps = _set(f'"{port.device}" : jump {prefix}_{_chain(port)}' for port in ordered)
            lines.append(f"{key} vmap {jumps}")
        lines.append("}")
    return [*lines, "}"]


def _chain(port: PortRules) -> str:
    return re.sub(r"[.-]", "_", port.device)


def _from_instance(port: PortRules) -> list[str]:
    """Its own MAC and address only; no DHCP answers, no router advertisements or redirects, no other protocols."""
    lines = [f"ether saddr != {port.mac} drop"]
    opens = [] if port.outgoing else [f"{OPENS} drop", "meta l4proto udp drop", *ECHO_REQUESTS]
    if isinstance(port.address, IPv4Address):
        lines += [
            f"ether type arp arp saddr ether != {port.mac} drop",
            f"ether type arp arp saddr ip != {_set([port.address, UNSPECIFIED])} drop",
            "ether type arp accept",
            f"ip saddr {UNSPECIFIED} udp sport 68 udp dport 67 accept",
            f"ip saddr != {port.address} drop",
            "ip protocol udp udp sport 67 drop",
            "icmp type redirect drop",
            *opens,
            "ether type ip accept",
        ]
    else:
        own = [port.address, link_local(port.mac)]
        lines += [
            f"ip6 saddr != {_set([*own, '::'])} drop",
            "icmpv6 type { nd-router-advert, nd-redirect } drop",
            f"icmpv6 type nd-neighbor-advert @th,64,128 != {_set(hex(int(address)) for address in own)} drop",
            "ip6 nexthdr udp udp sport 547 drop",
            *opens,
            "ether type ip6 accept",
        ]
    return [*lines, "drop"]


def _to_instance(port: PortRules) -> list[str]:
    lines = [
        "ether type arp accept",
        # Without these two a SYN hidden in a second fragment would pass; TCP as we need it never fragments.
        "ip frag-off & 0x3fff != 0 drop",
        "exthdr frag exists drop",
        f"icmp type {ICMP} accept",
        f"icmpv6 type {ICMPV6} accept",
        "icmpv6 type nd-router-advert accept",
    ]
    for admission in port.admissions:
        if not admission.ports:
            continue
        target = f"tcp dport {_set(sorted(admission.ports))}"
        if not admission.sources:
            lines.append(f"{OPENS} {target} accept")
        for family in ("ip", "ip6"):
            sources = [source for source in admission.sources if _family(source) == family]
            lines += [f"{family} saddr {source} {OPENS} {target} accept" for source in sources]
    lines += [
        f"{OPENS} drop",
        "meta l4proto tcp accept",  # packets of connections that exist; of others the VM's kernel says no
        "udp sport 67 udp dport 68 accept",
        "udp sport 547 udp dport 546 accept",
        "drop",
    ]
    return lines


def link_local(mac: str) -> Address:
    """The IPv6 link-local address that Linux derives from a MAC (EUI-64)."""
    octets = [int(part, 16) for part in mac.split(":")]
    interface = [octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]]
    return ip_address(int(ip_address("fe80::")) + int.from_bytes(bytes(interface), "big"))


class Firewall:
    """Loads rulesets with ``nft``."""

    def __init__(self, table: str) -> None:
        self._table = table

    def apply(self, bridges: Sequence[str], ports: Sequence[PortRules], routes: Sequence[Route]) -> None:
        """Make the tables so. Does nothing but look when they are already."""
        text = ruleset(self._table, bridges, ports, routes)
        digest = re.search(r"digest_[0-9a-f]{24}", text)
        assert digest is not None  # noqa: S101 (ruleset puts it there)
        if all(self._has_chain(family, digest.group()) for family in ("inet", "bridge")):
            return
        result = self._nft("--file", "-", text=text)
        if result.returncode:
            raise CloudError(
                f"The host's firewall refused our rules: {_first_line(result.stderr)}.",
                hint="nftables needs a kernel with the inet and bridge families (CONFIG_NF_TABLES_BRIDGE).",
            )

    def remove(self) -> None:
        """Take our tables away."""
        names = [(family, self._table) for family in ("inet", "bridge")]
        text = "".join(f"table {family} {table} {{}}\ndelete table {family} {table}\n" for family, table in names)
        result = self._nft("--file", "-", text=text)
        if result.returncode:
            raise CloudError(
                f"The host's firewall rules could not be removed: {_first_line(result.stderr)}.",
                hint=f"Remove the tables with: nft delete table bridge {self._table}.",
            )

    def _has_chain(self, family: str, chain: str) -> bool:
        return self._nft("--terse", "list", "chain", family, self._table, chain).returncode == 0

    def _nft(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
        if program is None:
            raise CloudError("nft is not installed.", hint="Install the package nftables.")
        try:
            return subprocess.run(
                [program, *arguments], input=text, capture_output=True, text=True, timeout=NFT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CloudError("nft does not finish.", hint="Look for a hanging nft process.") from error


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else "unknown reason"
