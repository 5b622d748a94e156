"""What lists of several resources have in common: other projects' things, and how many there are in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sharewright.api.resource import Resource, parse_flag
from sharewright.api.routing import Call

PAGING: Final = frozenset(
    {"limit", "offset", "marker", "sort_key", "sort_dir", "all_tenants", "all_projects", "with_count"}
)


def all_projects(call: Call) -> bool:
    """Whether the request asks for other projects' things too; only an admin gets them."""
    given = call.query.get("all_tenants") or call.query.get("all_projects")
    return bool(given) and parse_flag(given or "", "all_tenants")


def names_unknown(call: Call, resource: Resource) -> bool:
    """Whether an administrator filters by what the resource does not have: in some lists of Manila nothing matches."""
    known = {entry.name for entry in resource.filters} | PAGING
    return call.is_admin and any(key.removesuffix("~") not in known for key in call.query)


def list_counted(
    call: Call,
    resource: Resource,
    find: Callable[..., tuple[list[dict[str, Any]], int | None]],
    *,
    detail: bool,
    first_version: int,
) -> Any:
    """The answer for one page. ``find``: the service's list; ``first_version``: the microversion of ``with_count``."""
    page = call.page(resource)
    counted = call.version >= first_version and parse_flag(call.query.get("with_count", "false"), "with_count")
    records, total = find(
        call.deployment,
        call.context,
        call.filters(resource),
        page,
        all_projects=all_projects(call),
        detail=detail,
        with_count=counted,
    )
    answer = resource.show_all(records, call, summary=not detail)
    if total is not None:
        answer["count"] = total
    return answer | call.next_page(resource, records, page)
