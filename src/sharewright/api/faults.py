"""Errors as Manila's faults: one key named after the status, with ``code`` and ``message``."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.identity.contract import IdentityUnavailable, Unauthorized
from sharewright.api.versions import VersionNotSupported
from sharewright.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OverQuota,
    SharewrightError,
    Unprocessable,
)

NOT_FOUND: Final = "The resource could not be found."
BROKEN: Final = "The server has either erred or is incapable of performing the requested operation."

_NAMES: Final = {
    400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
    409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 501: "notImplemented",
    503: "serviceUnavailable",
}  # fmt: skip
_STATUSES: Final[tuple[tuple[type[SharewrightError], int], ...]] = (
    (Unauthorized, 401),
    (VersionNotSupported, 406),
    (InvalidInput, 400),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (OverQuota, 413),
    (Unprocessable, 422),
    (IdentityUnavailable, 503),
)


class NoSuchResource(NotFound):
    """Nothing is at this URL, at this microversion, for this caller."""

    def __init__(self) -> None:
        super().__init__(NOT_FOUND)


class BodyTooLarge(SharewrightError):
    """The request's body is larger than the limit (HTTP 413)."""


def status_of(error: SharewrightError) -> int:
    """The HTTP status of an error; 500 for failures that are not the caller's."""
    if isinstance(error, BodyTooLarge):
        return 413
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def fault(status: int, message: str) -> dict[str, Any]:
    """The body of an error answer."""
    if status == 401:
        return {"error": {"code": 401, "title": "Unauthorized", "message": message}}
    value: dict[str, Any] = {"code": status, "message": message}
    if status == 413:
        value["retryAfter"] = "0"
    return {_NAMES.get(status, "computeFault"): value}
