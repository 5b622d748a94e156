"""What the program takes from a document, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from guest_machines import document, firewall, rule, share

from sharewright.guest.program.desired import parse_document
from sharewright.guest.program.firewall import firewall_text, parse_firewall
from sharewright.guest.program.host import Refusal

FULL: dict[str, Any] = msgspec.to_builtins(
    document(
        7, share(1, rule("10.0.0.5"), rule("10.0.0.0/24", "ro")), share(2, type="xfs"), firewall=firewall("10.0.0.0/24")
    )
)


def full() -> dict[str, Any]:
    """As it comes out of JSON: lists, no tuples."""
    value = msgspec.json.decode(msgspec.json.encode(FULL))
    assert isinstance(value, dict)
    return copy.deepcopy(value)


def test_a_whole_document() -> None:
    parsed = parse_document(full())
    assert (parsed.generation, parsed.device_timeout, parsed.ports) == (7, 0.3, [2049])
    assert [each.path for each in parsed.shares] == [f"/shares/share-{each.id}" for each in parsed.shares]
    assert [each.access_to for each in parsed.shares[0].rules] == ["10.0.0.5", "10.0.0.0/24"]
    assert parsed.firewall is not None


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("generation",), -1, "generation"),
        (("generation",), True, "generation"),
        (("generation",), "1", "generation"),
        (("server_id",), "../etc", "server_id"),
        (("format_version",), 2, "format_version"),
        (("device_timeout",), 1e9, "device_timeout"),
        (("device_timeout",), float("nan"), "device_timeout"),
        (("surprise",), 1, "surprise"),
        (("shares",), {}, "shares"),
        (("shares", 0, "id"), "x/../../etc", "share.id"),
        (("shares", 0, "serial"), "a b", "serial"),
        (("shares", 0, "serial"), "--help", "serial"),
        (("shares", 0, "protocol"), "SMB", "protocol"),
        (("shares", 0, "encryption"), "maybe", "encryption"),
        (("shares", 0, "rules", 0, "access_type"), "user", "access_type"),
        (("shares", 0, "rules", 0, "access_key"), "with a\nline", "access_key"),
        (("shares", 0, "squash"), "insecure,no_root_squash", "squash"),
        (("shares", 0, "filesystem", "type"), "vfat", "filesystem.type"),
        (("shares", 0, "filesystem", "uuid"), "-F", "filesystem.uuid"),
        (("shares", 0, "filesystem", "create"), 1, "create"),
        (("shares", 0, "rules", 0, "access_level"), "rw,insecure", "access_level"),
        (("shares", 0, "rules", 0, "access_to"), 5, "access_to"),
        (("shares", 0, "rules", 0, "extra"), 5, "extra"),
        (("shares", 1, "id"), FULL["shares"][0]["id"], "unique"),
        (("shares", 1, "serial"), FULL["shares"][0]["serial"], "unique"),
        (("shares", 1, "filesystem", "uuid"), FULL["shares"][0]["filesystem"]["uuid"], "unique"),
        (("firewall", "management_macs"), ["eth0"], "management_macs"),
        (("firewall", "management_from"), ["10.0.0.1; drop"], "management_from"),
        (("firewall", "client_ports"), [0], "client_ports"),
        (("firewall", "client_from"), "10.0.0.0/8", "client_from"),
    ],
)
def test_what_is_refused(path: tuple[Any, ...], value: Any, word: str) -> None:
    wrong = full()
    place: Any = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Refusal) as refused:
        parse_document(wrong)
    assert refused.value.kind == "invalid"
    assert word in refused.value.message


@pytest.mark.parametrize("value", [None, [], "document", {}, {"server_id": "x"}])
def test_what_is_no_document(value: Any) -> None:
    with pytest.raises(Refusal):
        parse_document(value)


def test_firewall_text() -> None:
    wanted, ports = parse_firewall(
        {
            "management_macs": ["52:54:00:AA:00:01", "52:54:00:aa:00:99"],
            "management_from": ["10.254.0.1", "fd00::/64"],
            "client_macs": ["52:54:00:aa:00:02"],
            "client_from": ["10.0.0.0/8", "10.1.0.0/16", "192.168.1.0/24"],
            "client_ports": [2049, 445],
        }
    )
    text = firewall_text(wanted, ports, {"52:54:00:aa:00:01": "eth0", "52:54:00:aa:00:02": "eth1"})
    assert 'iifname { "eth0" } ip saddr { 10.254.0.1/32 } tcp dport { 22 } accept' in text
    assert 'iifname { "eth0" } ip6 saddr { fd00::/64 } tcp dport { 22 } accept' in text
    assert 'iifname { "eth1" } ip saddr { 10.0.0.0/8, 192.168.1.0/24 } tcp dport { 2049, 445 } accept' in text
    assert text.count("policy drop") == 2
    assert text.index("delete table") < text.index("table inet sharewright_guest {")


def test_admins_reach_the_shares_by_a_nic_of_their_own() -> None:
    wanted, ports = parse_firewall(
        {
            "management_macs": ["52:54:00:aa:00:03"],
            "management_from": ["10.2.5.1"],
            "client_macs": ["52:54:00:aa:00:02"],
            "client_from": ["192.168.1.0/24"],
            "admin_macs": ["52:54:00:AA:00:03"],
        }
    )
    text = firewall_text(wanted, ports, {"52:54:00:aa:00:02": "eth0", "52:54:00:aa:00:03": "eth1"})
    admitted = [line.strip() for line in text.splitlines() if "dport" in line]
    assert admitted == [
        'iifname { "eth1" } ip saddr { 10.2.5.1/32 } tcp dport { 22 } accept',
        'iifname { "eth0" } ip saddr { 192.168.1.0/24 } tcp dport { 2049 } accept',
        'iifname { "eth1" } tcp dport { 2049 } accept',
    ]


def test_an_ipv6_packet_is_for_the_nic_with_the_address() -> None:
    wanted, ports = parse_firewall(
        {
            "management_macs": ["52:54:00:aa:00:01"],
            "management_from": ["10.2.5.1"],
            "client_macs": ["52:54:00:aa:00:02"],
        }
    )
    names = {"52:54:00:aa:00:01": "eth0", "52:54:00:aa:00:02": "eth1"}
    text = firewall_text(wanted, ports, names, {"eth0": ["10.2.5.9"], "eth1": ["192.168.7.9", "fd00:7::9"]})
    drops = [line.strip() for line in text.splitlines() if line.endswith("} drop")]
    assert drops == [
        'iifname "eth0" ip6 daddr != { fe80::/10, ff00::/8 } drop',
        'iifname "eth1" ip6 daddr != { fd00:7::9, fe80::/10, ff00::/8 } drop',
    ]
    assert text.index("} drop") < text.index("dport"), "before anything is admitted"
    only4 = firewall_text(wanted, ports, names, {"eth0": ["10.2.5.9"], "eth1": ["192.168.7.9"]})
    assert only4 == firewall_text(wanted, ports, names)


def test_nobody_may_manage_when_no_source_is_given() -> None:
    wanted, ports = parse_firewall(
        {"management_macs": ["52:54:00:aa:00:01"], "management_from": [], "client_macs": ["52:54:00:aa:00:01"]}
    )
    text = firewall_text(wanted, ports, {"52:54:00:aa:00:01": "eth0"})
    assert "22" not in text
    assert 'iifname { "eth0" } tcp dport { 2049 } accept' in text
