"""Addresses and routes from the config drive (network data in OpenStack's format), applied with ``ip -batch``.

Every address answers by the NIC it is on: each has a routing table of its own, selected by source address, that ends in
"unreachable". Otherwise a reply to a client could leave by the other NIC, with the wrong path and past the port's
anti-spoofing; and the tenant's network could be reached from the service network.
"""

from __future__ import annotations

import ipaddress
import json

from .firewall import interfaces
from .host import RUN, STATE, CommandFailed, Host, Refusal, polls

APPLIED = f"{RUN}/network.json"
SAVED = f"{STATE}/network.json"  # of the last document; it goes before the config drive's, which never changes
FIRST_TABLE = 100
FIRST_PRIORITY = 1000
METRIC = 1024  # of routes besides the default one, in the main table: a NIC's own subnet goes before them
# Names below /proc/sys/net/ipv4/conf/<all, default, NIC>/.
STRICT = {
    "rp_filter": "1",  # a packet is dropped unless the reply would leave by the NIC it came in
    "arp_ignore": "1",  # no ARP answer for the other NIC's address
    "arp_announce": "2",
    "arp_notify": "1",  # tell neighbours when a NIC comes up: they may know the address with an earlier server's MAC
    "accept_redirects": "0",
    "send_redirects": "0",
    "accept_source_route": "0",
}
STRICT6 = {"accept_ra": "0", "autoconf": "0", "accept_redirects": "0", "ndisc_notify": "1"}


class Placement:
    """One address on one NIC, with the routes that leave by it: (destination, gateway). ``replies_only``: they are for
    what is sent from this address, and the main table does not get them."""

    __slots__ = ("address", "nic", "replies_only", "routes")

    def __init__(
        self,
        nic: str,
        address: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
        routes: list[tuple[str, str]],
        *,
        replies_only: bool = False,
    ) -> None:
        self.nic = nic
        self.address = address
        self.routes = routes
        self.replies_only = replies_only


def placements(data: dict[str, object], names: dict[str, str]) -> tuple[dict[str, int], list[Placement]]:
    """Network data → MTU per interface name, and the addresses. Refusal (invalid) when it is malformed; a link
    whose MAC no NIC has is left out."""
    try:
        nics: dict[str, str] = {}
        mtus: dict[str, int] = {}
        for link in _dictionaries(data, "links"):
            nic = names.get(str(link.get("ethernet_mac_address", "")).lower())
            if nic:
                nics[str(link["id"])] = nic
                mtus[nic] = int(str(link.get("mtu") or 1500))
        found = []
        for network in _dictionaries(data, "networks"):
            nic = nics.get(str(network["link"]))
            if nic is None or not network.get("ip_address"):
                continue
            text = str(network["ip_address"])
            if "/" not in text:
                text += "/" + _prefix(str(network["netmask"]))
            address = ipaddress.ip_interface(text)
            routes = [
                (str(ipaddress.ip_network(f"{r['network']}/{_prefix(str(r['netmask']))}")), _address(str(r["gateway"])))
                for r in _dictionaries(network, "routes")
            ]
            if network.get("gateway") and not any(destination.endswith("/0") for destination, _ in routes):
                everywhere = "0.0.0.0/0" if address.version == 4 else "::/0"
                routes.append((everywhere, _address(str(network["gateway"]))))
            found.append(Placement(nic, address, routes, replies_only=network.get("replies_only") is True))
    except (KeyError, ValueError, TypeError) as error:
        raise Refusal("invalid", f"network_data.json is malformed: {error!r}") from error
    return mtus, found


def _dictionaries(data: dict[str, object], key: str) -> list[dict[str, object]]:
    values = data.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"{key} is not a list of objects")
    return values


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _prefix(netmask: str) -> str:
    """Prefix length of a netmask; IPv6 masks come as addresses too, which ipaddress does not read."""
    if netmask.isdigit():
        return netmask
    bits = int(ipaddress.ip_address(netmask))
    width = 128 if ":" in netmask else 32
    length = bits.bit_count()
    if bits != ((1 << length) - 1) << (width - length):
        raise ValueError(f"{netmask} is not a netmask")
    return str(length)


class Commands:
    """What ``ip`` is to be told, by address family: "" is IPv4 and what both families share, "-6" the rest. (A rule's
    family is taken from the option only; without one it is IPv4.) ``lines`` may be repeated, ``rules`` may not."""

    __slots__ = ("lines", "rules")

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {"": [], "-6": []}
        self.rules: dict[str, list[str]] = {"": [], "-6": []}

    def plain(self) -> dict[str, dict[str, list[str]]]:
        return {"lines": self.lines, "rules": self.rules}


