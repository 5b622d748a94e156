"""Extensions: there are none."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.faults import NoSuchResource
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import absent, contract


@contract(gives=absent("extensions"))
def list_all(call: Call) -> Any:
    return {"extensions": []}


@contract()
def show(call: Call, alias: str) -> Any:
    raise NoSuchResource()


ROUTES: Final = (Route("GET", "/extensions", list_all), Route("GET", "/extensions/{alias}", show))
