"""The OpenAPI document, made of the tables: routes say what there is, resources what it looks like.

A document is for one microversion, the newest unless ``?version=2.N`` asks for another: what a route or a field is only
outside of it is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from sharewright import __version__
from sharewright.api.resource import Resource
from sharewright.api.routing import Route
from sharewright.api.versions import EXPERIMENTAL_HEADER, MAXIMUM, MINIMUM, NEWEST, VERSION_HEADER, show

_FAULTS: Final = {
    "400": "The request is malformed or asks for what cannot be.",
    "401": "No or wrong credentials.",
    "403": "The caller may not do this, or the resource's state forbids it.",
    "404": "There is no such thing, not for this caller, or not at this microversion.",
    "406": "The microversion is outside the range.",
    "409": "The resource's state, or another resource, forbids it.",
    "413": "A quota would be exceeded, or the request is too large.",
    "422": "The resource lacks the capability.",
    "503": "Try again later.",
}
_FAULT: Final = {
    "type": "object",
    "description": "One key, named after the status.",
    "additionalProperties": {
        "type": "object",
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        "required": ["message"],
    },
}
_PARAMETER: Final = re.compile(r"{(\w+)}")
_PAGING: Final = ("limit", "offset", "marker", "sort_key", "sort_dir")


@lru_cache(maxsize=4)  # nobody has to have credentials to ask for all of them
def document(routes: tuple[Route, ...], version: int) -> dict[str, Any]:
    """The document for a microversion. It must not be changed."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"fault": _FAULT}
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
            "version": show(version),
            "x-sharewright-version": __version__,
            "x-microversions": {"minimum": show(MINIMUM), "maximum": show(MAXIMUM)},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{"token": []}, {"basic": []}],
    }


def _operation(
    path: str, method: str, routes: Sequence[Route], version: int, schemas: dict[str, Any]
) -> dict[str, Any]:
    first = routes[0]
    resource = _resource_of(first, path)
    operation: dict[str, Any] = {
        "operationId": _identifier(path, method),
        "tags": [path.split("/")[1]],
        "parameters": _parameters(path, method, routes, resource, version),
        "responses": _responses(path, method, routes, resource, version, schemas),
        "x-microversions": _range(routes),
    }
    if first.handler.__doc__:
        operation["summary"] = first.handler.__doc__.split("\n")[0]
    body = _body(path, method, routes, resource, version, schemas)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _parameters(
    path: str, method: str, routes: Sequence[Route], resource: Resource | None, version: int
) -> list[dict[str, Any]]:
    text = {"type": "string"}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in _PARAMETER.findall(path)
    ]
    found.append({"name": VERSION_HEADER, "in": "header", "schema": {"type": "string", "default": show(version)}})
    if all(route.experimental for route in routes):
        needed = {"type": "string", "enum": ["True", "true"]}
        found.append({"name": EXPERIMENTAL_HEADER, "in": "header", "required": True, "schema": needed})
    if method == "GET" and resource is not None and not _is_one(path):
        names = [*_PAGING, *(each.name for each in resource.filters if each.since <= version <= each.until)]
        found += [{"name": name, "in": "query", "schema": text} for name in names]
    return found


def _responses(
    path: str,
    method: str,
    routes: Sequence[Route],
    resource: Resource | None,
    version: int,
    schemas: dict[str, Any],
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        status: {"description": text, "content": {"application/json": {"schema": _reference("fault")}}}
        for status, text in _FAULTS.items()
    }
    for status in sorted(
        {route.status for route in routes} | ({200} if any(route.action for route in routes) else set())
    ):
        answer: dict[str, Any] = {"description": "Success."}
        shown = None if method == "DELETE" or routes[0].action else _shown(path, method, resource, version, schemas)
        if shown is not None:
            answer["content"] = {"application/json": {"schema": shown}}
        responses[str(status)] = answer
    return dict(sorted(responses.items()))


def _shown(
    path: str, method: str, resource: Resource | None, version: int, schemas: dict[str, Any]
) -> dict[str, Any] | None:
    if resource is None:
        return {"type": "object"}
    name = f"{resource.name}.detail"
    schemas.setdefault(name, _described(resource.schema(version)))
    if method == "GET" and not _is_one(path):
        # A summary has some of the keys.
        items = {"type": "array", "items": _reference(name)}
        return {"type": "object", "properties": {resource.plural: items}, "required": [resource.plural]}
    return {"type": "object", "properties": {resource.name: _reference(name)}}


def _body(
    path: str,
    method: str,
    routes: Sequence[Route],
    resource: Resource | None,
    version: int,
    schemas: dict[str, Any],
) -> dict[str, Any] | None:
    if method not in ("POST", "PUT"):
        return None
    actions = [route.action for route in routes if route.action]
    if actions:
        return {"oneOf": [{"type": "object", "properties": {each: {}}, "required": [each]} for each in actions]}
    if resource is None:
        return {"type": "object"}
    kind = "create" if method == "POST" else "update"
    described = resource.schema(version, action=kind)
    if not described["properties"]:
        return {"type": "object"}
    name = f"{resource.name}.{kind}"
    schemas.setdefault(name, _described(described))
    return {"type": "object", "properties": {resource.name: _reference(name)}, "required": [resource.name]}


def _resource_of(route: Route, path: str) -> Resource | None:
    """The table of what is at a path: that of the handler's module whose collection is the path's last one."""
    module = sys.modules[route.handler.__module__]
    found = [value for value in vars(module).values() if isinstance(value, Resource)]
    last = [segment for segment in path.split("/") if segment and not segment.startswith("{") and segment != "detail"]
    return next((each for each in found if last and each.collection == last[-1]), None)


def _is_one(path: str) -> bool:
    return path.endswith("}")


def _identifier(path: str, method: str) -> str:
    return "_".join([method.lower(), *re.findall(r"[A-Za-z0-9]+", path)])


def _range(routes: Sequence[Route]) -> dict[str, str]:
    since, until = min(route.since for route in routes), max(route.until for route in routes)
    known = {"since": show(since)}
    return known if until >= NEWEST else {**known, "until": show(until)}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """``required`` only where there is any."""
    return schema if schema.get("required") else {key: value for key, value in schema.items() if key != "required"}
