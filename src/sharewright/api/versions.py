"""Microversions: negotiation as Manila's, and the version document.

A microversion 2.N is the whole number N in all our code.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sharewright.errors import InvalidInput, SharewrightError

VERSION_HEADER: Final = "X-OpenStack-Manila-API-Version"
EXPERIMENTAL_HEADER: Final = "X-OpenStack-Manila-API-Experimental"

MINIMUM: Final = 0
MAXIMUM: Final = 99  # what is known of is as in Manila; what is not built answers as for a driver that cannot do it
NEWEST: Final = 10_000  # "no last version" in the tables of fields and routes

_FORMAT = re.compile(r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$")


class VersionNotSupported(SharewrightError):
    """A well-formed microversion outside the range (HTTP 406). ``requested`` is echoed in the header."""

    def __init__(self, requested: str) -> None:
        self.requested = requested
        super().__init__(
            f"Version {requested} is not supported by the API. Minimum is {show(MINIMUM)} and maximum is"
            f" {show(MAXIMUM)}."
        )


def show(version: int) -> str:
    """As it stands in headers and documents."""
    return f"2.{version}"


def negotiate(header: str | None) -> int:
    """The microversion of a request. No header means the minimum. Raises InvalidInput or VersionNotSupported."""
    if not header:
        return MINIMUM
    match = _FORMAT.match(header)
    if match is None:
        raise InvalidInput(
            f"API Version String {header[:64]} is of invalid format. Must be of format MajorNum.MinorNum."
        )
    major, minor = int(match[1]), int(match[2])
    if major != 2 or not MINIMUM <= minor <= MAXIMUM:
        raise VersionNotSupported(header)
    return minor


def document(base_url: str) -> dict[str, Any]:
    """The version document at /, /v2 and /v2/."""
    return {
        "versions": [
            {
                "id": "v2.0",
                "status": "CURRENT",
                "version": show(MAXIMUM),
                "min_version": show(MINIMUM),
                "updated": "2015-08-27T11:33:21Z",
                "links": [
                    {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"},
                    {"rel": "self", "href": f"{base_url}/v2/"},
                ],
                "media-types": [{"base": "application/json", "type": "application/vnd.openstack.share+json;version=1"}],
            }
        ]
    }
