"""Subnets of share networks, from 2.51 on, and their metadata, from 2.78 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.metadata import all_items, one_item, pick
from sharewright.api.resource import Field, Identifier, Name, Resource, StringMap, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import META, METADATA, TAKES_META, TAKES_METADATA, body, contract, many, one
from sharewright.services import share_network_subnets as service

SEVERAL_SINCE: Final = 70  # of one availability zone
_NETWORK: Final = (
    Field("network_type", Name, summary=True),
    Field("segmentation_id", int | None, summary=True),
    Field("cidr", Name, summary=True),
    Field("ip_version", int | None, summary=True),
    Field("gateway", Name, summary=True),
    Field("mtu", int | None, summary=True),
)
SUBNET: Final = Resource(
    name="share_network_subnet",
    plural="share_network_subnets",
    collection="subnets",
    # The summary is how a share network shows its subnets.
    lenient=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("availability_zone", Name, summary=True, create=True),
        Field("share_network_id", Identifier),
        Field("share_network_name", Name),
        Field("created_at", Timestamp, source=timestamp("created_at"), summary=True),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), summary=True),
        Field("neutron_net_id", Name, summary=True, create=True),
        Field("neutron_subnet_id", Name, summary=True, create=True),
        *_NETWORK,
        Field("metadata", StringMap, since=78, summary=True, create=True, accepts=StringMap | None),
    ),
)


@contract(gives=many(SUBNET))
def list_all(call: Call, share_network_id: str) -> Any:
    return SUBNET.show_all(service.list_subnets(call.deployment, call.context, share_network_id), call)


@contract(gives=one(SUBNET))
def show(call: Call, share_network_id: str, subnet_id: str) -> Any:
    return SUBNET.show(service.show(call.deployment, call.context, share_network_id, subnet_id), call)


@contract(takes=body(SUBNET, "create", wrapper="share-network-subnet"), gives=one(SUBNET))
def create(call: Call, share_network_id: str) -> Any:
    values = SUBNET.parse(call.body, call.version, "create", wrapper="share-network-subnet")
    several = call.version >= SEVERAL_SINCE
    return SUBNET.show(service.create(call.deployment, call.context, share_network_id, values, several=several), call)


@contract()
def delete(call: Call, share_network_id: str, subnet_id: str) -> None:
    service.remove(call.deployment, call.context, share_network_id, subnet_id)


@contract(gives=METADATA)
def show_metadata(call: Call, share_network_id: str, subnet_id: str) -> Any:
    return {"metadata": service.read_metadata(call.deployment, call.context, share_network_id, subnet_id)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def merge_metadata(call: Call, share_network_id: str, subnet_id: str) -> Any:
    return {"metadata": _write(call, share_network_id, subnet_id, all_items(call), replace=False)}


@contract(takes=TAKES_METADATA, gives=METADATA)
def replace_metadata(call: Call, share_network_id: str, subnet_id: str) -> Any:
    return {"metadata": _write(call, share_network_id, subnet_id, all_items(call), replace=True)}


@contract(gives=META)
def show_item(call: Call, share_network_id: str, subnet_id: str, key: str) -> Any:
    items = service.read_metadata(call.deployment, call.context, share_network_id, subnet_id)
    return {"meta": pick(items, key)}


@contract(takes=TAKES_META, gives=META)
def write_item(call: Call, share_network_id: str, subnet_id: str, key: str) -> Any:
    return {"meta": pick(_write(call, share_network_id, subnet_id, one_item(call, key), replace=False), key)}


@contract()
def delete_item(call: Call, share_network_id: str, subnet_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, share_network_id, subnet_id, key)


def _write(call: Call, share_network_id: str, subnet_id: str, items: Any, *, replace: bool) -> dict[str, str]:
    return service.write_metadata(call.deployment, call.context, share_network_id, subnet_id, items, replace=replace)


_SUBNETS = "/share-networks/{share_network_id}/subnets"
_ONE = f"{_SUBNETS}/{{subnet_id}}"
ROUTES: Final = (
    Route("GET", _SUBNETS, list_all, since=51),
    Route("POST", _SUBNETS, create, since=51),
    Route("GET", _ONE, show, since=51),
    Route("DELETE", _ONE, delete, since=51, status=202),
    Route("GET", f"{_ONE}/metadata", show_metadata, since=78),
    Route("POST", f"{_ONE}/metadata", merge_metadata, since=78),
    Route("PUT", f"{_ONE}/metadata", replace_metadata, since=78),
    Route("GET", f"{_ONE}/metadata/{{key}}", show_item, since=78),
    Route("POST", f"{_ONE}/metadata/{{key}}", write_item, since=78),
    Route("PUT", f"{_ONE}/metadata/{{key}}", write_item, since=78),
    Route("DELETE", f"{_ONE}/metadata/{{key}}", delete_item, since=78),
)
