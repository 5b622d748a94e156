"""Who asks, and under which request id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sharewright.identifiers import new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The authenticated caller. ``request_id`` follows the work from the API to the guest."""

    project_id: str
    user_id: str
    roles: frozenset[str] = frozenset({"member"})
    request_id: str = field(default_factory=lambda: f"req-{new_id()}")

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def to_dict(self) -> dict[str, Any]:
        return {
            "project_id": self.project_id,
            "user_id": self.user_id,
            "roles": sorted(self.roles),
            "request_id": self.request_id,
        }
