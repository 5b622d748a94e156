"""Which projects may use a private share type or share group type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    or_,
    select,
    true,
)
from sqlalchemy.exc import IntegrityError

from sharewright.context import RequestContext
from sharewright.errors import Conflict, NotFound
from sharewright.services.deployment import fetch


@cache
def _find(types: Table, table: Table, owner: Column[Any], *, by_name: bool) -> Select[Any]:
    """The statement of :meth:`TypeProjects.find`, with the condition of :meth:`TypeProjects.usable`."""
    named = types.c.id == bindparam("wanted")
    if by_name:
        named = or_(named, types.c.name == bindparam("wanted"))
    granted = exists().where(owner == types.c.id, table.c.project_id == bindparam("project"))
    everything = bindparam("everything", type_=Boolean) == true()
    return select(types).where(named, or_(everything, types.c.is_public.is_(True), granted))


@cache
def _find_with_specs(
    types: Table, table: Table, owner: Column[Any], of_specs: Column[Any], *, by_name: bool
) -> Select[Any]:
    """The same with the extra specs: a row for each of them, of a type without any one with nulls."""
    specs = of_specs.table
    joined = types.outerjoin(specs, of_specs == types.c.id)
    found = _find(types, table, owner, by_name=by_name).select_from(joined)
    return found.add_columns(specs.c.key.label("spec_key"), specs.c.value.label("spec_value")).order_by(specs.c.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeProjects:
    """``types`` with id and is_public; ``table`` with project_id and ``owner``, the type's id. ``what``: the kind of
    type in messages, in small letters."""

    types: Table
    table: Table
    owner: Column[Any]
    what: str

    def usable(self, context: RequestContext) -> list[ColumnElement[bool]]:
        """The condition that the caller may use a type; administrators may use all."""
        if context.is_admin:
            return []
        granted = exists().where(
            self.owner == self.types.c.id,
            self.table.c.project_id == context.project_id,
        )
        return [or_(self.types.c.is_public.is_(True), granted)]

    def listed(self, context: RequestContext, *, is_public: bool | None) -> list[ColumnElement[bool]]:
        """The condition of a list: public types and those of the caller's own project, or only private ones, or
        (``is_public`` None) all that the caller may use."""
        if is_public is None:
            return self.usable(context)
        if not is_public:
            return [*self.usable(context), self.types.c.is_public.is_(False)]
        own = exists().where(self.owner == self.types.c.id, self.table.c.project_id == context.project_id)
        return [or_(self.types.c.is_public.is_(True), own)]

    @staticmethod
    def _wanted(context: RequestContext, name_or_id: str) -> dict[str, Any]:
        return {"wanted": name_or_id, "project": context.project_id, "everything": context.is_admin}

    def _missing(self, name_or_id: str) -> NotFound:
        return NotFound(f"{self.what.capitalize()} {name_or_id[:64]} could not be found.")

    def find(self, tx: Connection, context: RequestContext, name_or_id: str, *, by_name: bool = True) -> dict[str, Any]:
        """The row of a type that the caller may use; by id before by name. NotFound when there is none."""
        kept = _find(self.types, self.table, self.owner, by_name=by_name)
        rows = fetch(tx, kept, self._wanted(context, name_or_id))
        if not rows:
            raise self._missing(name_or_id)
        return next((row for row in rows if row["id"] == name_or_id), rows[0])

    def find_with_specs(
        self, tx: Connection, context: RequestContext, name_or_id: str, of_specs: Column[Any], *, by_name: bool = True
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The same with its extra specs, by key; ``of_specs``: the type's id in their table. One statement."""
        kept = _find_with_specs(self.types, self.table, self.owner, of_specs, by_name=by_name)
        rows = fetch(tx, kept, self._wanted(context, name_or_id))
        if not rows:
            raise self._missing(name_or_id)
        chosen = next((row for row in rows if row["id"] == name_or_id), rows[0])
        specs = {row["spec_key"]: row["spec_value"] for row in rows if row["id"] == chosen["id"]}
        specs.pop(None, None)
        return {column.name: chosen[column.name] for column in self.types.c}, specs

    def read(self, tx: Connection, of_type: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The projects of a private type. NotFound for a public one."""
        if of_type["is_public"]:
            raise NotFound(f"Access list not available for public {self.what}s.")
        return fetch(tx, select(self.table).where(self.owner == of_type["id"]).order_by(self.table.c.project_id))

    def add(self, tx: Connection, of_type: Mapping[str, Any], project_id: str) -> None:
        """Conflict for a public type, and for a project that has it; then the transaction must be rolled back."""
        self._check_private(of_type)
        try:
            tx.execute(self.table.insert().values({self.owner.name: of_type["id"], "project_id": project_id}))
        except IntegrityError:
            raise Conflict(
                f"{self.what.capitalize()} access for {of_type['id']} / {project_id} combination already exists."
            ) from None

    def remove(self, tx: Connection, of_type: Mapping[str, Any], project_id: str) -> None:
        """Conflict for a public type, NotFound for a project that does not have it."""
        self._check_private(of_type)
        removed = tx.execute(
            delete(self.table).where(self.owner == of_type["id"], self.table.c.project_id == project_id)
        )
        if not removed.rowcount:
            raise NotFound(
                f"{self.what.capitalize()} access not found for {of_type['id']} / {project_id[:64]} combination."
            )

    def _check_private(self, of_type: Mapping[str, Any]) -> None:
        if of_type["is_public"]:
            raise Conflict(f"Type access modification is not applicable to public {self.what}.")
