"""OpenStack's failures as ours: what we were doing, the service's reason, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

from keystoneauth1 import exceptions as identity
from openstack import exceptions as sdk
from requests import exceptions as transport

from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable
from sharewright.logging import without_secrets

# Answers of a proxy or a service that will be there again; a 500 may also be a defect that repetition does not mend.
PASSING_STATUS = frozenset({408, 425, 429, 502, 503, 504})
PASSING_CONNECTION = (
    identity.ConnectFailure,
    identity.RetriableConnectionFailure,
    identity.DiscoveryFailure,
    sdk.ServiceDiscoveryException,
    transport.ConnectionError,
    transport.Timeout,
    transport.ChunkedEncodingError,
)
# A server or volume that another task works on just now: Nova's and Cinder's 409, Cinder's 400. Nova remembers for a
# moment after the end of a server what was attached to it.
BUSY_TEXT = re.compile(
    r"while it is in (task_state|vm_state)|please retry|try again|already attached to instances", re.I
)
NO_ROOM_TEXT = re.compile(
    r"no valid host|no more ip addresses|(not enough|insufficient) (free )?(space|capacity|hosts)|no valid backend"
    r"|could not find any available weighted backend|ipaddressgenerationfailure|no more free",
    re.I,
)
QUOTA_TEXT = re.compile(r"quota|overlimit|limit ?exceeded|maximum number of (?!retries)", re.I)


class Passing(CloudUnavailable):
    """A failure that the same call may outlive. ``pause``: the service's own wish, in seconds; ``limited``: give up
    after a few tries even with time left."""

    pause: float | None = None
    limited: bool = False


def translate(error: Exception, doing: str) -> CloudError:
    """One of our errors for one of openstacksdk's, keystoneauth's or the transport's."""
    if isinstance(error, identity.SSLError | transport.SSLError):  # a connection failure that repetition will not mend
        return CloudError(
            f"TLS failed while {doing}: {_text(error)}.", hint="Set openstack.ca_file to the CA of the cloud."
        )
    if isinstance(error, PASSING_CONNECTION):
        return Passing(
            f"OpenStack does not answer while {doing}: {_text(error)}.",
            hint="Check that the service's API runs and openstack.auth_url, region and interface.",
        )
    status = _status(error)
    if status is None:
        return _without_status(error, doing)
    response = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None) or {}
    request_id = headers.get("x-openstack-request-id") or getattr(error, "request_id", None)
    reason = _text(error)
    message = f"OpenStack refused {doing}: {reason} (HTTP {status}{f', {request_id}' if request_id else ''})."
    kind, hint = classify(status, reason)
    result = kind(message, hint=hint)
    if isinstance(result, Passing):
        result.pause = _seconds(headers.get("retry-after"))
        result.limited = status == 500
    return result


def classify(status: int, reason: str) -> tuple[type[CloudError], str]:
    """The kind of error and its hint, from the HTTP status and the service's text."""
    if status in PASSING_STATUS or status >= 500:
        return Passing, "The cloud is overloaded or partly down; its own logs tell by the request id."
    if status in (403, 409, 413) and QUOTA_TEXT.search(reason):
        return CloudCapacityExceeded, "Raise the quota of Sharewright's project in OpenStack, or delete shares."
    if status == 413:  # without a word about quotas: too many requests, in older releases
        return Passing, "The cloud limits the rate of requests."
    if NO_ROOM_TEXT.search(reason):
        return CloudCapacityExceeded, "The cloud has no room for it: add capacity, or delete what is not needed."
    if status == 404:
        return CloudObjectMissing, "It may have been deleted outside of Sharewright."
    if status in (400, 409) and BUSY_TEXT.search(reason):
        return Passing, "Another task works on it; try again."
    if status == 401:
        return CloudError, "Check the user, password and project in [openstack], and that the user has a role there."
    if status == 403:
        return CloudError, "Give Sharewright's user the roles that docs/openstack-cloud.md lists."
    return CloudError, "Check what the backend's settings name; the service's own log tells more by the request id."


def _without_status(error: Exception, doing: str) -> CloudError:
    reason = _text(error)
    if isinstance(error, identity.MissingRequiredOptions | sdk.ConfigException | identity.AuthPluginException):
        return CloudError(f"OpenStack cannot be used: {reason}.", hint="Check [openstack] in the configuration.")
    if isinstance(error, sdk.EndpointNotFound | identity.EndpointNotFound | identity.EmptyCatalog):
        return CloudError(
            f"The service catalogue has no endpoint for {doing}: {reason}.",
            hint="Check openstack.region and openstack.interface against: openstack catalog list.",
        )
    return CloudError(f"OpenStack failed while {doing}: {reason}.", hint="The log has the whole story.")


def is_quota(error: Exception) -> bool:
    return isinstance(error, CloudCapacityExceeded) and QUOTA_TEXT.search(error.message) is not None


def status_of(error: CloudError) -> int | None:
    """The HTTP status that a translated error came from."""
    return None if error.__cause__ is None else _status(error.__cause__)


def _status(error: BaseException) -> int | None:
    for name in ("status_code", "http_status"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def _text(error: Exception) -> str:
    text = str(getattr(error, "details", None) or getattr(error, "message", None) or error) or type(error).__name__
    return without_secrets(" ".join(text.split())).rstrip(".")[:500]


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None  # a date; nobody in OpenStack sends one
