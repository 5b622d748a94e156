"""One declarative table per API resource.

A :class:`Resource` lists its fields once: name, type, first and last microversion, who sees it, in which views it
stands, whether a request may set it. From the table derive the response views, the parsing of request bodies, the
filters and the sort keys of lists, and (``schema``) the description of all that. Types are msgspec's, so limits stand
in the table as ``Annotated[int, Meta(ge=1)]``.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from sharewright.api.versions import NEWEST
from sharewright.errors import InvalidInput

Record: TypeAlias = Mapping[str, Any]
"""A resource as services give it: column names and what was joined to them."""

# ---- types of the vocabulary -----------------------------------------------------------------------------------------

Text255 = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
Name = Text255 | None
Identifier = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
PositiveInteger = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Flag = bool
StringMap = dict[str, Any]  # services/validation.py checks keys and values, with Manila's messages
Values = Mapping[str, Any]  # shown only: of any kind
Timestamp = datetime


class Viewer(Protocol):
    """What a computed field may ask of the request."""

    @property
    def version(self) -> int: ...

    @property
    def is_admin(self) -> bool: ...

    def links(self, collection: str, identifier: str) -> list[dict[str, str]]: ...


Computed: TypeAlias = Callable[[Record, Viewer], Any]


def timestamp(name: str) -> Computed:
    """A field that prints a time column as Manila does: ISO 8601, microseconds, no zone."""

    def compute(record: Record, viewer: Viewer) -> str | None:
        value = record[name]
        return value.isoformat(timespec="microseconds") if value is not None else None

    return compute


@dataclass(frozen=True, slots=True)
class Constant:
    value: Any

    def __call__(self, record: Record, viewer: Viewer) -> Any:
        return self.value


def constant(value: Any) -> Computed:
    """A field whose value is the same for every row, because what would change it is not built."""
    return Constant(value)


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a resource's JSON.

    ``source``: the record's key (default: ``name``) or a function. ``since``/``until``: microversions, both included;
    a key whose meaning changed has one Field per range. ``admin``: only admins see it. ``create``/``update``: a request
    may set it; ``required``: a create must. ``aliases``: other keys that a request may use for it, and ``key`` the name
    under which services get it. ``shown`` false: input only. ``accepts``: the request's type where it differs.
    ``items``: whose summaries are in it, of a list.
    """

    name: str
    type: Any
    _: dataclasses.KW_ONLY
    source: str | Computed | None = None
    since: int = 0
    until: int = NEWEST
    admin: bool = False
    summary: bool = False
    shown: bool = True
    create: bool = False
    update: bool = False
    required: bool = False
    aliases: tuple[str, ...] = ()
    key: str = ""
    accepts: Any = None
    items: Resource | None = None
    description: str = ""

    def exists_at(self, version: int) -> bool:
        return self.since <= version <= self.until

    @property
    def attribute(self) -> str:
        return self.key or self.name


@dataclass(frozen=True, slots=True)
class Filter:
    """One query parameter of a list. ``kind``: how it compares; ``like`` also offers ``name~`` from 2.36."""

    name: str
    _: dataclasses.KW_ONLY
    key: str = ""
    kind: Literal["exact", "like", "flag", "map", "integer"] = "exact"
    since: int = 0
    until: int = NEWEST
    admin: bool = False

    @property
    def attribute(self) -> str:
        return self.key or self.name


