"""A machine of an operator's in the simulated cloud, as the options of a backend that has its shares there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from sharewright.clouds.contract import Flavor, Instance, InstanceSpec, PortSpec
from sharewright.clouds.open import simulated_path
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.service_instance.keys import authorized_keys_line, new_key_pair
from sharewright.settings import NamedServer, Settings

OPERATOR = "operator"  # a deployment of another's, in whose eyes the machine is his
SECONDS = 10.0
NETWORK = "office"
CIDR = ip_network("192.0.2.0/24")


@contextmanager
def operators_cloud(settings: Settings) -> Iterator[SimulatedCloud]:
    """The same cloud, as the operator uses it."""
    cloud = SimulatedCloud(settings.simulated, deployment=OPERATOR, path=simulated_path(settings))
    try:
        yield cloud
    finally:
        cloud.close()


def make_machine(settings: Settings, *, name: str = "nas") -> tuple[Instance, NamedServer]:
    """It runs, with its key file in the state directory; and what a configuration says of it."""
    login, host = new_key_pair(), new_key_pair()
    key_file = Path(settings.state_dir) / f"{name}.key"
    key_file.parent.mkdir(parents=True, exist_ok=True)
    key_file.touch(mode=0o600)
    key_file.write_text(login.private)
    with operators_cloud(settings) as cloud:
        present = {each.name: each for each in cloud.networks.list_networks()}
        network = present.get(NETWORK) or cloud.networks.create_network(NETWORK, CIDR)
        port = cloud.networks.ensure_port(
            PortSpec(name=f"{name}-port", subnet=network.subnets[0], tags={}, allowed_tcp=()), timeout=SECONDS
        )
        user_data = {
            "sharewright": 1,
            "ssh_host_ed25519_key": host.private,
            "authorized_keys": [authorized_keys_line(login.public)],
        }
        machine = cloud.compute.ensure_instance(
            InstanceSpec(
                name=name,
                image="of the operator's",
                flavor=Flavor(),
                ports=(port,),
                files={"user_data": msgspec.json.encode(user_data)},
                tags={},
            ),
            timeout=SECONDS,
        )
    return machine, NamedServer(
        instance=name, management_address=str(port.address), key_file=str(key_file), host_key=host.public
    )


def named_server(settings: Settings) -> dict[str, Any]:
    """Options of a backend on a new machine."""
    _, server = make_machine(settings)
    return {"driver_handles_share_servers": False, "server": server}
