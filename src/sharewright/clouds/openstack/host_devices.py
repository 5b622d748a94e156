"""The network device of a host port: how this host's end of it is made, for each kind of Neutron's agents.

*Linux bridge*: a pair of virtual Ethernet devices; the agent puts the end named ``tap<first 11 of the port's id>`` on
the network's bridge. *Open vSwitch*, with Neutron's own agent or OVN: an internal port of the integration bridge, which
the agent knows by ``external_ids:iface-id`` (ovs-vswitchd.conf.db(5), Interface). Open vSwitch keeps it over a restart
of the host, but not its address: making it again is harmless.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final, Literal

import structlog

from sharewright.clouds.contract import Address
from sharewright.errors import CloudError

log = structlog.get_logger()

DEVICES: Final = Path("/sys/class/net")
COMMAND_SECONDS: Final = 30
INTEGRATION_BRIDGE: Final = "br-int"  # where Neutron does not name it (Neutron's option ovs_integration_bridge)

Kind = Literal["bridge", "ovs"]  # Neutron's binding:vif_type
_OVS: Final = " ovs"


class HostDevices:
    """``mark`` is what all devices made here carry as their alias. ``database`` names Open vSwitch's, if it is not the
    usual one (ovs-vsctl --db)."""

    def __init__(self, mark: str, *, database: str = "") -> None:
        self._mark = mark
        self._ovs_vsctl = ["ovs-vsctl", f"--timeout={COMMAND_SECONDS}", *([f"--db={database}"] if database else [])]

    def exists(self, device: str) -> bool:
        return (DEVICES / device).exists()

    def ours(self) -> list[str]:
        """The names of all devices that were made here."""
        names = [path.name for path in DEVICES.iterdir()] if DEVICES.is_dir() else []
        return [
            name for name in names if name.startswith("swm") and self._alias(name) in (self._mark, self._mark + _OVS)
        ]

    def make(
        self, kind: Kind, port_id: str, mac: str, address: Address, prefix_length: int, mtu: int, *, bridge: str = ""
    ) -> str:
        """Ensure the device, with its address, and return its name."""
        device = device_of(port_id)
        if kind == "ovs":
            self._add_to_switch(device, port_id, mac, mtu, bridge or INTEGRATION_BRIDGE)
        else:
            tap = f"tap{port_id[:11]}"
            if not self.exists(device):
                _run("ip", "link", "add", device, "address", mac, "type", "veth", "peer", "name", tap)
            _run("ip", "link", "set", tap, "mtu", str(mtu), "up")
        alias = self._mark + (_OVS if kind == "ovs" else "")
        _run("ip", "link", "set", device, "address", mac, "alias", alias, "mtu", str(mtu))
        _run("ip", "address", "replace", f"{address}/{prefix_length}", "dev", device)
        _run("ip", "link", "set", device, "up")
        return device

    def remove(self, device: str) -> None:
        if not self.exists(device):
            return
        if self._alias(device).endswith(_OVS):
            _run(*self._ovs_vsctl, "--if-exists", "del-port", device)
        else:
            _run("ip", "link", "delete", device)
        log.info("host port unplugged", device=device)

    def _add_to_switch(self, device: str, port_id: str, mac: str, mtu: int, bridge: str) -> None:
        settings = [
            "type=internal",
            f"mtu_request={mtu}",
            f"external_ids:iface-id={port_id}",
            "external_ids:iface-status=active",
            f'external_ids:attached-mac="{mac}"',
        ]
        add = ["--may-exist", "add-port", bridge, device]
        _run(*self._ovs_vsctl, *add, "--", "set", "Interface", device, *settings)

    @staticmethod
    def _alias(device: str) -> str:
        try:
            return (DEVICES / device / "ifalias").read_text().strip()
        except OSError:
            return ""


def device_of(port_id: str) -> str:
    """The host's end; 14 characters, of the 15 that Linux allows."""
    return f"swm{port_id[:11]}"


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS + 10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        package = "iproute2" if command[0] == "ip" else "openvswitch-switch, which Neutron's agent here needs too"
        raise CloudError(f"The command {command[0]} failed: {error}.", hint=f"Install {package}.") from error
    if done.returncode:
        raise CloudError(
            f"{' '.join(command)} failed: {done.stderr.strip()}.",
            hint='openstack.management = "host_port" makes network devices on this host: run as root, or with '
            "CAP_NET_ADMIN and access to Open vSwitch's database.",
        )
