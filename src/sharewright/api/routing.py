"""Routes: one row per operation of the API, as in the table of the reference, and the call that a handler gets.

A handler is a function of the call and the path's parameters; it returns the body (None: an empty one) and lets errors
pass. Which microversions an operation exists in stands in its route, not in its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlencode

import falcon
import msgspec

from sharewright.api.faults import BodyTooLarge, NoSuchResource
from sharewright.api.resource import Record, Resource, printable
from sharewright.api.versions import EXPERIMENTAL_HEADER, NEWEST
from sharewright.context import RequestContext
from sharewright.errors import InvalidInput
from sharewright.services.deployment import Deployment
from sharewright.services.lists import Page, parse_page
from sharewright.services.policy import authorize

MAXIMUM_BODY: Final = 114_688  # bytes; upstream's osapi_max_request_body_size

Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Route:
    """``action`` is the body's key of a POST to ``…/action``. ``since``/``until``: microversions, both included.
    ``status`` is that of a success. ``experimental``: only for requests that carry the experimental header.
    ``rule``: the policy's, of an operation that is not for everybody: others learn nothing about its body."""

    method: str
    path: str
    handler: Handler
    since: int = 0
    until: int = NEWEST
    status: int = 200
    action: str = ""
    experimental: bool = False
    rule: str = ""

    def exists_for(self, call: Call) -> bool:
        return self.since <= call.version <= self.until and (call.is_experimental or not self.experimental)


@dataclass(eq=False)
class Call:
    """One request to a handler: who, at which microversion, with what, and how to answer with links."""

    deployment: Deployment
    context: RequestContext
    version: int
    request: falcon.Request
    base_url: str
    prefix: str = "/v2"  # of links: with the project when the request's URL had it
    status: int = 0  # a handler may set it to answer with another success than its route's

    @property
    def is_admin(self) -> bool:
        return self.context.is_admin

    @property
    def is_experimental(self) -> bool:
        """Whether the request asks for experimental operations too."""
        return (self.request.get_header(EXPERIMENTAL_HEADER) or "").lower() == "true"

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query's parameters; of one given several times, the last."""
        return {
            key: value if isinstance(value, str) else value[-1] for key, value in self.request.params.items() if value
        }

    @cached_property
    def body(self) -> Any:
        """The JSON body. Raises InvalidInput when there is none, or when it is not one object."""
        parsed = read_body(self.request)
        if not isinstance(parsed, dict):
            raise InvalidInput("Malformed request body: expected a JSON object.")
        return parsed

    def page(self, resource: Resource) -> Page:
        """Limit, offset, marker and order of a list request. Raises InvalidInput."""
        return parse_page(self.query, resource.sort_keys, self.deployment.settings.api.max_limit)

    def filters(self, resource: Resource) -> dict[str, Any]:
        return resource.parse_filters(self.query, self.version, self.is_admin)

    def links(self, collection: str, identifier: str) -> list[dict[str, str]]:
        own, bookmark = self._link_roots
        path = f"/{collection}/{identifier}"
        return [{"rel": "self", "href": own + path}, {"rel": "bookmark", "href": bookmark + path}]

    @cached_property
    def _link_roots(self) -> tuple[str, str]:
        return f"{self.base_url}{self.prefix}", f"{self.base_url}{self.prefix[3:]}"

    def next_page(self, resource: Resource, records: Sequence[Record], page: Page) -> dict[str, Any]:
        """``{"<plural>_links": [next]}`` when the page is full, so that there may be another; else nothing."""
        if not records or len(records) < page.limit:
            return {}
        query = {key: value for key, value in self.query.items() if key not in ("marker", "offset")}
        href = f"{self.base_url}{self.prefix}{self.resource_path}?{urlencode({**query, 'marker': records[-1]['id']})}"
        return {f"{resource.plural}_links": [{"rel": "next", "href": href}]}

    @property
    def resource_path(self) -> str:
        """The path below the prefix."""
        return self.request.path.removeprefix("/v2")


def read_body(request: falcon.Request) -> Any:
    """The parsed JSON of a request; None when it has no body. Raises InvalidInput or BodyTooLarge."""
    length = request.content_length
    if length is not None and length > MAXIMUM_BODY:
        raise BodyTooLarge(f"Request is too large. The limit is {MAXIMUM_BODY} bytes.")
    data = request.bounded_stream.read(MAXIMUM_BODY + 1)
    if not data:
        return None
    if len(data) > MAXIMUM_BODY:
        raise BodyTooLarge(f"Request is too large. The limit is {MAXIMUM_BODY} bytes.")
    media = (request.content_type or "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise InvalidInput("Unsupported Content-Type", hint="Send application/json.")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("Malformed request body: not valid JSON.") from None


@dataclass(eq=False)
class Endpoint:
    """All routes of one path: the responder that Falcon calls. ``serve`` runs a chosen route."""

    path: str
    serve: Callable[[falcon.Request, falcon.Response, Callable[[Call], tuple[Route, Any]]], None]
    routes: dict[str, list[Route]] = field(default_factory=dict)

    def add(self, route: Route) -> None:
        self.routes.setdefault(route.method, []).append(route)

    def on_get(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("GET", request, response, parameters)

    def on_head(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("GET", request, response, parameters)

    def on_post(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("POST", request, response, parameters)

    def on_put(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("PUT", request, response, parameters)

    def on_delete(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("DELETE", request, response, parameters)

    def _respond(
        self, method: str, request: falcon.Request, response: falcon.Response, parameters: Mapping[str, str]
    ) -> None:
        def run(call: Call) -> tuple[Route, Any]:
            route = self.choose(method, call)
            if route.rule:
                authorize(call.context, route.rule)
            return route, route.handler(call, **parameters)

        self.serve(request, response, run)

    def choose(self, method: str, call: Call) -> Route:
        """The route for this method, microversion and (in an action) body. Raises NoSuchResource or InvalidInput."""
        candidates = self.routes.get(method, [])
        if any(route.action for route in candidates):
            if len(call.body) != 1:
                raise InvalidInput("Malformed request body: an action has exactly one key.")
            action = next(iter(call.body))
            candidates = [route for route in candidates if route.action == action]
            if not candidates:
                raise InvalidInput(f"There is no such action: {printable(action)}")
        for route in candidates:
            if route.exists_for(call):
                return route
        raise NoSuchResource()
