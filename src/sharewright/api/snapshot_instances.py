"""Snapshot instances, for administrators: /snapshot-instances."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Identifier, Name, Resource, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, given, listing, one
from sharewright.api.shares import wanted_status
from sharewright.services import snapshot_instances as service

SNAPSHOT_INSTANCE: Final = Resource(
    name="snapshot_instance",
    plural="snapshot_instances",
    collection="snapshot-instances",
    fields=(
        Field("id", Identifier, summary=True),
        Field("snapshot_id", Identifier | None, summary=True),
        Field("status", str, summary=True),
        Field("share_id", Identifier),
        Field("share_instance_id", Identifier),
        Field("progress", Name),
        Field("provider_location", Name),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
    ),
    filters=(Filter("snapshot_id"),),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(SNAPSHOT_INSTANCE, summary=True)
def list_summaries(call: Call) -> Any:
    return _list(call, detail=False)


@listing(SNAPSHOT_INSTANCE)
def list_details(call: Call) -> Any:
    return _list(call, detail=True)


def _list(call: Call, *, detail: bool) -> Any:
    page = call.page(SNAPSHOT_INSTANCE)
    filters = call.filters(SNAPSHOT_INSTANCE)
    records = service.list_instances(call.deployment, call.context, filters, page, detail=detail)
    answer = SNAPSHOT_INSTANCE.show_all(records, call, summary=not detail)
    return answer | call.next_page(SNAPSHOT_INSTANCE, records, page)


@contract(gives=one(SNAPSHOT_INSTANCE))
def show(call: Call, snapshot_instance_id: str) -> Any:
    return SNAPSHOT_INSTANCE.show(service.show(call.deployment, call.context, snapshot_instance_id), call)


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, snapshot_instance_id: str) -> None:
    service.reset_status(call.deployment, call.context, snapshot_instance_id, wanted_status(call))


_ONE: Final = "/snapshot-instances/{snapshot_instance_id}"
ROUTES: Final = (
    Route("GET", "/snapshot-instances", list_summaries, since=19),
    Route("GET", "/snapshot-instances/detail", list_details, since=19),
    Route("GET", _ONE, show, since=19),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        since=19,
        status=202,
        action="reset_status",
        rule="share_snapshot_instance:reset_status",
    ),
)
