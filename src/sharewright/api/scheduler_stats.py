"""Pools as the scheduler sees them: /scheduler-stats/pools."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Resource, Values
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import contract, many, parameters
from sharewright.services import system

POOL: Final = Resource(
    name="pool",
    plural="pools",
    collection="scheduler-stats",
    fields=(
        Field("name", str, summary=True),
        Field("host", str, summary=True),
        Field("backend", str, summary=True),
        Field("pool", str, summary=True),
        Field("capabilities", Values),
    ),
    filters=(
        Filter("host"),
        Filter("backend"),
        Filter("pool"),
        Filter("capabilities", kind="map"),
        Filter("share_type", since=23),
    ),
)


@contract(gives=many(POOL, summary=True), query=parameters(POOL))
def list_summaries(call: Call) -> Any:
    return _list(call, detail=False)


@contract(gives=many(POOL), query=parameters(POOL))
def list_details(call: Call) -> Any:
    return _list(call, detail=True)


def _list(call: Call, *, detail: bool) -> Any:
    records = system.list_pools(call.deployment, call.context, call.filters(POOL), detail=detail)
    return POOL.show_all(records, call, summary=not detail)


ROUTES: Final = (
    Route("GET", "/scheduler-stats/pools", list_summaries),
    Route("GET", "/scheduler-stats/pools/detail", list_details),
)
