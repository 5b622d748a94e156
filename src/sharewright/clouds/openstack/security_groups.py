"""Port filters: one security group for each distinct filter, shared by all ports of the deployment that have it.

Groups are few that way (Neutron's default quota is ten), and a server's ports cost no request for a filter that another
server has already. The filter is written in the group's description too, so that :meth:`SecurityGroups.restore` can put
right what somebody changed without asking who uses it. A group holds exactly its filter's rules: what is missing is
added, what is there besides is removed, the rules that Neutron gives every new group included.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, NamedTuple

import structlog
from openstack.connection import Connection as Sdk
from openstack.network.v2.security_group import SecurityGroup

from sharewright.clouds.contract import TAG_DEPLOYMENT, Admission, PortSpec
from sharewright.clouds.openstack.errors import is_quota
from sharewright.clouds.openstack.neutron import Neutron, fault
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.tags import from_description, to_description
from sharewright.errors import CloudCapacityExceeded, CloudError
from sharewright.identifiers import short_hash

log = structlog.get_logger()

TAG_FILTER = "sharewright_filter"
TRUSTED_SECONDS = 30.0  # for so long a group that was just looked at is not looked at again
ECHO = {"IPv4": ("icmp", 8), "IPv6": ("ipv6-icmp", 128)}
PROTOCOLS = {"6": "tcp", "1": "icmp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp", "icmp6": "ipv6-icmp"}
EVERYWHERE = {"IPv4": "0.0.0.0/0", "IPv6": "::/0"}


class Rule(NamedTuple):
    """A rule as it counts. ``remote``: a CIDR, or None for any; ``other`` is what no rule of ours has."""

    direction: str
    ethertype: str
    protocol: str | None
    first: int | None
    last: int | None
    remote: str | None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a port lets in, and whether it opens connections of its own."""

    admissions: tuple[Admission, ...]
    outgoing: bool

    @classmethod
    def of(cls, spec: PortSpec) -> Filter:
        first = Admission(ports=spec.allowed_tcp, sources=spec.allowed_from)
        return cls(tuple(each for each in (first, *spec.also_allowed) if each.ports), spec.outgoing)

    def text(self) -> str:
        """The filter in a line: "22<10.0.0.0/24,10.1.0.0/24;2049<;>": the ">" is for outgoing connections."""
        parts = []
        for each in self.admissions:
            ports = ",".join(map(str, sorted(set(each.ports))))
            parts.append(f"{ports}<{','.join(sorted({str(source) for source in each.sources}))}")
        return ";".join([*sorted(parts), *([">"] if self.outgoing else [])])

    @classmethod
    def parse(cls, text: str) -> Filter | None:
        """The filter of a line; None when it is none."""
        admissions = []
        parts = text.split(";") if text else []
        outgoing = parts[-1:] == [">"]
        try:
            for part in parts[: len(parts) - outgoing]:
                ports, arrow, sources = part.partition("<")
                if not arrow:
                    return None
                admissions.append(
                    Admission(
                        ports=tuple(int(port) for port in ports.split(",")),
                        sources=tuple(ip_network(source) for source in sources.split(",") if source),
                    )
                )
        except ValueError:
            return None
        return cls(tuple(admissions), outgoing)

    def rules(self) -> frozenset[Rule]:
        """Neutron lets ARP, neighbour discovery and DHCP replies through by itself, and answers to what a rule let."""
        found = {Rule("ingress", kind, protocol, number, 0, None) for kind, (protocol, number) in ECHO.items()}
        for each in self.admissions:
            remotes = [(f"IPv{source.version}", str(source)) for source in each.sources] or list(EVERYWHERE.items())
            found |= {
                Rule("ingress", kind, "tcp", port, port, None if remote == EVERYWHERE[kind] else remote)
                for kind, remote in remotes
                for port in each.ports
            }
        if self.outgoing:
            found |= {Rule("egress", kind, None, None, None, None) for kind in ECHO}
        return frozenset(found)


