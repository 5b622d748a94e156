"""The device of a host port on a real Open vSwitch, in user space, and as a pair of virtual Ethernet devices.

Neutron's part, binding and plugging, is in test_openstack_neutron.py (Linux bridge agent).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from sharewright.clouds.openstack.host_devices import DEVICES, HostDevices, device_of
from sharewright.errors import CloudError
from sharewright.identifiers import new_id

MAC = "fa:16:3e:00:00:01"
BRIDGE = "sw-test-int"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
pytestmark = pytest.mark.e2e


class Switch:
    """Open vSwitch's two daemons, of our own, with all their files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.database = f"unix:{directory}/db.sock"
        self._environment = {**os.environ, "OVS_RUNDIR": str(directory)}

    def start(self) -> None:
        self.run("ovsdb-tool", "create", f"{self._directory}/conf.db", SCHEMA)
        self._daemon("ovsdb-server", f"{self._directory}/conf.db", f"--remote=punix:{self._directory}/db.sock")
        self.run("ovs-vsctl", f"--db={self.database}", "--no-wait", "init")
        self._daemon("ovs-vswitchd", self.database, "--disable-system")
        self.ask("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev")

    def stop(self) -> None:
        for name in ("ovs-vswitchd", "ovsdb-server"):
            path = self._directory / f"{name}.ctl"
            if path.exists():
                self.run("ovs-appctl", "-t", str(path), "exit")

    def ask(self, *arguments: str) -> str:
        return self.run("ovs-vsctl", f"--db={self.database}", "--timeout=30", *arguments)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def _daemon(self, name: str, *arguments: str) -> None:
        files = [f"--{kind}={self._directory}/{name}.{end}" for kind, end in (("pidfile", "pid"), ("unixctl", "ctl"))]
        self.run(name, *arguments, "--detach", "--no-chdir", *files, f"--log-file={self._directory}/{name}.log")


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    assert os.geteuid() == 0, "Network devices need root."
    assert shutil.which("ovs-vswitchd"), "Install openvswitch-switch, or run ./check."
    running = Switch(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def devices(switch: Switch) -> Iterator[HostDevices]:
    made = HostDevices("sharewright:host-devices-test", database=switch.database)
    yield made
    for device in made.ours():
        made.remove(device)


def shown(device: str) -> str:
    return subprocess.run(
        ["ip", "-d", "address", "show", device], check=True, capture_output=True, text=True, timeout=10
    ).stdout


def test_an_internal_port_of_open_vswitch(devices: HostDevices, switch: Switch) -> None:
    port = new_id()
    for _ in range(2):  # the second changes nothing
        device = devices.make("ovs", port, MAC, ip_address("10.252.255.2"), 28, 1450, bridge=BRIDGE)
    assert device == device_of(port)
    assert switch.ask("port-to-br", device) == BRIDGE
    assert switch.ask("get", "Interface", device, "external_ids:iface-id").strip('"') == port
    assert switch.ask("get", "Interface", device, "external_ids:attached-mac").strip('"') == MAC
    for text in (MAC, "10.252.255.2/28", "mtu 1450", "<BROADCAST,MULTICAST,PROMISC,UP"):
        assert text in shown(device)
    assert devices.ours() == [device]
    assert HostDevices("sharewright:somebody-else", database=switch.database).ours() == []
    devices.remove(device)
    assert not devices.exists(device)
    assert switch.ask("list-ports", BRIDGE) == ""
    devices.remove(device)


def test_its_lost_address_comes_back(devices: HostDevices) -> None:
    """After a restart of the host the switch remembers its port, and nobody the port's address."""
    port = new_id()
    device = devices.make("ovs", port, MAC, ip_address("10.252.255.2"), 28, 1450, bridge=BRIDGE)
    subprocess.run(["ip", "address", "flush", "dev", device], check=True, timeout=10)
    subprocess.run(["ip", "link", "set", device, "alias", "", "down"], check=True, timeout=10)
    assert "10.252.255.2" not in shown(device)
    assert devices.make("ovs", port, MAC, ip_address("10.252.255.2"), 28, 1450, bridge=BRIDGE) == device
    assert "10.252.255.2/28" in shown(device)
    assert devices.ours() == [device]


def test_packets_pass_between_two_ports(devices: HostDevices, switch: Switch) -> None:
    """The other port is a machine's, in a network namespace."""
    devices.make("ovs", new_id(), MAC, ip_address("10.252.255.2"), 28, 1450, bridge=BRIDGE)
    name = "swm-test-ovs"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
    try:
        switch.ask("add-port", BRIDGE, "swtestpeer", "--", "set", "Interface", "swtestpeer", "type=internal")
        subprocess.run(["ip", "link", "set", "swtestpeer", "netns", name], check=True, timeout=10)
        inside = ["ip", "netns", "exec", name, "ip"]
        subprocess.run([*inside, "address", "add", "10.252.255.3/28", "dev", "swtestpeer"], check=True, timeout=10)
        subprocess.run([*inside, "link", "set", "swtestpeer", "up"], check=True, timeout=10)
        assert any(_reaches("10.252.255.3") for _ in range(10))
    finally:
        switch.ask("--if-exists", "del-port", "swtestpeer")
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=10)


def _reaches(address: str) -> bool:
    """An answer from the other side, be it a refusal."""
    probe = ["python3", "-c", f"import socket; socket.create_connection(('{address}', 9), timeout=2)"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    if "ConnectionRefusedError" not in done.stderr:
        time.sleep(0.5)
        return False
    return True


def test_a_pair_for_the_bridge_agent(devices: HostDevices) -> None:
    port = new_id()
    device = devices.make("bridge", port, MAC, ip_address("10.252.255.2"), 28, 1450)
    tap = f"tap{port[:11]}"
    assert (DEVICES / tap).exists()
    assert "10.252.255.2/28" in shown(device)
    assert devices.ours() == [device]
    devices.remove(device)
    assert not (DEVICES / tap).exists()


def test_without_the_bridge_the_reason_is_said(devices: HostDevices) -> None:
    with pytest.raises(CloudError, match="no bridge named br-int") as caught:
        devices.make("ovs", new_id(), MAC, ip_address("10.252.255.2"), 28, 1450)
    assert "CAP_NET_ADMIN" in caught.value.hint
    assert devices.ours() == []
