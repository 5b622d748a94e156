"""What the bodies of requests and answers look like, declared beside the handlers.

A *shape* is a function of the microversion that gives a JSON Schema, and puts what has a name of its own among the
document's components. :func:`contract` says a handler's; the OpenAPI document (openapi.py) is made of nothing else than
these, the tables of the resources and the routes, and the tests hold every answer against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from sharewright.api.resource import Field, Filter, Resource, StringMap
from sharewright.api.routing import Handler
from sharewright.api.versions import NEWEST, show

Schema: TypeAlias = dict[str, Any]
Components: TypeAlias = dict[str, Schema]
Shape: TypeAlias = Callable[[int, Components], Schema]
Query: TypeAlias = Callable[[int], dict[str, Schema]]
"""Parameter of the query → its schema, at a microversion."""

TIME: Final[Schema] = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$",
    "description": "ISO 8601 in UTC, with microseconds and without a zone.",
}
_LINKS: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"rel": {"type": "string"}, "href": {"type": "string"}},
        "required": ["rel", "href"],
        "additionalProperties": False,
    },
}
_KINDS: Final[dict[str, Schema]] = {
    "flag": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": 0},
    "map": {"type": "string", "description": "A dictionary of strings, in JSON or as Python writes it."},
}
_TEXT: Final[Schema] = {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """``takes``: the request's body; of an action what stands under its key; None: no body is read. ``gives``: the body
    of a success; None: an empty one. ``empty``: successes that are empty all the same. ``query``: its parameters."""

    takes: Shape | None = None
    gives: Shape | None = None
    query: Query | None = None
    also: tuple[int, ...] = ()  # statuses of a success besides the route's


CONTRACTS: Final[dict[Handler, Contract]] = {}
_Function = TypeVar("_Function", bound=Handler)


def contract(
    *, takes: Shape | None = None, gives: Shape | None = None, query: Query | None = None, also: tuple[int, ...] = ()
) -> Callable[[_Function], _Function]:
    """Say what a handler takes and gives."""

    def note(handler: _Function) -> _Function:
        CONTRACTS[handler] = Contract(takes=takes, gives=gives, query=query, also=also)
        return handler

    return note


def listing(
    resource: Resource,
    *,
    summary: bool = False,
    counted: int = NEWEST,
    projects: bool = False,
    more: Sequence[Filter] = (),
) -> Callable[[_Function], _Function]:
    """The contract of a list in pages. ``counted``: the first microversion of ``with_count``; ``projects``: an
    administrator may ask for those of all projects; ``more``: filters that are not in the resource's table."""
    return contract(
        gives=many(resource, summary=summary, counted=counted, paged=True),
        query=parameters(resource, paged=True, counted=counted, projects=projects, more=more),
    )


# ---- of resources ----------------------------------------------------------------------------------------------------


def one(resource: Resource, *more: Field, aliases: Sequence[str] = ()) -> Shape:
    """``{name: {…}}``, with further fields inside; ``aliases``: the same under other keys, too."""

    def shape(version: int, components: Components) -> Schema:
        shown = _view(resource, version, components, summary=False)
        if more:
            shown = _shown([*resource.fields, *more], version, components, linked=resource.linked)
        return _closed(dict.fromkeys((resource.name, *aliases), shown))

    return shape


def many(
    resource: Resource,
    *,
    summary: bool = False,
    counted: int = NEWEST,
    paged: bool = False,
    aliases: Sequence[str] = (),
) -> Shape:
    """``{plural: [{…}, …]}``, with the link to the next page and the count where there may be some."""

    def shape(version: int, components: Components) -> Schema:
        items = {"type": "array", "items": _view(resource, version, components, summary=summary)}
        shown = _closed(dict.fromkeys((resource.plural, *aliases), items))
        if paged:
            shown["properties"][f"{resource.plural}_links"] = _LINKS
        if version >= counted:
            shown["properties"]["count"] = {"type": "integer", "minimum": 0}
        return shown

    return shape


def body(resource: Resource, action: str, *more: Field, wrapper: str = "", aliases: Sequence[str] = ()) -> Shape:
    """``{name: {…}}`` of a ``create`` or ``update``; ``aliases``: other keys that may stand for the name."""

    def shape(version: int, components: Components) -> Schema:
        given = _component(
            f"{resource.name}.{action}", components, lambda: _given(_settable(resource, action, more), version)
        )
        names = (wrapper or resource.name, *aliases)
        if len(names) == 1:
            return _closed({names[0]: given})
        return {"anyOf": [_closed({name: given}) for name in names]}

    return shape


def inputs(resource: Resource, action: str) -> Shape:
    """What a ``create`` or ``update`` sets, without a key around it: as under the key of an action."""
    return lambda version, components: _component(
        f"{resource.name}.{action}", components, lambda: _given(_settable(resource, action, ()), version)
    )


def parameters(
    resource: Resource | None = None,
    *,
    paged: bool = False,
    counted: int = NEWEST,
    projects: bool = False,
    more: Sequence[Filter] = (),
) -> Query:
    """The parameters of a list: the resource's filters, and those of pages."""

    def query(version: int) -> dict[str, Schema]:
        found: dict[str, Schema] = {}
        if paged and resource is not None:
            found |= {
                "limit": {"type": "integer", "minimum": 0},
                "offset": {"type": "integer", "minimum": 0},
                "marker": {"type": "string", "description": "The id of the last one of the page before."},
                "sort_key": {"type": "string", "enum": sorted(resource.sort_keys)},
                "sort_dir": {"type": "string", "enum": ["asc", "desc"]},
            }
        if projects:
            found |= {"all_tenants": {"type": "boolean"}, "all_projects": {"type": "boolean"}}
        if version >= counted:
            found["with_count"] = {"type": "boolean"}
        for each in (*(resource.filters if resource else ()), *more):
            if each.since <= version <= each.until:
                found[each.name] = _KINDS.get(each.kind, _TEXT)
                if each.kind == "like" and version >= 36:
                    found[f"{each.name}~"] = _TEXT
        return found

    return query


