"""The text of the firewall; tests/contract/test_libvirt_firewall.py sends packets through it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from sharewright.clouds.contract import Admission
from sharewright.clouds.libvirt.firewall import PortRules, Route, digest_chain, link_local, ruleset

PORT = PortRules(
    device="swp1",
    mac="52:54:00:00:00:01",
    address=ip_address("10.0.0.2"),
    admissions=(Admission(ports=(2049, 22), sources=(ip_network("10.0.0.0/24"),)),),
)


def test_the_text_depends_on_the_rules_and_not_on_their_order() -> None:
    other = PortRules(device="swp0", mac="52:54:00:00:00:02", address=ip_address("10.0.0.3"), admissions=())
    one = ruleset("t", ["b", "a"], [PORT, other], [])
    assert one == ruleset("t", ["a", "b"], [other, PORT], [])
    assert one != ruleset("t", ["a"], [other, PORT], [])
    assert digest_chain("a") != digest_chain("b")


def test_a_port_without_open_ports_admits_no_connection() -> None:
    closed = PortRules(
        device="swp1",
        mac=PORT.mac,
        address=PORT.address,
        admissions=(Admission(ports=(), sources=(ip_network("0.0.0.0/0"),)),),
    )
    assert "tcp dport" not in ruleset("t", [], [closed], [])


def test_sources_of_one_family_do_not_open_the_other() -> None:
    text = ruleset("t", [], [PORT], [])
    (line,) = [line for line in text.splitlines() if "tcp dport" in line]
    assert line.startswith("ip saddr 10.0.0.0/24 ")
    assert "{ 22, 2049 }" in line


def test_a_port_that_only_answers_opens_nothing() -> None:
    for address in ("10.0.0.2", "fd00::2"):
        quiet = replace(PORT, address=ip_address(address), outgoing=False)
        lines = ruleset("t", [], [quiet], []).splitlines()
        lines = lines[lines.index("chain from_swp1 {") : lines.index("chain to_swp1 {")]
        opens = lines.index("tcp flags & (syn | ack) == syn drop")
        assert (
            opens < lines.index("meta l4proto udp drop") < lines.index(f"ether type ip{'6' * (':' in address)} accept")
        )
    assert "meta l4proto udp drop" not in ruleset("t", [], [PORT], [])


def test_each_admission_has_its_own_sources() -> None:
    port = PortRules(
        device="swp1",
        mac=PORT.mac,
        address=PORT.address,
        admissions=(
            Admission(ports=(22,), sources=(ip_network("10.0.0.1/32"),)),
            Admission(ports=(2049,)),
            Admission(ports=(), sources=()),
        ),
    )
    lines = [line for line in ruleset("t", [], [port], []).splitlines() if "tcp dport" in line]
    assert len(lines) == 2
    assert "10.0.0.1/32" in lines[0]
    assert "{ 22 }" in lines[0]
    assert "saddr" not in lines[1]
    assert "{ 2049 }" in lines[1]


def test_nothing_is_filtered_without_networks() -> None:
    text = ruleset("t", [], [], [])
    assert "drop" not in text


@pytest.mark.parametrize("device", ["", "a" * 16, 'x" accept', "a b", "-x", "a\nb"])
def test_devices_are_validated(device: str) -> None:
    with pytest.raises(ValueError, match="device"):
        PortRules(device=device, mac=PORT.mac, address=PORT.address, admissions=())
    with pytest.raises(ValueError, match="device"):
        ruleset("t", [device], [], [])
    with pytest.raises(ValueError, match="device"):
        Route(
            tenant_bridge=device,
            tenant_cidr=ip_network("10.0.0.0/24"),
            service_bridge="b",
            service_cidr=ip_network("10.1.0.0/28"),
            ports=(2049,),
        )


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "52:54:00:00:00:0g", "52:54:00:00:00:01 accept"])
def test_macs_are_validated(mac: str) -> None:
    with pytest.raises(ValueError, match="MAC"):
        PortRules(device="a", mac=mac, address=PORT.address, admissions=())


@pytest.mark.parametrize("port", [0, 65536, -1, "22"])
def test_tcp_ports_are_validated(port: int) -> None:
    with pytest.raises(ValueError, match="TCP"):
        PortRules(device="a", mac=PORT.mac, address=PORT.address, admissions=(Admission(ports=(port,)),))


def test_link_local_addresses_follow_eui_64() -> None:
    assert link_local("52:54:00:12:34:56") == ip_address("fe80::5054:ff:fe12:3456")
