"""The OpenAPI document, made of the tables: routes say what there is, contracts (shapes.py) what it takes and gives.

There is one document per microversion, and no more of them than there are differences: what a route or a field is only
at other microversions is left out. Which one is meant says the request, as for every other operation: by the header of
the microversion, or by ``?microversion=2.N`` for a browser; the newest if neither does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import falcon

from sharewright import __version__
from sharewright.api.faults import fault
from sharewright.api.routing import Route
from sharewright.api.shapes import CONTRACTS, Components, Schema, span
from sharewright.api.versions import EXPERIMENTAL_HEADER, MAXIMUM, MINIMUM, VERSION_HEADER, negotiate, show

_FAULTS: Final = {
    400: "The request is malformed or asks for what cannot be.",
    401: "No or wrong credentials.",
    403: "The caller may not do this, or the resource's state forbids it.",
    404: "There is no such thing, not for this caller, or not at this microversion.",
    406: "The microversion is outside the range.",
    409: "The resource's state, or another resource, forbids it.",
    413: "A quota would be exceeded, or the request is too large.",
    422: "The resource lacks the capability, or the body lacks what it has to hold.",
    503: "Try again later.",
}
_WRITING: Final = frozenset({409, 413, 422})  # never of a request that only reads
_RETRIED: Final = frozenset({413, 503})
_REFERENCE: Final = re.compile(r'"#/components/(\w+)/([^"]+)"')
_PARAMETER: Final = re.compile(r"{(\w+)}")
_NOTES: Final = (
    "Numbers and booleans in the body of a request may also be strings. A key that a resource has only at other"
    " microversions, or only for reading, has no effect; one that it never had is refused with 400."
)


def describe(routes: Sequence[Route], request: falcon.Request) -> dict[str, Any]:
    """The document that a request asks for. Raises InvalidInput or VersionNotSupported."""
    named = request.get_param("microversion") or request.get_param("version") or request.get_header(VERSION_HEADER)
    return document(tuple(routes), negotiate(named) if named else MAXIMUM)


def breaks(routes: Sequence[Route]) -> Iterator[int]:
    """The microversions at which the document differs from the one before, the first included."""
    before: dict[str, Any] = {}
    for version in range(MINIMUM, MAXIMUM + 1):
        made = document(tuple(routes), version)
        components = {**made["components"], "parameters": {}}  # they name the microversion
        if (made := {**made, "info": {}, "components": components}) != before:
            yield version
        before = made


@dataclass(frozen=True, slots=True)
class Description:
    """What one operation takes and gives, unchanged from the ``first`` to the ``last`` microversion (of ``breaks``)."""

    path: str
    method: str
    first: int
    last: int


def descriptions(routes: Sequence[Route]) -> list[Description]:
    """Every operation as often as it is described differently."""
    runs: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for version in breaks(routes):
        made = document(tuple(routes), version)
        parts: dict[str, int] = {}
        for path, methods in made["paths"].items():
            for method, described in methods.items():
                mark, known = _mark(described, made["components"], parts), runs.setdefault((path, method), [])
                if known and known[-1][0] == mark:
                    known[-1] = (mark, known[-1][1], version)
                else:
                    known.append((mark, version, version))
    return [Description(*key, first, last) for key, known in runs.items() for _, first, last in known]


def _mark(value: Any, components: dict[str, Any], parts: dict[str, int]) -> int:
    """Equal where the value and all that it refers to are, but for the microversion. ``parts``: those of components."""
    text = json.dumps(value)
    for kind, name in sorted(set(_REFERENCE.findall(text))):
        if kind != "parameters" and name not in parts:
            parts[name] = _mark(components[kind][name], components, parts)
    return hash((text, *(parts.get(name, 0) for _, name in sorted(set(_REFERENCE.findall(text))))))


@lru_cache(maxsize=128)  # all of them: a few MB, and nobody has to have credentials to ask for them
def document(routes: tuple[Route, ...], version: int) -> dict[str, Any]:
    """The document for a microversion. It must not be changed."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: Components = {f"fault.{status}": _fault(status) for status in _FAULTS}
    by_operation: dict[tuple[str, str], list[Route]] = {}
    for route in routes:
        if route.since <= version <= route.until:
            by_operation.setdefault((route.path, route.method), []).append(route)
    for (path, method), found in by_operation.items():
        paths.setdefault(f"/v2{path}", {})[method.lower()] = _operation(path, method, found, version, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shared File Systems API (Manila) v2, as Sharewright serves it",
            "description": _NOTES,
            "version": show(version),
            "x-sharewright-version": __version__,
            "x-microversions": {"minimum": show(MINIMUM), "maximum": show(MAXIMUM)},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "parameters": {"microversion": _microversion(version)},
            "responses": {str(status): _refusal(status, text) for status, text in _FAULTS.items()},
            "headers": _HEADERS,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{"token": []}, {"basic": []}],
    }