def commands(mtus: dict[str, int], addresses: list[Placement]) -> Commands:
    made = Commands()
    # Addresses first: a NIC announces those that it has when it comes up (arp_notify, ndisc_notify).
    shared = made.lines[""]
    shared += [f"link set dev {nic} mtu {mtu}" for nic, mtu in mtus.items()]
    for place in addresses:
        # The address is ours alone by the cloud's allocation; waiting for duplicate detection would delay the start.
        nodad = " nodad" if place.address.version == 6 else ""
        shared.append(f"address replace {place.address} dev {place.nic}{nodad}")
    shared += [f"link set dev {nic} up" for nic in mtus]
    for index, place in enumerate(addresses):
        six = place.address.version == 6
        family = "-6" if six else ""
        lines = made.lines[family]
        table, priority = FIRST_TABLE + index, FIRST_PRIORITY + index
        # Not the connected route's "src": the kernel refuses a tentative IPv6 address there, and the rule implies it.
        lines.append(f"route replace {place.address.network} dev {place.nic} table {table}")
        for destination, gateway in place.routes:
            lines.append(f"route replace {destination} via {gateway} dev {place.nic} table {table} onlink")
            if place.replies_only:
                continue
            metric = "" if destination.endswith("/0") else f" metric {METRIC}"
            lines.append(f"route replace {destination} via {gateway} dev {place.nic}{metric} onlink")
        if not any(destination.endswith("/0") for destination, _ in place.routes):
            lines.append(f"route replace unreachable {'::/0' if six else '0.0.0.0/0'} table {table}")
        host_address = f"{place.address.ip}/{128 if six else 32}"
        made.rules[family].append(f"from {host_address} lookup {table} priority {priority}")
    return made


def macs_of(data: dict[str, object]) -> list[str]:
    return [str(link.get("ethernet_mac_address", "")).lower() for link in _dictionaries(data, "links")]


def addresses_by_nic(data: dict[str, object] | None, names: dict[str, str]) -> dict[str, list[str]]:
    """Interface → the addresses that the data gives it."""
    if data is None:
        return {}
    mtus, places = placements(data, names)
    return {nic: [str(place.address.ip) for place in places if place.nic == nic] for nic in mtus}


def missing_nics(host: Host, data: dict[str, object]) -> list[str]:
    """MACs of the data's links that no NIC has."""
    names = interfaces(host)
    return [mac for mac in macs_of(data) if mac not in names]


def is_configured(host: Host, data: dict[str, object]) -> bool:
    """Whether :meth:`configure` has been told the same, for the NICs that are there, since the last boot."""
    return bool(_applied(host).get("done")) and _applied(host).get("wanted") == _wanted(host, data)[1].plain()


def _wanted(host: Host, data: dict[str, object]) -> tuple[list[str], Commands, list[str]]:
    """The NICs that the data speaks of and that are there, what to tell ``ip``, the addresses."""
    mtus, addresses = placements(data, interfaces(host))
    return list(mtus), commands(mtus, addresses), [str(place.address) for place in addresses]


def _applied(host: Host) -> dict[str, object]:
    try:
        found = json.loads(host.read(APPLIED) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def configure(host: Host, data: dict[str, object], *, device_seconds: float = 15.0) -> list[str]:
    """Bring the NICs up as ``data`` says and return the addresses. A second run with the same data does nothing. Rules
    of addresses that stay are not touched, so connections to them go on."""
    for _ in polls(device_seconds, 0.1):  # drivers may still be loading
        if not missing_nics(host, data):
            break
    nics, wanted, addresses = _wanted(host, data)
    if macs_of(data) and not nics:
        raise Refusal("invalid", f"No NIC has any of the MACs {', '.join(macs_of(data))} of network_data.json.")
    _harden(host, nics)
    before = _applied(host)
    if before.get("done") and before.get("wanted") == wanted.plain():
        return addresses
    # The rules that may be there, also those of a run that was cut short.
    rules = _rules(before)
    mark = {"wanted": wanted.plain(), "rules": {f: sorted({*rules[f], *wanted.rules[f]}) for f in rules}, "done": False}
    host.replace(APPLIED, json.dumps(mark), 0o600)
    again = not before.get("done", True)
    for family in ("", "-6"):
        old, new = rules[family], wanted.rules[family]
        gone = old if again else [rule for rule in old if rule not in new]
        if gone:
            # It goes on after a rule that is not there.
            _ip(host, family, [f"rule del {rule}" for rule in gone], force=True)
        lines = wanted.lines[family] + [f"rule add {rule}" for rule in new if again or rule not in old]
        if lines:
            _ip(host, family, lines)
    host.replace(APPLIED, json.dumps({**mark, "rules": wanted.rules, "done": True}), 0o600)
    return addresses


def _rules(applied: dict[str, object]) -> dict[str, list[str]]:
    # "undoing": of the program's versions before, which the server may have booted with.
    found = applied.get("rules", applied.get("undoing"))
    if not isinstance(found, dict):
        return {"": [], "-6": []}
    return {f: [str(rule).removeprefix("rule del ") for rule in found.get(f) or []] for f in ("", "-6")}


def _ip(host: Host, family: str, lines: list[str], *, force: bool = False) -> None:
    options = [*filter(None, [family]), *(["-force"] if force else []), "-batch", "-"]
    done = host.run("ip", *options, data="".join(f"{line}\n" for line in lines), timeout=30.0)
    if not force:
        done.check()


def _harden(host: Host, nics: list[str]) -> None:
    for scope in ("all", "default", *nics):
        for version, values in (("ipv4", STRICT), ("ipv6", STRICT6)):
            directory = f"/proc/sys/net/{version}/conf/{scope}"
            for name, value in values.items():
                if host.exists(f"{directory}/{name}") and not host.poke(f"{directory}/{name}", value):
                    raise CommandFailed(f"{directory}/{name} cannot be set to {value}")
