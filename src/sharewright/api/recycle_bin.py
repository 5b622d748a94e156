"""Soft deletion: the actions soft_delete and restore of a share, from 2.69 on."""

from __future__ import annotations

from typing import Final

from sharewright.api.routing import Call, Route
from sharewright.api.shapes import anything, contract
from sharewright.services import recycle_bin as service


@contract(takes=anything)
def soft_delete(call: Call, share_id: str) -> None:
    service.soft_delete(call.deployment, call.context, share_id)


@contract(takes=anything, also=(200,))
def restore(call: Call, share_id: str) -> None:
    """Answers 200 instead of 202 for a share that is not in the bin, as Manila does."""
    if not service.restore(call.deployment, call.context, share_id):
        call.status = 200


ROUTES: Final = (
    Route("POST", "/shares/{share_id}/action", soft_delete, since=69, status=202, action="soft_delete"),
    Route("POST", "/shares/{share_id}/action", restore, since=69, status=202, action="restore"),
)
