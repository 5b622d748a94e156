"""The WSGI application: version documents, authentication, microversions, routes, faults and request ids.

The order is upstream's: request id, public documents, credentials, the project in the URL, the microversion, the route.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import falcon
import msgspec
import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sharewright.api import (
    access_rules,
    availability_zones,
    export_location_metadata,
    export_locations,
    extensions,
    limits,
    managed_shares,
    messages,
    openapi,
    qos_types,
    quota_sets,
    recycle_bin,
    resource_locks,
    scheduler_stats,
    security_services,
    services,
    share_backups,
    share_group_snapshots,
    share_group_types,
    share_groups,
    share_instances,
    share_metadata,
    share_migrations,
    share_network_subnets,
    share_networks,
    share_replicas,
    share_server_migrations,
    share_servers,
    share_sizes,
    share_transfers,
    share_types,
    shares,
    snapshot_access,
    snapshot_instances,
    snapshots,
)
from sharewright.api.faults import BROKEN, NOT_FOUND, NoSuchResource, fault, status_of
from sharewright.api.identity.builtin import BuiltinIdentity
from sharewright.api.identity.contract import Credentials, Identity, Unauthorized
from sharewright.api.identity.keystone_api import KeystoneApi
from sharewright.api.identity.modes import open_identity
from sharewright.api.routing import Call, Endpoint, Route
from sharewright.api.versions import (
    EXPERIMENTAL_HEADER,
    VERSION_HEADER,
    VersionNotSupported,
    document,
    negotiate,
    show,
)
from sharewright.context import RequestContext
from sharewright.errors import InvalidInput, SharewrightError
from sharewright.identifiers import new_id
from sharewright.instruments import http_request_duration, http_requests
from sharewright.logging import bound
from sharewright.services.deployment import Deployment
from sharewright.services.policy_file import PolicyFile
from sharewright.settings import Settings
from sharewright.store.database import Store

log = structlog.get_logger()

ROUTES: Final[Sequence[Route]] = (
    *shares.ROUTES,
    *managed_shares.ROUTES,
    *share_metadata.ROUTES,
    *share_sizes.ROUTES,
    *recycle_bin.ROUTES,
    *share_migrations.ROUTES,
    *share_server_migrations.ROUTES,
    *share_backups.ROUTES,
    *share_transfers.ROUTES,
    *export_locations.ROUTES,
    *export_location_metadata.ROUTES,
    *share_instances.ROUTES,
    *access_rules.ROUTES,
    *snapshots.ROUTES,
    *snapshot_access.ROUTES,
    *snapshot_instances.ROUTES,
    *share_networks.ROUTES,
    *share_network_subnets.ROUTES,
    *share_types.ROUTES,
    *share_group_types.ROUTES,
    *share_groups.ROUTES,
    *share_group_snapshots.ROUTES,
    *share_replicas.ROUTES,
    *share_servers.ROUTES,
    *services.ROUTES,
    *scheduler_stats.ROUTES,
    *security_services.ROUTES,
    *availability_zones.ROUTES,
    *limits.ROUTES,
    *quota_sets.ROUTES,
    *qos_types.ROUTES,
    *messages.ROUTES,
    *resource_locks.ROUTES,
    *extensions.ROUTES,
)
COLLECTIONS: Final = frozenset(route.path.split("/")[1] for route in ROUTES)
IDENTITY_PATH: Final = "/identity"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # for metrics: others are one
NO_ROUTE: Final = "none"

_REQUEST_ID: Final = re.compile(r"^req-[0-9a-f-]{36}$")
_HOST: Final = re.compile(r"^[A-Za-z0-9.:\[\]_-]{1,255}$")
_RETRY_AFTER: Final = {413: "0", 503: "1"}
_encoder = msgspec.json.Encoder()


def create_app(
    store: Store, settings: Settings, *, wake: Callable[[], None] | None = None, identity: Identity | None = None
) -> falcon.App[falcon.Request, falcon.Response]:
    """The API as a WSGI application. ``wake`` is called after a commit that enqueued work; ``identity`` replaces the
    configured way to authenticate. Raises ConfigurationError for a broken password file."""
    deployment = Deployment(store=store, settings=settings, **({"wake": wake} if wake else {}))
    identity = identity or open_identity(deployment)
    front = Front(deployment, identity)
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(middleware=[front])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_qs_csv = False
    app.resp_options.default_media_type = falcon.MEDIA_JSON
    app.add_error_handler(Exception, front.on_error)
    app.add_error_handler(falcon.HTTPError, front.on_http_error)
    app.add_route("/", Public(front.versions, "300 Multiple Choices"))
    app.add_route("/v2", Public(front.versions, "200 OK"))
    app.add_route("/openapi.json", Public(lambda request: openapi.describe(ROUTES, request), "200 OK"))
    app.add_route("/healthcheck", Public(lambda request: "OK", "200 OK"))
    endpoints: dict[str, Endpoint] = {}
    for route in ROUTES:
        path = f"/v2{route.path}"
        if path not in endpoints:
            endpoints[path] = Endpoint(path, front.serve)
        endpoints[path].add(route)
    for path, endpoint in endpoints.items():
        app.add_route(path, endpoint)
    if isinstance(identity, BuiltinIdentity):
        KeystoneApi(identity, front.base_url).add_routes(app, IDENTITY_PATH)
    return app


class Public:
    """A document that needs no credentials."""

    def __init__(self, make: Callable[[falcon.Request], Any], status: str) -> None:
        self._make = make
        self._status = status

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.status = self._status
        content = self._make(request)
        if isinstance(content, str):
            response.content_type = falcon.MEDIA_TEXT
            response.text = content
        else:
            response.data = _encoder.encode(content)

    on_head = on_get


class Front:
    """What happens to every request before and after its handler."""

    def __init__(self, deployment: Deployment, identity: Identity) -> None:
        self._deployment = deployment
        self._identity = identity
        self._api = deployment.settings.api
        self._policy = PolicyFile(Path(self._api.policy_file)) if self._api.policy_file else None

    # ---- Falcon's hooks ----------------------------------------------------------------------------------------------

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        """Identify, authenticate and negotiate everything under /v2; rewrite its path without the project."""
        request.context.started = time.perf_counter()
        request.context.request_id = f"req-{new_id()}"
        request.context.caller = None
        request.context.version = None
        request.context.prefix = "/v2"
        path = request.path
        if path in ("/v2", "/v2/"):  # the document is for everybody, at the microversion asked for
            request.context.version = negotiate(request.get_header(VERSION_HEADER))
        if "%00" in request.env.get("RAW_URI", "") or "\x00" in path or "%00" in request.query_string:
            raise InvalidInput("Malformed request url")
        if path in ("/v2", "/v2/") or not path.startswith("/v2/"):
            return
        project, rest = _split_project(path)
        request.context.caller = self._identity.authenticate(
            Credentials(
                token=request.get_header("X-Auth-Token") or "",
                authorization=request.get_header("Authorization") or "",
                project_id=project,
                service_token=request.get_header("X-Service-Token") or "",
                method=request.method,
                path=path,
            )
        )
        request.context.version = negotiate(request.get_header(VERSION_HEADER))
        if request.env.get("PATH_INFO", "").endswith("/"):  # an id that is empty: nothing, and not the list
            raise NoSuchResource()
        if project:
            if project != request.context.caller.project_id:
                raise InvalidInput("Malformed request url")
            request.context.prefix = f"/v2/{project}"
            request.path = f"/v2{rest}"

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Request ids on everything but the health check, and the microversion that was used."""
        _count(request, response)
        if request.path == "/healthcheck":
            return
        identifier = getattr(request.context, "request_id", "")
        response.set_header("x-openstack-request-id", identifier)
        if request.path == "/openapi.json":
            response.append_header("Vary", VERSION_HEADER)
        if request.path.startswith("/v2"):
            response.set_header("x-compute-request-id", identifier)
            if request.context.version is not None:
                self._show_version(request, response, show(request.context.version))

    def on_http_error(
        self, request: falcon.Request, response: falcon.Response, error: falcon.HTTPError, parameters: Mapping[str, Any]
    ) -> None:
        """Falcon's own errors. There is no 405 in this API: what cannot be done at a URL is not there."""
        status = error.status_code
        if status in (404, 405):
            self._answer(request, response, 404, NOT_FOUND)
        else:
            self._answer(request, response, status, error.title or "Malformed request")

    def on_error(
        self, request: falcon.Request, response: falcon.Response, error: Exception, parameters: Mapping[str, Any]
    ) -> None:
        if isinstance(error, VersionNotSupported):
            self._answer(request, response, 406, error.message)
            self._show_version(request, response, error.requested)
            return
        if isinstance(error, SharewrightError) and (status := status_of(error)) != 500:
            text = str(error) if status in (400, 403, 409, 413, 422) else error.message
            self._answer(request, response, status, text)
            if isinstance(error, Unauthorized) and self._identity.challenge:
                challenge = self._identity.challenge.format(base=self.base_url(request))
                response.set_header("WWW-Authenticate", challenge)
            return
        if isinstance(error, falcon.HTTPStatus):
            raise error
        with bound(request_id=request.context.request_id):
            log.error("A request failed.", method=request.method, path=request.path, exc_info=error)
        if isinstance(error, OperationalError | PoolTimeout):
            self._answer(request, response, 503, "The database is not available. Try again later.")
        else:
            self._answer(request, response, 500, BROKEN)

    # ---- handlers ----------------------------------------------------------------------------------------------------

    def versions(self, request: falcon.Request) -> dict[str, Any]:
        return document(self.base_url(request))

    def serve(
        self, request: falcon.Request, response: falcon.Response, run: Callable[[Call], tuple[Route, Any]]
    ) -> None:
        """Run a handler and write its answer."""
        caller = request.context.caller
        if caller is None:  # never: process_request authenticates every path that has an endpoint
            raise Unauthorized()
        context = RequestContext(
            project_id=caller.project_id,
            user_id=caller.user_id,
            roles=caller.roles,
            request_id=request.context.request_id,
            by_service=caller.by_service,
            checks=self._policy.checks if self._policy else {},
        )
        call = Call(
            deployment=self._deployment,
            context=context,
            version=request.context.version,
            request=request,
            base_url=self.base_url(request),
            prefix=request.context.prefix,
        )
        with bound(request_id=context.request_id, project_id=context.project_id):
            route, content = run(call)
        response.status = call.status or route.status
        if content is None:
            response.content_type = "text/html; charset=UTF-8"
            response.data = b""
            if response.status_code == 204:
                response.content_type = None
        else:
            response.data = _encoder.encode(content)
        log.debug("Answered.", method=request.method, path=request.path, status=response.status_code)

    def base_url(self, request: falcon.Request) -> str:
        """Where this service is, as the caller sees it."""
        if self._api.base_url:
            return self._api.base_url.rstrip("/")
        scheme, host = request.scheme, request.netloc
        if self._api.enable_forwarded_headers:
            scheme, host = request.forwarded_scheme, request.forwarded_host
        if not _HOST.match(host) or scheme not in ("http", "https"):
            raise InvalidInput("Malformed Host header.")
        return f"{scheme}://{host}"

    def _answer(self, request: falcon.Request, response: falcon.Response, status: int, message: str) -> None:
        response.status = status
        response.content_type = falcon.MEDIA_JSON
        response.data = _encoder.encode(fault(status, message))
        if status in _RETRY_AFTER:
            response.set_header("Retry-After", _RETRY_AFTER[status])

    def _show_version(self, request: falcon.Request, response: falcon.Response, version: str) -> None:
        response.set_header(VERSION_HEADER, version)
        response.append_header("Vary", VERSION_HEADER)
        if (request.get_header(EXPERIMENTAL_HEADER) or "").lower() == "true":
            response.set_header(EXPERIMENTAL_HEADER, "True")


def _count(request: falcon.Request, response: falcon.Response) -> None:
    """For metrics. Nothing that a caller makes up becomes a label."""
    route = request.uri_template or NO_ROUTE
    method = request.method if request.method in METHODS else "other"
    http_requests.labels(method, route, response.status_code).inc()
    http_request_duration.labels(method, route).observe(time.perf_counter() - request.context.started)


def _split_project(path: str) -> tuple[str, str]:
    """The project of a path below /v2 ("" when it has none), and the rest."""
    segments = path.split("/")  # "", "v2", first, second, …
    if len(segments) > 3 and segments[2] not in COLLECTIONS and segments[3] in COLLECTIONS:
        return unquote(segments[2]), path[len("/v2/") + len(segments[2]) :]
    return "", path
