"""QoS types: named sets of specs that an administrator gives to backends which have qualities of service. None of ours
has them yet (capability ``qos_type_support``); a share type may name one all the same (``default_qos_type``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, delete, select, update
from sqlalchemy.exc import IntegrityError

from sharewright.context import RequestContext
from sharewright.errors import Conflict, InvalidInput, NotFound
from sharewright.identifiers import is_id, new_id, utcnow
from sharewright.services.deployment import Deployment, Record, fetch_one
from sharewright.services.lists import Page, contains, fetch_page
from sharewright.services.policy import authorize
from sharewright.services.records import attach, read_maps, write_map
from sharewright.services.validation import check_metadata
from sharewright.store.tables import qos_type_specs, qos_types

COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: qos_types.c[name] for name in ("id", "name", "created_at", "updated_at")
}
_OWNER: Column[Any] = qos_type_specs.c.qos_type_id
DEFAULT_QOS_SPEC: Final = "default_qos_type"
_KEY: Final = re.compile(r"^[\w.\-: ]{1,255}$")


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    authorize(context, "qos_type:show")
    with deployment.store.read() as tx:
        return _find(tx, identifier)


def list_types(
    deployment: Deployment, context: RequestContext, filters: Mapping[str, Any], page: Page
) -> list[dict[str, Any]]:
    """The QoS types of one page, for everybody. Two statements."""
    authorize(context, "qos_type:index")
    columns = qos_types.c
    names = ("name", "description")
    statement = select(qos_types).where(
        *(columns[name] == filters[name] for name in names if name in filters),
        *(contains(columns[name], filters[f"{name}~"]) for name in names if f"{name}~" in filters),
    )
    with deployment.store.read() as tx:
        return _complete(tx, fetch_page(tx, statement, page, columns=COLUMNS, identifier=columns.id))


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """A new one: name, description, specs."""
    authorize(context, "qos_type:create")
    name = values.get("name")
    if not name:
        raise InvalidInput("QoS Type must have name.")
    specs = _check_specs(values.get("specs") or {})
    identifier = new_id()
    try:
        with deployment.store.begin() as tx:
            tx.execute(
                qos_types.insert().values(
                    id=identifier, name=name, description=values.get("description"), created_at=utcnow()
                )
            )
            write_map(tx, qos_type_specs, _OWNER, identifier, specs, replace=False)
            return _find(tx, identifier)
    except IntegrityError:
        raise Conflict(f"QoS Type with name {name} already exist.") from None


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change the description."""
    authorize(context, "qos_type:update")
    with deployment.store.begin() as tx:
        _find(tx, identifier)
        if values:
            tx.execute(
                update(qos_types)
                .where(qos_types.c.id == identifier)
                .values(description=values.get("description"), updated_at=utcnow())
            )
        return _find(tx, identifier)


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    authorize(context, "qos_type:delete")
    with deployment.store.begin() as tx:
        _find(tx, identifier)
        tx.execute(delete(qos_types).where(qos_types.c.id == identifier))


# ---- specs -----------------------------------------------------------------------------------------------------------


def read_specs(
    deployment: Deployment, context: RequestContext, identifier: str, rule: str = "qos_type_specs:index"
) -> dict[str, str]:
    authorize(context, rule)
    with deployment.store.read() as tx:
        return dict(_find(tx, identifier)["specs"])


def write_specs(
    deployment: Deployment,
    context: RequestContext,
    identifier: str,
    values: Any,
    rule: str = "qos_type_specs:create",
) -> dict[str, str]:
    """Set specs; others stay. Returns those that were set."""
    authorize(context, rule)
    with deployment.store.begin() as tx:
        _find(tx, identifier)
        specs = _check_specs(values)
        write_map(tx, qos_type_specs, _OWNER, identifier, specs, replace=False)
        return specs


def delete_spec(deployment: Deployment, context: RequestContext, identifier: str, key: str) -> None:
    authorize(context, "qos_type_specs:delete")
    with deployment.store.begin() as tx:
        _find(tx, identifier)
        removed = tx.execute(delete(qos_type_specs).where(_OWNER.in_([identifier]), qos_type_specs.c.key == key))
        if not removed.rowcount:
            raise NotFound(f"QoS type {identifier} has no spec {key[:64]}.")


def check_qos(tx: Connection, specs: Mapping[str, str]) -> None:
    """Raise InvalidInput when a share type's default_qos_type is none that there is."""
    name = specs.get(DEFAULT_QOS_SPEC)
    if name and tx.execute(select(qos_types.c.id).where(qos_types.c.name == name)).first() is None:
        raise InvalidInput(
            f"The share type's extra spec {DEFAULT_QOS_SPEC} names {name[:64]}, which is no QoS type.",
            hint="An administrator can create it, or change the share type.",
        )


# ---- parts -----------------------------------------------------------------------------------------------------------


def _find(tx: Connection, identifier: str) -> dict[str, Any]:
    row = fetch_one(tx, select(qos_types).where(qos_types.c.id == identifier)) if is_id(identifier) else None
    if row is None:
        raise NotFound(f"No QoS Type exists with ID {identifier[:64]}.")
    return _complete(tx, [row])[0]


def _complete(tx: Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    attach(records, "specs", read_maps(tx, qos_type_specs, _OWNER, [record["id"] for record in records]))
    return records


def _check_specs(values: Any) -> dict[str, str]:
    specs = check_metadata(values, what="QoS spec")
    for key in specs:
        if not _KEY.match(key):
            raise InvalidInput(
                "Key names can only contain alphanumeric characters, underscores, periods, colons and hyphens."
            )
    return specs