View: TypeAlias = Callable[[Record, Viewer], dict[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Resource:
    """A resource of the API. ``name`` is the body's key, ``plural`` that of lists, ``collection`` the path segment."""

    name: str
    plural: str
    collection: str
    fields: Sequence[Field]
    filters: Sequence[Filter] = ()
    sort_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)  # query value → the services' name
    linked: bool = False  # has links to itself
    lenient: bool = False  # keys that it never had are left out, as Manila does where it has no schema

    def view(self, viewer: Viewer, *, summary: bool = False) -> View:
        """The function that renders a record for this viewer."""
        return _compile_view(self, viewer.version, viewer.is_admin, summary)

    def show(self, record: Record, viewer: Viewer, *, summary: bool = False) -> dict[str, Any]:
        """``{name: {…}}``"""
        return {self.name: self.view(viewer, summary=summary)(record, viewer)}

    def show_all(self, records: Sequence[Record], viewer: Viewer, *, summary: bool = False) -> dict[str, Any]:
        """``{plural: [{…}, …]}``"""
        view = self.view(viewer, summary=summary)
        return {self.plural: [view(record, viewer) for record in records]}

    def parse(
        self, body: Any, version: int, action: Literal["create", "update"], *, wrapper: str = ""
    ) -> dict[str, Any]:
        """What a request body sets, by the services' names; absent keys are absent. Raises InvalidInput.

        A key that this resource never had is refused. One that it has, but not to be set, or not at this microversion,
        is left out, as Manila does.
        """
        return self.parse_values(unwrap(body, wrapper or self.name), version, action)

    def parse_values(self, values: Mapping[str, Any], version: int, action: str) -> dict[str, Any]:
        known, settable = _inputs(self, version, action)
        parsed: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known and self.lenient:
                continue
            if key not in known:
                raise InvalidInput(
                    f"Additional properties are not allowed ('{printable(key)}' was unexpected) in {self.name}.",
                    hint=f"Known: {', '.join(sorted(settable))}.",
                )
            field = settable.get(key)
            if field is None or (key != field.name and field.attribute in parsed):
                continue
            parsed[field.attribute] = convert(value, field.accepts or field.type, f"{self.name}.{key}")
        if action == "create":
            for field in settable.values():
                if field.required and field.attribute not in parsed:
                    raise InvalidInput(f"{self.name}.{field.name} is required.")
        return parsed

    def parse_filters(self, query: Mapping[str, str], version: int, is_admin: bool) -> dict[str, Any]:
        """The filters of a list request: attribute → value, ``attribute~`` for the inexact ones. Unknown ones and those
        not for this caller are left out, as Manila does. Raises InvalidInput for a value of the wrong form."""
        chosen: dict[str, Any] = {}
        for entry in self.filters:
            if not entry.since <= version <= entry.until or (entry.admin and not is_admin):
                continue
            if entry.name in query:
                chosen[entry.attribute] = _filter_value(entry, query[entry.name])
            if entry.kind == "like" and version >= 36 and f"{entry.name}~" in query:
                chosen[f"{entry.attribute}~"] = query[f"{entry.name}~"]
        return chosen


def unwrap(body: Any, *wrappers: str) -> Mapping[str, Any]:
    """The object under the first of the keys that the body has. Raises InvalidInput when there is none."""
    if isinstance(body, dict):
        for wrapper in wrappers:
            value = body.get(wrapper)
            if isinstance(value, dict):
                return value
    raise InvalidInput(f"Malformed request body: expected an object with the key '{wrappers[0]}' holding an object.")


def convert(value: Any, expected: Any, where: str) -> Any:
    """A JSON value as the expected type; whole numbers and flags may also be strings. Raises InvalidInput."""
    if isinstance(value, bool) and expected is not Any and not _takes_flag(expected):
        raise InvalidInput(f"Invalid input for {where}: expected {_describe(expected)}, got a boolean.")
    try:
        return msgspec.convert(value, expected, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidInput(f"Invalid input for {where}: {str(error).replace('`', '')}.") from None


def printable(text: str) -> str:
    """A short, harmless form of what a caller sent, to name it in a message."""
    return "".join(character if character.isprintable() else "?" for character in text[:64])


@lru_cache(maxsize=1024)
def _compile_view(resource: Resource, version: int, is_admin: bool, summary: bool) -> View:
    plain: dict[str, str] = {}  # name → key of the record
    constants: dict[str, Any] = {}
    computed: list[tuple[str, Computed]] = []
    for field in resource.fields:
        if not field.shown or not field.exists_at(version) or (field.admin and not is_admin):
            continue
        if summary and not field.summary:
            continue
        if isinstance(field.source, Constant):
            constants[field.name] = field.source.value
        elif callable(field.source):
            computed.append((field.name, field.source))
        else:
            plain[field.name] = field.source or field.name
    collection = resource.collection if resource.linked else ""
    names = tuple(plain)
    values = _getter(tuple(plain.values()))

    def render(record: Record, viewer: Viewer) -> dict[str, Any]:
        # A list calls this for each of its records, so whatever can be is done by one call for all plain fields.
        shown = dict(zip(names, values(record), strict=True))
        shown.update(constants)
        for name, compute in computed:
            shown[name] = compute(record, viewer)
        if collection:
            shown["links"] = viewer.links(collection, record["id"])
        return shown

    return render


def _getter(keys: tuple[str, ...]) -> Callable[[Record], tuple[Any, ...]]:
    """itemgetter, which gives a tuple only for two keys or more."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda record: tuple(record[key] for key in keys)


@lru_cache(maxsize=1024)
def _inputs(resource: Resource, version: int, action: str) -> tuple[frozenset[str], dict[str, Field]]:
    """All keys the resource ever had, and those settable by this action at this version."""
    known: set[str] = {"links"}
    settable: dict[str, Field] = {}
    for field in resource.fields:
        known.update((field.name, *field.aliases))
        if getattr(field, action) and field.exists_at(version):
            settable.update(dict.fromkeys((field.name, *field.aliases), field))
    return frozenset(known), settable


def _takes_flag(expected: Any) -> bool:
    if expected is bool:
        return True
    return any(_takes_flag(part) for part in getattr(expected, "__args__", ()))


def _describe(expected: Any) -> str:
    kind = msgspec.json.schema(expected).get("type", "another type")
    return str(kind)


def _filter_value(entry: Filter, value: str) -> Any:
    if entry.kind == "flag":
        return parse_flag(value, entry.name)
    if entry.kind == "integer":
        return convert(value, Annotated[int, Meta(ge=0, le=2**31 - 1)], entry.name)
    if entry.kind == "map":
        return parse_map(value, entry.name)
    return value


def parse_flag(value: str, where: str) -> bool:
    """A boolean in a query string. Raises InvalidInput."""
    lowered = value.strip().lower()
    if lowered in ("true", "1", "t", "yes", "y", "on"):
        return True
    if lowered in ("false", "0", "f", "no", "n", "off"):
        return False
    raise InvalidInput(f"Invalid input for {where}: expected a boolean, got '{printable(value)}'.")


def parse_map(value: str, where: str) -> dict[str, str]:
    """A dictionary of strings in a query string, as clients write it: Python's literal form, or JSON."""
    try:
        if len(value) > 8192:
            raise ValueError
        parsed = ast.literal_eval(value)
        if not isinstance(parsed, dict):
            raise ValueError
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise InvalidInput(f"Invalid input for {where}: expected a dictionary such as {{'key': 'value'}}.") from None
    return {str(key): str(item) for key, item in parsed.items()}
