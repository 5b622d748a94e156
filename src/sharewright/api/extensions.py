"""Extensions: there are none."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.faults import NoSuchResource
from sharewright.api.routing import Call, Route


def list_all(call: Call) -> Any:
    return {"extensions": []}


def show(call: Call, alias: str) -> Any:
    raise NoSuchResource()


ROUTES: Final = (Route("GET", "/extensions", list_all), Route("GET", "/extensions/{alias}", show))
