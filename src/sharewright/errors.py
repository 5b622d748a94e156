"""Errors that say what happened, why, and what to do. Every layer raises these; only api/ turns them into HTTP."""

from __future__ import annotations


class SharewrightError(Exception):
    """Base of every error raised on purpose.

    ``message`` says what happened and why, ``hint`` what to do about it; ``str()`` joins the two.
    Neither may hold a secret: both reach logs, rows and users.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())


class ConfigurationError(SharewrightError):
    """The configuration file is wrong: names the key, the value, what was expected."""


# Refusals of a request. api/faults.py maps each to Manila's status code and fault name.


class InvalidInput(SharewrightError):
    """The request is malformed or a value is out of range (HTTP 400)."""


class Forbidden(SharewrightError):
    """Policy or state forbids it in a way Manila answers with 403."""


class NotFound(SharewrightError):
    """No such thing, or not visible to this project (HTTP 404)."""


class Conflict(SharewrightError):
    """The resource's state or a duplicate forbids it (HTTP 409)."""


class OverQuota(SharewrightError):
    """A quota would be exceeded (HTTP 413)."""


class Unprocessable(SharewrightError):
    """The thing that the request is about lacks the capability for it (HTTP 422)."""


# Failures of work.


class CloudError(SharewrightError):
    """A cloud refused or failed a call in a way that repeating the same call will not mend."""


class CloudUnavailable(CloudError):
    """The cloud does not answer or answers with a passing fault; the same call may succeed later."""


class CloudObjectMissing(CloudError):
    """An object that the call names does not exist in the cloud."""


class CloudCapacityExceeded(CloudError):
    """The cloud has no room: disk full, no host, a quota of the service project."""


class GuestError(SharewrightError):
    """The program in the service VM refused or failed."""


class GuestUnreachable(GuestError):
    """No answer from the service VM within the deadline, or its host key is not the pinned one."""


class GuestBusy(GuestUnreachable):
    """Other calls had the way to the service VM until this one's time was over. Says nothing about the VM itself."""


class StaleDocument(GuestError):
    """The guest already applied a newer generation; build the document again from the store."""


class DeviceNotBlank(GuestError):
    """A volume that should be new carries a signature; it was left untouched."""


class DeadlineExceeded(SharewrightError):
    """The work did not finish within its deadline."""


class LeaseLost(SharewrightError):
    """Another worker holds this operation now; stop without writing anything."""


class NoValidBackend(SharewrightError):
    """The scheduler found no backend; the message names the check that failed for each."""


class ShrinkRefused(SharewrightError):
    """What is in the share does not fit into the smaller size, or it can have none; it is as it was."""


class Unsupported(SharewrightError):
    """This cloud or driver cannot do it."""
