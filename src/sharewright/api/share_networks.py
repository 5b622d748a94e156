"""Share networks: /share-networks."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import all_projects
from sharewright.api.resource import (
    Computed,
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Record,
    Resource,
    Timestamp,
    Viewer,
    constant,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, given, listing, one, shown
from sharewright.api.share_network_subnets import SUBNET
from sharewright.api.shares import wanted_status
from sharewright.errors import InvalidInput
from sharewright.services import share_network_subnets as subnet_service
from sharewright.services import share_networks as service


def _of_subnet(name: str) -> Computed:
    """Before 2.51 a share network had one subnet, whose values were its own."""

    def compute(record: Record, viewer: Viewer) -> Any:
        return record["subnets"][0][name] if record["subnets"] else None

    return compute


def _subnets(record: Record, viewer: Viewer) -> list[dict[str, Any]]:
    view = SUBNET.view(viewer, summary=True)
    return [view(subnet, viewer) for subnet in record["subnets"]]


def _idle(record: Record, viewer: Viewer) -> bool:
    """Whether it can be changed: no backend changes the security service of a share server in use."""
    return not record["in_use"]


def _extensible(record: Record, viewer: Viewer) -> bool:
    """Whether its share servers can be put on another subnet."""
    return not record["has_routed_servers"]


SHARE_NETWORK: Final = Resource(
    name="share_network",
    plural="share_networks",
    collection="share-networks",
    lenient=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True),
        Field("description", Name, create=True, update=True),
        Field("project_id", str),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
        Field("neutron_net_id", Name, source=_of_subnet("neutron_net_id"), until=50),
        Field("neutron_subnet_id", Name, source=_of_subnet("neutron_subnet_id"), until=50),
        Field("neutron_net_id", Name, shown=False, create=True, update=True),
        Field("neutron_subnet_id", Name, shown=False, create=True, update=True),
        Field("nova_net_id", Name, source=constant(None), until=25, create=True),
        Field("network_type", Name, source=_of_subnet("network_type"), until=50),
        Field("segmentation_id", int | None, source=_of_subnet("segmentation_id"), until=50),
        Field("cidr", Name, source=_of_subnet("cidr"), until=50),
        Field("ip_version", int | None, source=_of_subnet("ip_version"), until=50),
        Field("gateway", Name, source=_of_subnet("gateway"), since=18, until=50),
        Field("mtu", int | None, source=_of_subnet("mtu"), since=20, until=50),
        # As in Manila a request may say these; the cloud's own say replaces the network's with its first share server.
        Field("created_at", Name, shown=False, create=True),
        Field("network_type", Name, shown=False, create=True),
        Field("segmentation_id", int | None, shown=False, create=True),
        Field("cidr", Name, shown=False, create=True),
        Field("ip_version", int | None, shown=False, create=True),
        Field("availability_zone", Name, since=51, shown=False, create=True),
        Field("share_network_subnets", list[dict[str, Any]], source=_subnets, since=51, items=SUBNET),
        Field("status", str, since=63),
        Field("security_service_update_support", Flag, source=_idle, since=63),
        Field("network_allocation_update_support", Flag, source=_extensible, since=70),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("description", kind="like"),
        Filter("status", since=63),
        Filter("neutron_net_id", kind="like"),
        Filter("neutron_subnet_id", kind="like"),
        Filter("cidr", kind="like"),
        Filter("ip_version", kind="integer"),
        Filter("network_type", admin=True),
        Filter("segmentation_id", kind="integer", admin=True),
        Filter("security_service_id"),
        Filter("created_since"),
        Filter("created_before"),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)
CHECKED: Final = (
    Field("neutron_net_id", Name),
    Field("neutron_subnet_id", Name),
    Field("availability_zone", Name),
    Field("reset_operation", Flag),
)


@listing(SHARE_NETWORK, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, summary=True)


@listing(SHARE_NETWORK, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, summary=False)


def _list(call: Call, *, summary: bool) -> Any:
    page = call.page(SHARE_NETWORK)
    records = service.list_networks(
        call.deployment, call.context, call.filters(SHARE_NETWORK), page, all_projects=all_projects(call)
    )
    return SHARE_NETWORK.show_all(records, call, summary=summary) | call.next_page(SHARE_NETWORK, records, page)


@contract(gives=one(SHARE_NETWORK))
def show(call: Call, share_network_id: str) -> Any:
    return SHARE_NETWORK.show(service.show(call.deployment, call.context, share_network_id), call)


@contract(takes=body(SHARE_NETWORK, "create"), gives=one(SHARE_NETWORK))
def create(call: Call) -> Any:
    values = SHARE_NETWORK.parse(call.body, call.version, "create")
    if values.pop("nova_net_id", None):
        raise InvalidInput("nova networking is not supported.", hint="Give neutron_net_id and neutron_subnet_id.")
    return SHARE_NETWORK.show(service.create(call.deployment, call.context, values), call)


@contract(takes=body(SHARE_NETWORK, "update"), gives=one(SHARE_NETWORK))
def update(call: Call, share_network_id: str) -> Any:
    values = SHARE_NETWORK.parse(call.body, call.version, "update")
    return SHARE_NETWORK.show(service.change(call.deployment, call.context, share_network_id, values), call)


@contract()
def delete(call: Call, share_network_id: str) -> None:
    service.remove(call.deployment, call.context, share_network_id)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_network_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_network_id, wanted_status(call))


@contract(
    takes=given(*CHECKED),
    gives=shown(Field("compatible", Flag), Field("hosts_check_result", dict[str, bool], admin=True)),
)
def check_subnet_creation(call: Call, share_network_id: str) -> Any:
    """Answered at once; so there is no check under way that could be reset."""
    body = dict(unwrap(call.body, "share_network_subnet_create_check"))
    body.pop("reset_operation", None)
    values = SUBNET.parse_values(body, call.version, "create")
    found = subnet_service.check_creation(call.deployment, call.context, share_network_id, values)
    shown = ("compatible", "hosts_check_result") if call.context.is_admin else ("compatible",)
    return {key: found[key] for key in shown}


_ONE = "/share-networks/{share_network_id}"
ROUTES: Final = (
    Route("GET", "/share-networks", list_summaries),
    Route("POST", "/share-networks", create),
    Route("GET", "/share-networks/detail", list_details),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, update),
    Route("DELETE", _ONE, delete, status=202),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        since=63,
        status=202,
        action="reset_status",
        rule="share_network:reset_status",
    ),
    Route(
        "POST",
        f"{_ONE}/action",
        check_subnet_creation,
        since=70,
        status=202,
        action="share_network_subnet_create_check",
    ),
)
