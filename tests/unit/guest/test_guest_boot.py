"""``boot``: the packed program on a scratch root with a config drive."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from guest_machines import CLIENT_MAC, MANAGEMENT_MAC, Machine

from sharewright.guest.program import network
from sharewright.guest.program.boot import boot as boot_here
from sharewright.guest.program.boot import find_drive
from sharewright.guest.program.host import Host, Refusal

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbg==\n-----END OPENSSH PRIVATE KEY-----\n"
FIREWALL = {
    "management_macs": [MANAGEMENT_MAC],
    "management_from": ["10.254.0.1/32"],
    "client_macs": [CLIENT_MAC],
    "client_from": [],
    "client_ports": [2049],
}


def user_data(**fields: Any) -> dict[str, Any]:
    return {
        "sharewright": 1,
        "authorized_keys": ['restrict,command="/usr/lib/sharewright/sharewright-guest serve" ssh-ed25519 AAAA ours'],
        "ssh_host_ed25519_key": KEY,
        "firewall": FIREWALL,
        **fields,
    }


NETWORK = {
    "links": [
        {"id": "service", "ethernet_mac_address": MANAGEMENT_MAC.upper(), "mtu": 1450, "type": "phy"},
        {"id": "tenant", "ethernet_mac_address": CLIENT_MAC, "mtu": 9000, "type": "phy"},
    ],
    "networks": [
        {
            "link": "service",
            "type": "ipv4",
            "ip_address": "10.254.0.5",
            "netmask": "255.255.255.240",
            "routes": [{"network": "10.1.0.0", "netmask": "255.255.255.0", "gateway": "10.254.0.1"}],
        },
        {
            "link": "tenant",
            "type": "ipv4",
            "ip_address": "192.168.7.9",
            "netmask": "255.255.255.0",
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.168.7.1"}],
        },
        {
            "link": "tenant",
            "type": "ipv6",
            "ip_address": "fd00:1::9",
            "netmask": "ffff:ffff:ffff:ffff::",
            "routes": [{"network": "::", "netmask": "::", "gateway": "fd00:1::1"}],
        },
    ],
    "services": [],
}


def insert_drive(machine: Machine, ours: dict[str, Any], data: dict[str, Any] = NETWORK, name: str = "sr0") -> None:
    device = machine.root / "dev" / name
    with device.open("wb") as file:
        file.seek(32768)
        file.write(b"\x01CD001\x01\x00" + b"LINUX".ljust(32) + b"config-2".ljust(32))
        file.truncate(80_000)
    (machine.root / "sys/block" / name).mkdir(exist_ok=True)
    latest = f"dev/{name}.content/openstack/latest"
    machine.write(f"{latest}/meta_data.json", json.dumps({"hostname": "manila-1234", "uuid": "x"}))
    machine.write(f"{latest}/network_data.json", json.dumps(data))
    machine.write(f"{latest}/user_data", json.dumps(ours))


def boot(machine: Machine) -> tuple[int, str]:
    done = subprocess.run([str(machine.program), "boot"], env=machine.environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.fixture
def vm(machine: Machine) -> Machine:
    machine.add_nic("eth0", MANAGEMENT_MAC)
    machine.add_nic("eth1", CLIENT_MAC)
    for nic in ("all", "default", "eth0", "eth1"):
        machine.write(f"proc/sys/net/ipv4/conf/{nic}/rp_filter", "0\n")
        machine.write(f"proc/sys/net/ipv4/conf/{nic}/arp_notify", "0\n")
        machine.write(f"proc/sys/net/ipv6/conf/{nic}/accept_ra", "1\n")
    machine.write("proc/sys/kernel/hostname", "localhost\n")
    machine.write("run/sharewright/.keep", "")
    (machine.root / "root").mkdir()
    return machine


def test_from_drive_to_server(vm: Machine) -> None:
    insert_drive(vm, user_data())
    status, said = boot(vm)
    assert (status, "10.254.0.5/28 192.168.7.9/24 fd00:1::9/64" in said) == (0, True), said
    assert [call.split()[0] for call in vm.calls] == ["mount", "umount", "nft", "ip", "ip"], "guarded before reachable"
    assert vm.read("etc/hostname") == "manila-1234\n"
    assert vm.read("etc/ssh/ssh_host_ed25519_key") == KEY
    assert (vm.root / "etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    assert vm.read("root/.ssh/authorized_keys").startswith("restrict,command=")
    assert (vm.root / "root/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert 'iifname { "eth0" } ip saddr { 10.254.0.1/32 } tcp dport { 22 } accept' in vm.read("nft")
    assert vm.read("proc/sys/net/ipv4/ip_forward").strip() == "0"
    for nic in ("all", "eth0", "eth1"):
        assert vm.read(f"proc/sys/net/ipv4/conf/{nic}/rp_filter").strip() == "1"
        assert vm.read(f"proc/sys/net/ipv4/conf/{nic}/arp_notify").strip() == "1"
        assert vm.read(f"proc/sys/net/ipv6/conf/{nic}/accept_ra").strip() == "0"
    four, six = vm.read("ip").split("# -6\n")
    assert four.splitlines() == [
        "# -batch",
        "link set dev eth0 mtu 1450",
        "link set dev eth1 mtu 9000",
        "address replace 10.254.0.5/28 dev eth0",
        "address replace 192.168.7.9/24 dev eth1",
        "address replace fd00:1::9/64 dev eth1 nodad",
        "link set dev eth0 up",  # with its addresses, which it announces
        "link set dev eth1 up",
        "route replace 10.254.0.0/28 dev eth0 table 100",
        "route replace 10.1.0.0/24 via 10.254.0.1 dev eth0 table 100 onlink",
        "route replace 10.1.0.0/24 via 10.254.0.1 dev eth0 metric 1024 onlink",
        "route replace unreachable 0.0.0.0/0 table 100",
        "route replace 192.168.7.0/24 dev eth1 table 101",
        "route replace 0.0.0.0/0 via 192.168.7.1 dev eth1 table 101 onlink",
        "route replace 0.0.0.0/0 via 192.168.7.1 dev eth1 onlink",
        "rule add from 10.254.0.5/32 lookup 100 priority 1000",
        "rule add from 192.168.7.9/32 lookup 101 priority 1001",
    ]
    assert "rule add from fd00:1::9/128 lookup 102 priority 1002" in six
    copy = vm.read("var/lib/sharewright/boot.json")
    assert "PRIVATE KEY" not in copy
    assert "AAAA" not in copy


def test_again_changes_nothing(vm: Machine) -> None:
    insert_drive(vm, user_data())
    boot(vm)
    vm.calls  # noqa: B018 - forgets them
    assert boot(vm)[0] == 0
    assert [call.split()[0] for call in vm.calls] == ["mount", "umount"]


def test_without_the_drive_the_copy_serves(vm: Machine) -> None:
    insert_drive(vm, user_data())
    boot(vm)
    (vm.root / "dev/sr0").unlink()
    for name in ("run/sharewright/firewall.json", "run/sharewright/network.json", "nft", "ip"):
        (vm.root / name).unlink()  # a reboot
    status, said = boot(vm)
    assert (status, "copy of the last boot" in said) == (0, True)
    assert "tcp dport { 22 } accept" in vm.read("nft")
    assert "address replace 10.254.0.5/28 dev eth0" in vm.read("ip")
    assert vm.read("etc/ssh/ssh_host_ed25519_key") == KEY


NOVA_NETWORK = {
    "links": [
        {"id": "tap1", "ethernet_mac_address": MANAGEMENT_MAC, "mtu": 1450, "type": "bridge", "vif_id": "1"},
        {"id": "tap2", "ethernet_mac_address": CLIENT_MAC, "mtu": 1450, "type": "bridge", "vif_id": "2"},
    ],
    "networks": [
        {"id": "network0", "link": "tap1", "type": "ipv4_dhcp", "network_id": "a"},
        {"id": "network1", "link": "tap2", "type": "ipv4_dhcp", "network_id": "b"},
    ],
    "services": [],
}


def test_our_network_data_goes_before_novas(vm: Machine) -> None:
    """Nova names no address where a subnet has DHCP; a reboot without the drive still knows ours."""
    insert_drive(vm, user_data(network_data=NETWORK), NOVA_NETWORK)
    assert boot(vm)[0] == 0
    assert "address replace 10.254.0.5/28 dev eth0" in vm.read("ip")
    (vm.root / "dev/sr0").unlink()
    for name in ("run/sharewright/firewall.json", "run/sharewright/network.json", "nft", "ip"):
        (vm.root / name).unlink()
    assert boot(vm)[0] == 0
    assert "address replace 192.168.7.9/24 dev eth1" in vm.read("ip")
    assert vm.read("etc/hostname") == "manila-1234\n"


def test_clients_are_not_admitted_before_the_first_document(vm: Machine) -> None:
    """The VM may stand for one that vanished: what is mounted from it is not exported yet."""
    insert_drive(vm, user_data())
    assert boot(vm)[0] == 0
    assert "dport { 22 }" in vm.read("nft")
    assert "2049" not in vm.read("nft")
    vm.write("var/lib/sharewright/firewall.json", json.dumps({"firewall": FIREWALL}))
    assert boot(vm)[0] == 0
    assert "2049" in vm.read("nft")


def test_the_last_documents_firewall_goes_before_the_drives(vm: Machine) -> None:
    insert_drive(vm, user_data())
    later = {**FIREWALL, "client_from": ["192.168.7.0/24"]}
    vm.write("var/lib/sharewright/firewall.json", json.dumps({"firewall": later}))
    assert boot(vm)[0] == 0
    assert "ip saddr { 192.168.7.0/24 }" in vm.read("nft")


def test_the_last_documents_network_goes_before_the_drives(vm: Machine) -> None:
    """A NIC that was plugged in after the VM was made is on no config drive."""
    insert_drive(vm, user_data(network_data=NETWORK))
    service, tenant = NETWORK["networks"][:2]
    later = {"links": NETWORK["links"], "networks": [service, {**tenant, "ip_address": "192.168.7.77"}]}
    vm.write("var/lib/sharewright/network.json", json.dumps(later))
    status, said = boot(vm)
    assert (status, "10.254.0.5/28 192.168.7.77/24 after" in said) == (0, True), said


def test_routes_for_replies_only_are_in_the_nics_own_table(vm: Machine) -> None:
    default = {"network": "0.0.0.0", "netmask": "0.0.0.0"}
    networks = [
        {**NETWORK["networks"][1], "routes": [{**default, "gateway": "192.168.7.1"}]},
        {**NETWORK["networks"][0], "routes": [{**default, "gateway": "10.254.0.1"}], "replies_only": True},
    ]
    insert_drive(vm, user_data(), {"links": NETWORK["links"], "networks": networks})
    assert boot(vm)[0] == 0
    routes = [line for line in vm.read("ip").splitlines() if " via " in line]
    assert routes == [
        "route replace 0.0.0.0/0 via 192.168.7.1 dev eth1 table 100 onlink",
        "route replace 0.0.0.0/0 via 192.168.7.1 dev eth1 onlink",
        "route replace 0.0.0.0/0 via 10.254.0.1 dev eth0 table 101 onlink",
    ]


def test_before_the_first_document_admins_are_not_admitted_either(vm: Machine) -> None:
    insert_drive(vm, user_data(firewall={**FIREWALL, "admin_macs": [MANAGEMENT_MAC]}))
    assert boot(vm)[0] == 0
    assert "2049" not in vm.read("nft")


def test_ipv6_packets_are_taken_by_the_nic_that_has_the_address(vm: Machine) -> None:
    insert_drive(vm, user_data())
    assert boot(vm)[0] == 0
    assert 'iifname "eth0" ip6 daddr != { fe80::/10, ff00::/8 } drop' in vm.read("nft")
    assert 'iifname "eth1" ip6 daddr != { fd00:1::9, fe80::/10, ff00::/8 } drop' in vm.read("nft")


def test_no_firewall_admits_everything(vm: Machine) -> None:
    insert_drive(vm, user_data(firewall=None))
    assert boot(vm)[0] == 0
    assert "delete table" in vm.read("nft")
    assert "drop" not in vm.read("nft")


@pytest.mark.parametrize(
    ("ours", "data", "word"),
    [
        ({"sharewright": 2}, NETWORK, "not ours"),
        (user_data(firewall={**FIREWALL, "management_macs": ["52:54:00:ff:ff:ff"]}), NETWORK, "management"),
        (user_data(ssh_host_ed25519_key="no key"), NETWORK, "ssh_host_ed25519_key"),
        (user_data(authorized_keys=["a\nb"]), NETWORK, "authorized_keys"),
        (user_data(network_data="nonsense"), NETWORK, "network_data"),
        (user_data(), {"links": [{"id": "x", "ethernet_mac_address": "52:54:00:ff:ff:ff"}]}, "No NIC"),
    ],
)
def test_what_is_wrong_leaves_the_machine_closed(
    vm: Machine, monkeypatch: pytest.MonkeyPatch, ours: dict[str, Any], data: dict[str, Any], word: str
) -> None:
    monkeypatch.setenv("SHAREWRIGHT_GUEST_ROOT", str(vm.root))
    insert_drive(vm, ours, data)
    with pytest.raises(Refusal, match=word):
        boot_here(Host(str(vm.root)), nic_seconds=0.2)
    assert vm.read("ip") == ""


def test_a_firewall_that_does_not_load_keeps_the_network_down(vm: Machine) -> None:
    insert_drive(vm, user_data())
    vm.write("fail/nft", "kernel says no")
    status, said = boot(vm)
    assert (status, "kernel says no" in said) == (1, True)
    assert vm.read("ip") == ""


def test_drives_are_recognised_by_label(machine: Machine) -> None:
    host = Host(str(machine.root))
    (machine.root / "dev/vda").write_bytes(bytes(65536))
    (machine.root / "sys/block/vda").mkdir()
    assert find_drive(host) is None
    sector = bytearray(512)
    sector[43:54] = b"CONFIG-2   "
    (machine.root / "dev/vdb").write_bytes(bytes(sector) + bytes(65536))
    (machine.root / "sys/block/vdb").mkdir()
    assert find_drive(host) == ("/dev/vdb", "vfat")
    insert_drive(machine, {})
    assert find_drive(host) == ("/dev/sr0", "iso9660")


@pytest.mark.parametrize(
    "networks",
    [
        [{"link": "service", "ip_address": "10.0.0.5", "netmask": "255.0.255.0"}],
        [{"link": "service", "ip_address": "10.0.0.500", "netmask": "255.255.255.0"}],
        [{"link": "service", "ip_address": "10.0.0.5"}],
        [{"ip_address": "10.0.0.5", "netmask": "24"}],
        [{"link": "service", "ip_address": "10.0.0.5", "netmask": "24", "routes": [{"network": "0.0.0.0"}]}],
        ["nonsense"],
        "nonsense",
    ],
)
def test_malformed_networks(networks: Any) -> None:
    with pytest.raises(Refusal, match=r"network_data\.json"):
        network.placements({"links": NETWORK["links"], "networks": networks}, {MANAGEMENT_MAC: "eth0"})
