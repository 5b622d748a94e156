"""What the API needs of an identity: a caller for each request, or a refusal in the shape clients know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sharewright.errors import SharewrightError

ROLES = ("admin", "member", "reader")
_IMPLIED = {"admin": frozenset({"member", "reader"}), "member": frozenset({"reader"})}


class Unauthorized(SharewrightError):
    """No valid credentials (HTTP 401). The message never says which part was wrong."""

    def __init__(self, message: str = "The request you have made requires authentication.") -> None:
        super().__init__(message)


class IdentityUnavailable(SharewrightError):
    """Nobody can say now whether the credentials are valid (HTTP 503)."""

    def __init__(self, message: str = "The identity service is not available. Try again later.") -> None:
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated user in one project. ``roles`` include the implied ones (admin > member > reader).
    ``by_service``: another service asks on the user's behalf."""

    user_id: str
    project_id: str
    roles: frozenset[str] = field(default_factory=frozenset)
    by_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request brought. ``project_id`` is the one in its URL, empty when the URL names none. ``service_token``
    is that of a service which asks on the user's behalf; ``method`` and ``path`` are what is asked for."""

    token: str = field(default="", repr=False)
    authorization: str = field(default="", repr=False)
    project_id: str = ""
    service_token: str = field(default="", repr=False)
    method: str = ""
    path: str = ""


class Identity(Protocol):
    """One way to authenticate. Implementations are safe to use from several threads."""

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate; ``{base}`` stands for the service's base URL."""
        ...

    def authenticate(self, credentials: Credentials) -> Caller:
        """The caller. Raises Unauthorized, Forbidden, IdentityUnavailable."""
        ...


def with_implied(roles: Mapping[str, object] | list[str] | tuple[str, ...] | frozenset[str]) -> frozenset[str]:
    """The roles and those they imply."""
    given = frozenset(roles)
    return given.union(*(_IMPLIED.get(role, frozenset()) for role in given)) if given else given
