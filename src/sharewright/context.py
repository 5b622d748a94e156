"""Who asks, and under which request id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sharewright.identifiers import new_id

Check: TypeAlias = "Callable[[RequestContext, Mapping[str, str]], bool]"
"""Whether a caller may do something to a resource: its project_id and user_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The authenticated caller. ``request_id`` follows the work from the API to the guest. ``checks`` are rules of the
    deployment's own, in place of the defaults (services/policy.py). ``by_service``: a service asks for the user, with a
    token of its own beside the user's; it may do what the user may."""

    project_id: str
    user_id: str
    roles: frozenset[str] = frozenset({"member"})
    request_id: str = field(default_factory=lambda: f"req-{new_id()}")
    by_service: bool = False
    checks: Mapping[str, Check] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_admin(self) -> bool:
        check = self.checks.get("context_is_admin")
        return "admin" in self.roles if check is None else check(self, {})

    @property
    def is_service(self) -> bool:
        """Another service, such as Nova, in its own name."""
        return "service" in self.roles

    def to_dict(self) -> dict[str, Any]:
        return {
            "project_id": self.project_id,
            "user_id": self.user_id,
            "roles": sorted(self.roles),
            "request_id": self.request_id,
        }