# ---- of anything else ------------------------------------------------------------------------------------------------


def given(*fields: Field) -> Shape:
    """An object in a request: only fields that are ``required`` have to be there."""
    return lambda version, components: _given(fields, version)


def shown(*fields: Field) -> Shape:
    """An object in an answer: all its fields are there, but for those that only administrators see."""
    return lambda version, components: _shown(fields, version, components, linked=False)


def under(key: str, shape: Shape, *, aliases: Sequence[str] = ()) -> Shape:
    """``{key: shape}``; ``aliases``: keys that a request may use in its place."""

    def wrapped(version: int, components: Components) -> Schema:
        inner = shape(version, components)
        if not aliases:
            return _closed({key: inner})
        return {"anyOf": [_closed({name: inner}) for name in (key, *aliases)]}

    return wrapped


def several(shape: Shape) -> Shape:
    return lambda version, components: {"type": "array", "items": shape(version, components)}


def any_of(kind: Any) -> Shape:
    """Any value of a type."""
    return lambda version, components: describe(kind)


def mapping(kind: Any = str, *, items: int | None = None) -> Shape:
    """An object with keys of the caller's choice; ``items``: how many."""
    bounds: Schema = {} if items is None else {"minProperties": items, "maxProperties": items}
    return lambda version, components: {"type": "object", "additionalProperties": describe(kind), **bounds}


def anything(version: int, components: Components) -> Schema:
    """A value that nobody looks at: that of an action without arguments."""
    return {}


def absent(key: str) -> Shape:
    """An empty list under a key, of what there never is."""
    return lambda version, components: _closed({key: {"type": "array", "maxItems": 0}})


METADATA: Final = under("metadata", mapping())
META: Final = under("meta", mapping(items=1))
TAKES_METADATA: Final = under("metadata", mapping())
TAKES_META: Final = under("meta", mapping(items=1), aliases=("metadata",))


# ---- schemas ---------------------------------------------------------------------------------------------------------


def describe(kind: Any) -> Schema:
    """The JSON Schema of a type. Times are as we print them, which is not RFC 3339's form."""
    if kind is Any:
        return {}
    printed: Schema = _as_printed(msgspec.json.schema(kind))
    return printed


def _as_printed(schema: Any) -> Any:
    if isinstance(schema, dict):
        if schema.get("format") == "date-time":
            return TIME
        return {key: _as_printed(value) for key, value in schema.items()}
    return [_as_printed(each) for each in schema] if isinstance(schema, list) else schema


def _view(resource: Resource, version: int, components: Components, *, summary: bool) -> Schema:
    fields = [field for field in resource.fields if field.summary or not summary]
    # Where every field is in the summary there is one view.
    kind = "summary" if summary and len(fields) < len(resource.fields) else "detail"
    return _component(
        f"{resource.name}.{kind}", components, lambda: _shown(fields, version, components, linked=resource.linked)
    )


def _shown(fields: Sequence[Field], version: int, components: Components, *, linked: bool) -> Schema:
    found = [field for field in fields if field.shown and field.exists_at(version)]
    properties = {field.name: _of_field(field, version, components) for field in found}
    schema = _closed(properties, [field.name for field in found if not field.admin])
    if linked:
        schema["properties"]["links"] = _LINKS
        schema["required"].append("links")
    return schema


def _of_field(field: Field, version: int, components: Components) -> Schema:
    if field.items is not None:
        return {"type": "array", "items": _view(field.items, version, components, summary=True)}
    described = describe(field.type)
    if field.type == StringMap:
        described = {"type": "object", "additionalProperties": {"type": "string"}}
    notes = [field.description] if field.description else []
    if field.admin:
        notes.append("Only administrators see it.")
    return {**described, "description": " ".join(notes)} if notes else described


def _settable(resource: Resource, action: str, more: Sequence[Field]) -> list[Field]:
    return [*(field for field in resource.fields if getattr(field, action)), *more]


def _given(fields: Sequence[Field], version: int) -> Schema:
    found = [field for field in fields if field.exists_at(version)]
    properties = {
        name: describe(field.accepts or field.type) for field in found for name in (field.name, *field.aliases)
    }
    required = [field.name for field in found if field.required and not field.aliases]
    return _closed(properties, required)


def _closed(properties: dict[str, Schema], required: Sequence[str] | None = None) -> Schema:
    """An object with these keys and no other; all are required unless said otherwise."""
    names = list(properties) if required is None else list(dict.fromkeys(required))
    schema: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**schema, "required": names} if names else {**schema, "required": []}


def _component(name: str, components: Components, make: Callable[[], Schema]) -> Schema:
    if name not in components:
        components[name] = {}  # one that contains itself would end here
        components[name] = make()
    return {"$ref": f"#/components/schemas/{name}"}


def span(since: int, until: int) -> dict[str, str]:
    """A range of microversions, as it stands in the document."""
    return {"since": show(since)} | ({} if until >= NEWEST else {"until": show(until)})
