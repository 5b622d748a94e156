"""Quota sets, quota classes and limits: reading and setting what a project, a user or a share type may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select

from sharewright.context import RequestContext
from sharewright.errors import Forbidden, InvalidInput, NotFound
from sharewright.services import share_types
from sharewright.services.deployment import Deployment
from sharewright.services.policy import authorize
from sharewright.store.quotas import (
    DEFAULT_CLASS,
    NOT_BY_SHARE_TYPE,
    RESOURCES,
    UNLIMITED,
    read_defaults,
    read_limits,
    read_usage,
)
from sharewright.store.tables import quotas


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose quota: the project's, or a user's or a share type's (id) in it."""

    project_id: str
    user_id: str = ""
    share_type_id: str = ""

    @property
    def name(self) -> str:
        return "user" if self.user_id else "share_type" if self.share_type_id else "project"


def open_scope(
    tx: Connection, context: RequestContext, rule: str, project_id: str, user_id: str, share_type: str
) -> Scope:
    """The scope of a request. ``share_type`` may be an id or a name. Raises Forbidden, NotFound or InvalidInput."""
    authorize(context, rule, project_id)
    if user_id and share_type:
        raise InvalidInput("'user_id' and 'share_type' values are mutually exclusive.")
    if user_id and user_id != context.user_id and not context.is_admin:
        raise Forbidden("Only administrators may see the quotas of other users.")
    type_id = ""
    if share_type:
        found = share_types.by_id(tx, share_type)
        if found is None:
            raise NotFound(f"Share type {share_type[:64]} could not be found.")
        type_id = found["id"]
    return Scope(project_id=project_id, user_id=user_id, share_type_id=type_id)


def show(
    deployment: Deployment, context: RequestContext, project_id: str, *, user_id: str = "", share_type: str = ""
) -> dict[str, dict[str, int]]:
    """resource → limit, in_use and reserved (always 0: usage is final when a request is accepted)."""
    with deployment.store.read() as tx:
        scope = open_scope(tx, context, "quota_set:show", project_id, user_id, share_type)
        return _read(tx, deployment, scope)


def show_defaults(deployment: Deployment, context: RequestContext, project_id: str) -> dict[str, int]:
    authorize(context, "quota_set:show", project_id)
    with deployment.store.read() as tx:
        return read_defaults(tx, deployment.settings.quotas)


def change(
    deployment: Deployment,
    context: RequestContext,
    project_id: str,
    values: Mapping[str, Any],
    *,
    user_id: str = "",
    share_type: str = "",
    force: bool = False,
) -> dict[str, dict[str, int]]:
    """Set limits (-1: none). Without ``force`` a limit may not be below what is in use; a user's or share type's may
    not be above the project's."""
    with deployment.store.begin() as tx:
        scope = open_scope(tx, context, "quota_set:update", project_id, user_id, share_type)
        limits = _check_values(values)
        current = _read(tx, deployment, scope)
        project = read_limits(tx, deployment.settings.quotas, project_id).project
        for name, limit in limits.items():
            if scope.share_type_id and name in NOT_BY_SHARE_TYPE:
                raise InvalidInput(f"A share type has no quota of {name}.")
            used = current[name]["in_use"]
            if not force and limit != UNLIMITED and limit < used:
                raise InvalidInput(
                    f"Quota value {limit} for {name} is less than what is used and reserved ({used}).",
                    hint="Use force to set it nevertheless.",
                )
            most = project[name]
            if scope.name != "project" and not force and most != UNLIMITED and (limit == UNLIMITED or limit > most):
                raise InvalidInput(
                    f"Quota limit {limit} for {name} must be less than or equal to {most}, the project's."
                )
        _write(tx, scope.name, project_id, scope.user_id, scope.share_type_id, limits)
        return _read(tx, deployment, scope)


def remove(
    deployment: Deployment, context: RequestContext, project_id: str, *, user_id: str = "", share_type: str = ""
) -> None:
    """Go back to the defaults: of the project with all its users and share types, or of the one named."""
    with deployment.store.begin() as tx:
        scope = open_scope(tx, context, "quota_set:delete", project_id, user_id, share_type)
        statement = delete(quotas).where(quotas.c.scope_id == project_id, quotas.c.scope != "class")
        if scope.name != "project":
            statement = statement.where(
                quotas.c.scope == scope.name,
                quotas.c.user_id == scope.user_id,
                quotas.c.share_type_id == scope.share_type_id,
            )
        tx.execute(statement)


def show_class(deployment: Deployment, context: RequestContext, name: str) -> dict[str, int]:
    """The limits of a quota class; what a class does not set is as configured. Only "default" has an effect."""
    authorize(context, "quota_class_set:show")
    with deployment.store.read() as tx:
        return _read_class(tx, deployment, name)


def change_class(
    deployment: Deployment, context: RequestContext, name: str, values: Mapping[str, Any]
) -> dict[str, int]:
    authorize(context, "quota_class_set:update")
    limits = _check_values(values)
    with deployment.store.begin() as tx:
        _write(tx, "class", name, "", "", limits)
        return _read_class(tx, deployment, name)


def limits_of_caller(deployment: Deployment, context: RequestContext) -> dict[str, dict[str, int]]:
    """What the caller's project may use and uses. Two statements."""
    with deployment.store.read() as tx:
        return _read(tx, deployment, Scope(project_id=context.project_id))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _read(tx: Connection, deployment: Deployment, scope: Scope) -> dict[str, dict[str, int]]:
    limits = read_limits(tx, deployment.settings.quotas, scope.project_id)
    if scope.user_id:
        chosen: Mapping[str, int] = limits.of_user(scope.user_id)
    elif scope.share_type_id:
        chosen = limits.of_share_type(scope.share_type_id)
    else:
        chosen = limits.project
    usage = read_usage(tx, scope.project_id, user_id=scope.user_id, share_type_id=scope.share_type_id)
    return {name: {"limit": limit, "in_use": usage[name], "reserved": 0} for name, limit in chosen.items()}


def _read_class(tx: Connection, deployment: Deployment, name: str) -> dict[str, int]:
    if name == DEFAULT_CLASS:
        return read_defaults(tx, deployment.settings.quotas)
    rows = tx.execute(
        select(quotas.c.resource, quotas.c.hard_limit).where(quotas.c.scope == "class", quotas.c.scope_id == name)
    )
    configured = {resource: getattr(deployment.settings.quotas, resource) for resource in RESOURCES}
    return configured | {row.resource: row.hard_limit for row in rows}


def _check_values(values: Mapping[str, Any]) -> dict[str, int]:
    if not values:
        raise InvalidInput("The request names no quota to set.")
    checked: dict[str, int] = {}
    for name, value in values.items():
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not UNLIMITED <= value <= 2**31 - 1:
            raise InvalidInput(f"Quota limit for {name} must be an integer, -1 (no limit) or more.")
        checked[name] = value
    return checked


def _write(
    tx: Connection, scope: str, scope_id: str, user_id: str, share_type_id: str, limits: Mapping[str, int]
) -> None:
    key = {"scope": scope, "scope_id": scope_id, "user_id": user_id, "share_type_id": share_type_id}
    for name, limit in sorted(limits.items()):
        tx.execute(delete(quotas).filter_by(**key, resource=name))
        tx.execute(quotas.insert().values(**key, resource=name, hard_limit=limit))
