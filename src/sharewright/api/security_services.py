"""Security services: /security-services. There are none yet; the lists are here because clients read them to show a
share network."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.routing import Call, Route
from sharewright.services.policy import authorize


def list_all(call: Call) -> Any:
    authorize(call.context, "security_service:index")
    return {"security_services": []}


ROUTES: Final = (
    Route("GET", "/security-services", list_all),
    Route("GET", "/security-services/detail", list_all),
)
