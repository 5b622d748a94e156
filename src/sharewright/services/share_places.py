"""Where a new share may be: its availability zone, its share network, and what its scheduler hints ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, NotFound
from sharewright.identifiers import is_id
from sharewright.services.policy import can_see
from sharewright.services.validation import parse_boolean_spec
from sharewright.store.tables import availability_zones, share_network_subnets, share_networks
from sharewright.store.transaction import once

_NETWORK: Final = (
    select(share_networks.c.project_id, share_networks.c.status)
    .where(share_networks.c.id == bindparam("network"))
    .with_for_update(read=True)
)
# A statement of its own: whoever changes subnets locks the network, and what the first one waited for is in the second.
_ZONES: Final = select(share_network_subnets.c.availability_zone).where(
    share_network_subnets.c.share_network_id == bindparam("network")
)


def choose_zone(tx: Connection, specs: Mapping[str, str], zone: str | None) -> str | None:
    """The zone asked for, which must exist and be one of the type's."""
    if not zone:
        return None
    if tx.execute(select(availability_zones.c.id).where(availability_zones.c.name == zone)).first() is None:
        raise NotFound(f"Availability zone {zone[:64]} could not be found.")
    allowed = [name.strip() for name in specs.get("availability_zones", "").split(",") if name.strip()]
    if allowed and zone not in allowed:
        raise InvalidInput(
            f"The share type is not supported within availability zone {zone}; it is in {', '.join(allowed)}."
        )
    return zone


def choose_network(
    tx: Connection, context: RequestContext, specs: Mapping[str, str], identifier: str | None, zone: str | None
) -> str | None:
    """The share network asked for, which must be the caller's, usable, and have a subnet for the zone."""
    handles_servers = is_true(specs, "driver_handles_share_servers")
    if not identifier:
        if handles_servers:
            raise InvalidInput(
                "Share network must be set when the driver_handles_share_servers extra spec is true.",
                hint="Make one with: openstack share network create --neutron-net-id … --neutron-subnet-id …",
            )
        return None
    if not handles_servers:
        raise InvalidInput("Share network must not be set when the driver_handles_share_servers extra spec is false.")
    network = once(tx, ("network", identifier), lambda: tx.execute(_NETWORK, {"network": identifier}).one_or_none())
    if network is None or not can_see(context, network.project_id):
        raise NotFound(f"Share network {identifier[:64]} could not be found.")
    if network.status != "active":
        raise InvalidInput(f"Share network {identifier} is in status '{network.status}', not 'active'.")
    zones = once(tx, ("zones", identifier), lambda: set(tx.execute(_ZONES, {"network": identifier}).scalars()))
    if not zones or (zone is not None and not zones & {zone, None}):
        raise InvalidInput(
            "A share network subnet was not found for the requested availability zone.",
            hint="Add one to the share network, without a zone for all zones.",
        )
    return identifier


def parse_hints(hints: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler hints: same_host and different_host name shares (ids, with commas between), only_host a pool."""
    parsed: dict[str, Any] = {}
    for name, value in hints.items():
        if name not in ("same_host", "different_host", "only_host"):
            raise InvalidInput(f"Unknown scheduler hint '{str(name)[:64]}'.", hint="Use same_host or different_host.")
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise InvalidInput(f"Scheduler hint {name} needs a string.")
        if name == "only_host":
            parsed[name] = value.strip()
            continue
        named = [part.strip() for part in value.split(",")]
        if not all(is_id(part) for part in named) or len(named) > 20:
            raise InvalidInput(f"Scheduler hint {name} needs ids of shares, up to 20, with commas between.")
        parsed[name] = named
    return parsed


def is_true(specs: Mapping[str, str], name: str) -> bool:
    """Whether a share type says so; InvalidInput when it says neither yes nor no."""
    return name in specs and parse_boolean_spec(name, specs[name])
