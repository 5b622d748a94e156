"""``sharewright network create|list|delete``: tenant networks on clouds whose users have no other way to make one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import ip_network

import msgspec

from sharewright.cli.options import (
    CommandFailed,
    Commands,
    add_command,
    add_group,
    prepare_state_dir,
    print_table,
    read_settings,
)
from sharewright.clouds.contract import Cidr, Network, TenantNetworks


def add(commands: Commands) -> None:
    group = add_group(commands, "network", help="tenant networks")
    create = add_command(
        group,
        "create",
        create_network,
        help="make a tenant network",
        description="Make a tenant network with one subnet, and print the ids that a share network refers to.",
        examples="  sharewright network create blue 10.20.0.0/24\n"
        "  openstack share network create --name blue\n"
        "  openstack share network set blue --neutron-net-id ID --neutron-subnet-id SUBNET_ID",
    )
    create.add_argument("name")
    create.add_argument("cidr", type=cidr, help="for example 10.20.0.0/24")
    create.add_argument("--project", metavar="ID", help="only this project may use it (default: all)")
    listing = add_command(group, "list", list_networks, help="list tenant networks")
    delete = add_command(group, "delete", delete_network, help="delete a tenant network that nothing uses")
    delete.add_argument("network", help="name or id")
    for parser in (create, listing, delete):
        parser.add_argument("--backend", metavar="NAME", help="on this backend's cloud (default: the first backend)")
    create.add_argument("--id-only", action="store_true", help="print the network's id and nothing else")
    for parser in (create, listing):
        parser.add_argument("--json", action="store_true", help="print JSON")


def cidr(text: str) -> Cidr:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected a network such as 10.20.0.0/24") from None


@contextmanager
def tenant_networks(arguments: argparse.Namespace) -> Iterator[TenantNetworks]:
    from sharewright.clouds.open import open_cloud

    settings = read_settings(arguments)
    name = arguments.backend or next(iter(settings.backends))
    if name not in settings.backends:
        raise CommandFailed(
            f"There is no backend {name}.", hint=f"The configuration has: {', '.join(settings.backends)}."
        )
    prepare_state_dir(settings)
    with closing(open_cloud(settings, settings.backends[name])) as cloud:
        if not isinstance(cloud.networks, TenantNetworks):
            raise CommandFailed(
                f"The cloud {cloud.name} has its own ways to make networks.", hint="Use them, and name the ids here."
            )
        yield cloud.networks


def create_network(arguments: argparse.Namespace) -> int:
    with tenant_networks(arguments) as networks:
        network = networks.create_network(arguments.name, arguments.cidr, project_id=arguments.project)
    if arguments.id_only:
        print(network.id)
    else:
        show([network], arguments.json)
    return 0


def list_networks(arguments: argparse.Namespace) -> int:
    with tenant_networks(arguments) as networks:
        show(networks.list_networks(), arguments.json)
    return 0


def delete_network(arguments: argparse.Namespace) -> int:
    with tenant_networks(arguments) as networks:
        found = [item for item in networks.list_networks() if arguments.network in (item.id, item.name)]
        if not found:
            raise CommandFailed(
                f"There is no tenant network {arguments.network}.", hint="See them with: sharewright network list"
            )
        if len(found) > 1:
            raise CommandFailed(f"Several networks are named {arguments.network}.", hint="Name its id instead.")
        networks.delete_network(found[0].id)
    return 0


def show(networks: Sequence[Network], as_json: bool) -> None:
    rows = [
        {
            "id": network.id,
            "name": network.name,
            "project_id": network.project_id,
            "subnet_id": subnet.id,
            "cidr": str(subnet.cidr),
            "gateway": str(subnet.gateway) if subnet.gateway else None,
        }
        for network in networks
        for subnet in network.subnets
    ]
    if as_json:
        print(msgspec.json.encode(rows).decode())
    else:
        headings = ("id", "name", "subnet_id", "cidr", "gateway", "project_id")
        print_table(headings, [[row[heading] or "-" for heading in headings] for row in rows])