def rule_of(found: Mapping[str, Any]) -> Rule:
    """Neutron's rule, with the spellings that mean the same made one."""
    kind = str(found.get("ethertype"))
    protocol = found.get("protocol")
    if protocol is not None:
        protocol = PROTOCOLS.get(str(protocol).lower(), str(protocol).lower())
    first, last = found.get("port_range_min"), found.get("port_range_max")
    if protocol in ("icmp", "ipv6-icmp") and first is not None and last is None:
        last = 0  # echo has no other code
    remote = found.get("remote_ip_prefix")
    return Rule(
        direction=str(found.get("direction")),
        ethertype=kind,
        protocol=protocol,
        first=first,
        last=last,
        remote=None if remote == EVERYWHERE.get(kind) else remote,
        other=found.get("remote_group_id") or found.get("remote_address_group_id"),
    )


class SecurityGroups:
    def __init__(self, neutron: Neutron) -> None:
        self._neutron = neutron
        self._lock = threading.Lock()
        self._trusted: dict[str, tuple[str, float]] = {}  # name → id, when it was right

    def name(self, wanted: Filter) -> str:
        label = re.sub(r"[^A-Za-z0-9._-]", "-", self._neutron.deployment)
        return f"sharewright-{label}-{short_hash(self._neutron.deployment, wanted.text())}"

    def ensure(self, wanted: Filter, deadline: Deadline) -> str:
        """The id of the group with exactly this filter."""
        name = self.name(wanted)
        trusted = self._trust(name)
        if trusted:
            return trusted
        with self._neutron.connection.locks.hold(f"security group {name}", deadline):
            trusted = self._trust(name)  # another thread may just have looked
            if trusted:
                return trusted
            found = self._neutron.call(
                f"looking for security group {name}", lambda sdk: self._named(sdk, name), deadline
            )
            new = found is None
            if found is None:
                found = self._eldest(self._create(name, wanted, deadline), deadline)
            self._reconcile(found, wanted, deadline, new=new)
            with self._lock:
                self._trusted[name] = (str(found.id), time.monotonic())
        return str(found.id)

    def _trust(self, name: str) -> str:
        """The id of a group that was right a moment ago, or nothing."""
        with self._lock:
            identifier, seen = self._trusted.get(name, ("", 0.0))
        return identifier if time.monotonic() - seen < TRUSTED_SECONDS else ""

    def distrust(self, wanted: Filter) -> None:
        """Look at it again next time: somebody says that it is not there."""
        with self._lock:
            self._trusted.pop(self.name(wanted), None)

    def restore(self, deadline: Deadline) -> None:
        """Put right every group of ours that tells what it should be."""
        for group in self._all(deadline):
            text = from_description(group.description).get(TAG_FILTER)
            wanted = Filter.parse(text) if text is not None else None
            if wanted is not None and self.name(wanted) == group.name:
                self._reconcile(group, wanted, deadline)

    def remove_unused(self, deadline: Deadline) -> None:
        """Delete the groups that no port of ours has. One that gets a port meanwhile stays: Neutron refuses."""
        groups = self._all(deadline)
        if not groups:
            return
        ports = self._neutron.call(
            "listing ports",
            lambda sdk: list(sdk.network.ports(project_id=self._neutron.project, fields=("id", "security_groups"))),
            deadline,
        )
        used = {identifier for port in ports for identifier in port.security_group_ids or ()}
        for group in groups:
            if group.id not in used:
                self._remove(str(group.id), str(group.name), deadline)

    # ---- parts ----

    def _named(self, sdk: Sdk, name: str) -> SecurityGroup | None:
        found = sdk.network.security_groups(name=name, project_id=self._neutron.project)
        return next(iter(self._neutron.ours(found)), None)

    def _all(self, deadline: Deadline) -> list[SecurityGroup]:
        found = self._neutron.call(
            "listing security groups",
            lambda sdk: list(sdk.network.security_groups(project_id=self._neutron.project)),
            deadline,
        )
        return self._neutron.ours(found)

    def _eldest(self, mine: SecurityGroup, deadline: Deadline) -> SecurityGroup:
        """The oldest group of mine's name: another worker may have made the same at the same moment, and the quota is
        small. (A port that somebody gives mine in between makes Neutron refuse, and both stay.)"""
        name = str(mine.name)
        found = self._neutron.call(f"looking for security group {name}", lambda sdk: self._named(sdk, name), deadline)
        if found is None or found.id == mine.id:
            return mine
        self._remove(str(mine.id), name, deadline)
        return found

    def _remove(self, identifier: str, name: str, deadline: Deadline) -> None:
        with self._lock:
            self._trusted.pop(name, None)
        try:
            self._neutron.call(
                f"deleting security group {name}", lambda sdk: sdk.network.delete_security_group(identifier), deadline
            )
        except CloudError as error:
            if fault(error) != "SecurityGroupInUse":
                log.warning("a security group could not be deleted", group=name, reason=error.message)

    def _remove_rule(self, identifier: str, name: str, deadline: Deadline) -> None:
        self._neutron.look(
            f"removing a rule from security group {name}",
            lambda sdk: sdk.network.delete_security_group_rule(identifier),
            deadline,
        )

    def _create(self, name: str, wanted: Filter, deadline: Deadline) -> SecurityGroup:
        tags = {TAG_DEPLOYMENT: self._neutron.deployment}
        try:
            description = to_description({**tags, TAG_FILTER: wanted.text()}, name)
        except CloudError:  # too many sources for a description; ensure() alone knows them then
            description = to_description(tags, name)
        try:
            return self._neutron.connection.create(
                f"making security group {name}",
                lambda sdk: sdk.network.create_security_group(name=name, description=description),
                again=lambda sdk: self._named(sdk, name),
                deadline=deadline,
            )
        except CloudCapacityExceeded as error:
            if is_quota(error):
                raise CloudCapacityExceeded(
                    f"No security group is left for a new filter: {error.message}",
                    hint="Raise the quotas security-groups and security-group-rules of Sharewright's project "
                    "(docs/openstack-networks.md tells how many are needed).",
                ) from error
            raise

    def _reconcile(self, group: SecurityGroup, wanted: Filter, deadline: Deadline, *, new: bool = False) -> None:
        """Make the group's rules those of the filter. Added first, so that nobody is locked out in between."""
        rules = wanted.rules()
        kept: set[Rule] = set()
        extra: list[str] = []
        for found in group.security_group_rules or ():
            rule = rule_of(found)
            if rule in rules and rule not in kept:
                kept.add(rule)
            else:
                extra.append(str(found["id"]))
        missing = sorted(rules - kept, key=str)
        if missing:
            body = [_attributes(rule, str(group.id)) for rule in missing]
            try:
                self._neutron.call(
                    f"adding rules to security group {group.name}",
                    lambda sdk: list(sdk.network.create_security_group_rules(body)),
                    deadline,
                )
            except CloudError as error:
                if fault(error) != "SecurityGroupRuleExists":
                    raise
                # Another process was quicker with some of them; all or nothing was added for us.
                for one in body:
                    self._add(one, str(group.name), deadline)
        for identifier in extra:
            self._remove_rule(identifier, str(group.name), deadline)
        if (extra or missing) and not new:
            log.warning("a security group was put right", group=group.name, added=len(missing), removed=len(extra))

    def _add(self, attributes: dict[str, Any], name: str, deadline: Deadline) -> None:
        try:
            self._neutron.call(
                f"adding a rule to security group {name}",
                lambda sdk: sdk.network.create_security_group_rule(**attributes),
                deadline,
            )
        except CloudError as error:
            if fault(error) != "SecurityGroupRuleExists":
                raise


def _attributes(rule: Rule, group_id: str) -> dict[str, Any]:
    """As openstacksdk names them."""
    given = {
        "security_group_id": group_id,
        "direction": rule.direction,
        "ether_type": rule.ethertype,
        "protocol": rule.protocol,
        "port_range_min": rule.first,
        "port_range_max": rule.last,
        "remote_ip_prefix": rule.remote,
    }
    return {name: value for name, value in given.items() if value is not None}
