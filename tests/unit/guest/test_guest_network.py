"""NICs that come and go while the server serves: told by documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from guest_machines import CLIENT_MAC, MANAGEMENT_MAC, Machine, Session, document, firewall
from msgspec import convert

from sharewright.guest.document import Document, State, encode_request

FURTHER_MAC = "52:54:00:aa:00:09"


def nic(name: str, mac: str, address: str, gateway: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    route = {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": gateway}
    link = {"id": name, "type": "phy", "ethernet_mac_address": mac, "mtu": 1500}
    place = {"link": name, "type": "ipv4", "ip_address": address, "netmask": "255.255.255.0", "routes": [route]}
    return link, {**place, **more}


def data(*nics: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {"links": [link for link, _ in nics], "networks": [place for _, place in nics], "services": []}


MANAGEMENT = nic("admin", MANAGEMENT_MAC, "10.2.5.9", "10.2.5.1", replies_only=True)
TENANT = nic("tenant", CLIENT_MAC, "192.168.7.9", "192.168.7.1")
FURTHER = nic("tenant-2", FURTHER_MAC, "192.168.8.9", "192.168.8.1", replies_only=True)
BEFORE, AFTER = data(TENANT, MANAGEMENT), data(TENANT, MANAGEMENT, FURTHER)


@pytest.fixture
def vm(machine: Machine) -> Machine:
    machine.add_nic("eth0", CLIENT_MAC)
    machine.add_nic("eth1", MANAGEMENT_MAC)
    return machine


def ask(session: Session, call: str, wanted: Document) -> dict[str, Any]:
    return session.send(encode_request(call, document=wanted))


def apply(session: Session, wanted: Document) -> State:
    return convert(ask(session, "apply", wanted)["state"], State)


def observe(session: Session, wanted: Document) -> State:
    return convert(ask(session, "observe", wanted)["state"], State)


def ip_lines(vm: Machine) -> list[str]:
    """What ``ip`` was told since the last look."""
    lines = [line for line in vm.read("ip").splitlines() if not line.startswith("#")]
    vm.write("ip", "")
    return lines


def test_a_further_nic_leaves_the_others_alone(vm: Machine, session: Session) -> None:
    first = apply(session, document(1, network=BEFORE, firewall=firewall()))
    assert "configure the network" in first.changed
    rules = [line for line in ip_lines(vm) if line.startswith("rule")]
    assert rules == [
        "rule add from 192.168.7.9/32 lookup 100 priority 1000", "rule add from 10.2.5.9/32 lookup 101 priority 1001",
    ]  # fmt: skip
    vm.add_nic("eth2", FURTHER_MAC)
    wider = firewall()
    wider = type(wider)(wider.management_macs, wider.management_from, (CLIENT_MAC, FURTHER_MAC))
    second = apply(session, document(2, network=AFTER, firewall=wider))
    assert set(second.changed) == {"configure the network", "load the firewall"}
    lines = ip_lines(vm)
    assert [line for line in lines if line.startswith("rule")] == [
        "rule add from 192.168.8.9/32 lookup 102 priority 1002"
    ]
    assert "address replace 192.168.8.9/24 dev eth2" in lines
    assert "route replace 0.0.0.0/0 via 192.168.8.1 dev eth2 table 102 onlink" in lines
    assert "route replace 0.0.0.0/0 via 192.168.8.1 dev eth2 onlink" not in lines, "the default route stays"
    assert '"eth0", "eth2"' in vm.read("nft")
    third = apply(session, document(3, network=AFTER, firewall=wider))
    assert (third.changed, third.missing_nics) == ((), ())
    assert json.loads(vm.read("var/lib/sharewright/network.json")) == AFTER


def test_a_nic_that_goes(vm: Machine, session: Session) -> None:
    vm.add_nic("eth2", FURTHER_MAC)
    apply(session, document(1, network=AFTER))
    ip_lines(vm)
    apply(session, document(2, network=BEFORE))
    rules = [line for line in ip_lines(vm) if line.startswith("rule")]
    assert rules == ["rule del from 192.168.8.9/32 lookup 102 priority 1002"]
    assert json.loads(vm.read("var/lib/sharewright/network.json")) == BEFORE


def test_a_nic_that_is_not_there_hinders_nothing(vm: Machine, session: Session) -> None:
    state = observe(session, document(1, network=AFTER))
    assert state.missing_nics == (FURTHER_MAC,)
    assert "configure the network" in state.changed
    apply(session, document(1, network=BEFORE))
    assert observe(session, document(1, network=BEFORE)).changed == ()


def test_a_run_that_was_cut_short_is_done_again(vm: Machine, session: Session) -> None:
    apply(session, document(1, network=BEFORE))
    vm.add_nic("eth2", FURTHER_MAC)
    ip_lines(vm)
    vm.write("fail/ip", "")
    answer = ask(session, "apply", document(2, network=AFTER))
    assert answer["error"] == "failed", answer
    (vm.root / "fail/ip").unlink()
    ip_lines(vm)
    assert "configure the network" in observe(session, document(2, network=AFTER)).changed
    apply(session, document(2, network=AFTER))
    rules = [line for line in ip_lines(vm) if line.startswith("rule")]
    assert [rule.split()[1] for rule in rules] == ["del"] * 3 + ["add"] * 3, "what may be there goes first"
    assert observe(session, document(2, network=AFTER)).changed == ()


def test_what_an_older_program_configured_is_taken_over(vm: Machine, session: Session) -> None:
    old = [
        "rule del from 192.168.7.9/32 lookup 100 priority 1000",
        "rule del from 10.2.5.9/32 lookup 101 priority 1001",
    ]
    vm.write("run/sharewright/network.json", json.dumps({"batch": {}, "undoing": {"": old, "-6": []}}))
    apply(session, document(1, network=BEFORE))
    assert [line for line in ip_lines(vm) if line.startswith("rule")] == [], "they are there already"
    assert observe(session, document(1, network=BEFORE)).changed == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"links": [], "networks": []},
        {"links": [{"id": "a"}]},
        {**BEFORE, "networks": [{**TENANT[1], "ip_address": "192.168.7.9; reboot"}]},
        {**BEFORE, "networks": [{**TENANT[1], "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0"}]}]},
        {**BEFORE, "more": 1},
        "eth0",
    ],
)
def test_a_wrong_network_is_refused_whole(vm: Machine, session: Session, wrong: Any) -> None:
    answer = ask(session, "apply", document(1, network=wrong))
    assert answer["error"] == "invalid", answer
    assert vm.calls == []