def _operation(path: str, method: str, routes: Sequence[Route], version: int, schemas: Components) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _identifier(path, method),
        "tags": [path.split("/")[1]],
        "parameters": _parameters(path, routes, version),
        "responses": _responses(method, routes, version, schemas),
        "x-microversions": span(min(each.since for each in routes), max(each.until for each in routes)),
    }
    first = routes[0]
    if first.action:
        operation["x-actions"] = {each.action: _action(each, version, schemas) for each in routes}
    elif first.handler.__doc__:
        operation["summary"] = first.handler.__doc__.split("\n")[0]
    body = _body(method, routes, version, schemas)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _parameters(path: str, routes: Sequence[Route], version: int) -> list[dict[str, Any]]:
    text = {"type": "string"}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {**text, "minLength": 1}}
        for name in _PARAMETER.findall(path)
    ]
    found.append({"$ref": "#/components/parameters/microversion"})
    if all(route.experimental for route in routes):
        needed = {"type": "string", "enum": ["True", "true"]}
        found.append({"name": EXPERIMENTAL_HEADER, "in": "header", "required": True, "schema": needed})
    query = CONTRACTS[routes[0].handler].query
    if query is not None:
        found += [{"name": name, "in": "query", "schema": schema} for name, schema in query(version).items()]
    return found


def _responses(method: str, routes: Sequence[Route], version: int, schemas: Components) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status in _FAULTS
        if method != "GET" or status not in _WRITING
    }
    answers: dict[int, list[Schema | None]] = {}
    for route in routes:
        for status in (route.status, *CONTRACTS[route.handler].also):
            answers.setdefault(status, []).append(_gives(route, version, schemas))
    for status, shapes in answers.items():
        distinct: list[Schema] = []
        for shape in shapes:
            if shape is not None and shape not in distinct:
                distinct.append(shape)
        answer: dict[str, Any] = {"description": "Success.", "headers": _headers(status)}
        if distinct:
            schema = distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
            answer["content"] = {"application/json": {"schema": schema}}
            if None in shapes:  # some of the actions answer with nothing
                answer["content"]["text/html"] = {"schema": {"type": "string", "maxLength": 0}}
        responses[str(status)] = answer
    return dict(sorted(responses.items()))


def _gives(route: Route, version: int, schemas: Components) -> Schema | None:
    gives = CONTRACTS[route.handler].gives
    return gives(version, schemas) if gives else None


def _takes(route: Route, version: int, schemas: Components) -> Schema:
    takes = CONTRACTS[route.handler].takes
    return takes(version, schemas) if takes else {}


def _action(route: Route, version: int, schemas: Components) -> dict[str, Any]:
    """What OpenAPI cannot say: which answer belongs to which of the bodies."""
    described: dict[str, Any] = {"status": route.status, "x-microversions": span(route.since, route.until)}
    if route.handler.__doc__:
        described["summary"] = route.handler.__doc__.split("\n")[0]
    if route.experimental:
        described["experimental"] = True
    shape = _gives(route, version, schemas)
    return {**described, "answer": shape} if shape is not None else described


def _body(method: str, routes: Sequence[Route], version: int, schemas: Components) -> Schema | None:
    if method not in ("POST", "PUT"):
        return None
    actions = [route for route in routes if route.action]
    if actions:
        return {
            "oneOf": [
                {
                    "type": "object",
                    "title": route.action,
                    "properties": {route.action: _takes(route, version, schemas)},
                    "required": [route.action],
                    "additionalProperties": False,
                }
                for route in actions
            ]
        }
    takes = CONTRACTS[routes[0].handler].takes
    if takes is None:
        return None
    shape = takes(version, schemas)
    return shape or {"type": "object"}


def _microversion(version: int) -> dict[str, Any]:
    """Without the header it is the oldest."""
    at = {"type": "string", "const": show(version)}
    return {"name": VERSION_HEADER, "in": "header", "required": version > MINIMUM, "schema": at}


def _refusal(status: int, text: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/fault.{status}"}
    return {"description": text, "headers": _headers(status), "content": {"application/json": {"schema": schema}}}


def _fault(status: int) -> Schema:
    """Made of a fault itself: its keys, and its number."""
    ((name, inner),) = fault(status, "").items()
    properties = {key: {"type": "integer", "const": status} if key == "code" else {"type": "string"} for key in inner}
    value = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


_HEADERS: Final[dict[str, Any]] = {
    "request-id": {"required": True, "schema": {"type": "string", "pattern": "^req-[0-9a-f-]{36}$"}},
    "microversion": {
        "description": "The microversion that counted; of what failed before it was read there is none.",
        "schema": {"type": "string", "pattern": r"^\d+\.\d+$"},
    },
    "retry-after": {"required": True, "schema": {"type": "string", "pattern": r"^\d+$"}},
}


def _headers(status: int) -> dict[str, Any]:
    found = {
        "x-openstack-request-id": {"$ref": "#/components/headers/request-id"},
        "x-compute-request-id": {"$ref": "#/components/headers/request-id"},
        VERSION_HEADER: {"$ref": "#/components/headers/microversion"},
    }
    return {**found, "Retry-After": {"$ref": "#/components/headers/retry-after"}} if status in _RETRIED else found


def _identifier(path: str, method: str) -> str:
    return "_".join([method.lower(), *re.findall(r"[A-Za-z0-9]+", path)])
