"""The part of Keystone's API v3 that clients need, served under /identity: tokens with a catalog, and the nine
administrative operations of the reference. Role and domain ids are names; the only domain is "default"."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import falcon
import msgspec

from sharewright.api.identity.builtin import BuiltinIdentity, Token
from sharewright.api.identity.contract import Unauthorized, with_implied
from sharewright.api.identity.users import MAXIMUM_PASSWORD_BYTES
from sharewright.api.resource import convert
from sharewright.api.routing import read_body
from sharewright.errors import Forbidden, InvalidInput
from sharewright.services.validation import Text255

DOMAIN: Final = {"id": "default", "name": "Default"}
REGION: Final = "RegionOne"

Handler = Callable[..., Any]


class Password(msgspec.Struct, frozen=True):
    """What a request says of a user to make."""

    name: Text255
    password: str
    default_project_id: Text255 | None = None
    enabled: bool = True


class Project(msgspec.Struct, frozen=True):
    """What a request says of a project to make."""

    name: Text255
    description: str | None = None
    enabled: bool = True


class KeystoneApi:
    """The endpoints under /identity. ``base_url`` gives the service's base URL for a request."""

    def __init__(self, identity: BuiltinIdentity, base_url: Callable[[falcon.Request], str]) -> None:
        self._identity = identity
        self._base_url = base_url

    def add_routes(self, app: falcon.App[falcon.Request, falcon.Response], path: str) -> None:
        """Put the endpoints below ``path``."""
        self._path = path
        v3 = f"{path}/v3"
        endpoints: dict[str, dict[str, tuple[Handler, int]]] = {
            path: {"GET": (self.versions, 300)},
            v3: {"GET": (self.version, 200)},
            f"{v3}/auth/tokens": {
                "POST": (self.issue, 201),
                "GET": (self.validate, 200),
                "HEAD": (self.validate, 200),
                "DELETE": (self.revoke, 204),
            },
            f"{v3}/auth/catalog": {"GET": (self.catalog_of_token, 200)},
            f"{v3}/auth/projects": {"GET": (self.own_projects, 200)},
            f"{v3}/domains": {"GET": (self.domains, 200)},
            f"{v3}/domains/{{domain_id}}": {"GET": (self.domain, 200)},
            f"{v3}/projects": {"GET": (self.projects, 200), "POST": (self.create_project, 201)},
            f"{v3}/projects/{{project_id}}": {"GET": (self.project, 200), "DELETE": (self.delete_project, 204)},
            f"{v3}/users": {"GET": (self.users, 200), "POST": (self.create_user, 201)},
            f"{v3}/users/{{user_id}}": {
                "GET": (self.user, 200),
                "PATCH": (self.update_user, 200),
                "DELETE": (self.delete_user, 204),
            },
            f"{v3}/roles": {"GET": (self.roles, 200)},
            f"{v3}/role_assignments": {"GET": (self.assignments, 200)},
            f"{v3}/projects/{{project_id}}/users/{{user_id}}/roles": {"GET": (self.roles_of, 200)},
            f"{v3}/projects/{{project_id}}/users/{{user_id}}/roles/{{role}}": {
                "PUT": (self.give_role, 204),
                "DELETE": (self.take_role, 204),
            },
        }
        for url, handlers in endpoints.items():
            app.add_route(url, Methods(handlers))

    # ---- version documents and tokens --------------------------------------------------------------------------------

    def versions(self, request: falcon.Request) -> Any:
        return {"versions": {"values": [self._version(request)]}}

    def version(self, request: falcon.Request) -> Any:
        return {"version": self._version(request)}

    def _version(self, request: falcon.Request) -> dict[str, Any]:
        return {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{self._base_url(request)}{self._path}/v3/"}],
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
        }

    def issue(self, request: falcon.Request, response: falcon.Response) -> Any:
        auth = _object(read_body(request), "auth")
        identity = _object(auth, "identity")
        methods = identity.get("methods")
        project, project_by_id = _scope(auth.get("scope"))
        if methods == ["password"]:
            user = _object(_object(identity, "password"), "user")
            by_id = "id" in user
            name = user.get("id") if by_id else user.get("name")
            password = user.get("password")
            if not isinstance(name, str) or not isinstance(password, str):
                raise InvalidInput("Expecting to find a user's id or name, and password.")
            if not by_id:
                _check_domain(user.get("domain"))
            token = self._identity.issue(
                user=name, by_id=by_id, password=password, project=project, project_by_id=project_by_id
            )
        elif methods == ["token"]:
            secret = _object(identity, "token").get("id")
            if not isinstance(secret, str):
                raise InvalidInput("Expecting to find a token's id.")
            token = self._identity.rescope(secret, project=project, project_by_id=project_by_id)
        else:
            raise Unauthorized()
        response.set_header("X-Subject-Token", token.secret)
        response.set_header("Vary", "X-Auth-Token")
        return self._show_token(request, token)

    def validate(self, request: falcon.Request, response: falcon.Response) -> Any:
        subject = self._subject(request)
        response.set_header("X-Subject-Token", request.get_header("X-Subject-Token") or "")
        return self._show_token(request, subject, with_catalog="nocatalog" not in request.params)

    def revoke(self, request: falcon.Request) -> None:
        self._subject(request)
        self._identity.revoke(request.get_header("X-Subject-Token") or "")

    def catalog_of_token(self, request: falcon.Request) -> Any:
        token = self._caller(request)
        return {"catalog": self._catalog(request, token.project_id), "links": {}}

    def own_projects(self, request: falcon.Request) -> Any:
        token = self._caller(request)
        mine = {row["project_id"] for row in self._identity.assignments(user_id=token.user_id)}
        return _collection("projects", [_project(row) for row in self._identity.projects() if row["id"] in mine])

    def _subject(self, request: falcon.Request) -> Token:
        """The token that is asked about: one's own, or any for an admin."""
        caller = self._caller(request)
        secret = request.get_header("X-Subject-Token") or ""
        if secret != request.get_header("X-Auth-Token"):
            _require_admin(caller)
        try:
            return self._identity.find_token(secret)
        except Unauthorized:
            raise falcon.HTTPNotFound from None

    def _caller(self, request: falcon.Request) -> Token:
        return self._identity.find_token(request.get_header("X-Auth-Token") or "")

    def _admin(self, request: falcon.Request) -> Token:
        caller = self._caller(request)
        _require_admin(caller)
        return caller

    def _show_token(self, request: falcon.Request, token: Token, *, with_catalog: bool = True) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": token.user_id, "name": token.user_name, "domain": DOMAIN, "password_expires_at": None},
            "issued_at": _time(token.issued_at),
            "expires_at": _time(token.expires_at),
            "audit_ids": [],
        }
        if token.project_id is not None:
            shown["project"] = {"id": token.project_id, "name": token.project_name, "domain": DOMAIN}
            shown["is_domain"] = False
            shown["roles"] = [{"id": role, "name": role} for role in sorted(with_implied(token.roles))]
            if with_catalog:
                shown["catalog"] = self._catalog(request, token.project_id)
        return {"token": shown}

    def _catalog(self, request: falcon.Request, project_id: str | None) -> list[dict[str, Any]]:
        base = self._base_url(request)
        services = [("identity", "keystone", f"{base}{self._path}/v3")]
        if project_id is not None:
            services += [
                ("shared-file-system", "manila", f"{base}/v2"),
                ("sharev2", "manilav2", f"{base}/v2"),
            ]
        return [
            {
                "id": kind,
                "type": kind,
                "name": name,
                "endpoints": [
                    {
                        "id": f"{kind}-{interface}",
                        "interface": interface,
                        "region": REGION,
                        "region_id": REGION,
                        "url": url,
                    }
                    for interface in ("public", "internal", "admin")
                ],
            }
            for kind, name, url in services
        ]

    # ---- administration ----------------------------------------------------------------------------------------------

    def domains(self, request: falcon.Request) -> Any:
        self._admin(request)
        name = request.get_param("name")
        return _collection("domains", [_domain()] if name in (None, DOMAIN["name"]) else [])

    def domain(self, request: falcon.Request, domain_id: str) -> Any:
        self._admin(request)
        if domain_id != DOMAIN["id"]:
            raise falcon.HTTPNotFound
        return {"domain": _domain()}

    def projects(self, request: falcon.Request) -> Any:
        self._admin(request)
        return _collection(
            "projects", [_project(row) for row in self._identity.projects(request.get_param("name") or "")]
        )

    def project(self, request: falcon.Request, project_id: str) -> Any:
        caller = self._caller(request)
        if caller.project_id != project_id:
            _require_admin(caller)
        return {"project": _project(self._identity.project(project_id))}

    def create_project(self, request: falcon.Request) -> Any:
        self._admin(request)
        given = convert(_object(read_body(request), "project"), Project, "project")
        return {
            "project": _project(
                self._identity.create_project(
                    name=given.name, description=given.description or "", enabled=given.enabled
                )
            )
        }

    def delete_project(self, request: falcon.Request, project_id: str) -> None:
        self._admin(request)
        self._identity.delete_project(project_id)

    def users(self, request: falcon.Request) -> Any:
        self._admin(request)
        return _collection("users", [_user(row) for row in self._identity.users(request.get_param("name") or "")])

    def user(self, request: falcon.Request, user_id: str) -> Any:
        caller = self._caller(request)
        if caller.user_id != user_id:
            _require_admin(caller)
        return {"user": _user(self._identity.user(user_id))}

    def create_user(self, request: falcon.Request) -> Any:
        self._admin(request)
        given = convert(_object(read_body(request), "user"), Password, "user")
        return {
            "user": _user(
                self._identity.create_user(
                    name=given.name,
                    password=given.password,
                    default_project_id=given.default_project_id,
                    enabled=given.enabled,
                )
            )
        }

    def update_user(self, request: falcon.Request, user_id: str) -> Any:
        self._admin(request)
        password = _object(read_body(request), "user").get("password")
        if not isinstance(password, str):
            raise InvalidInput(f"Only the password can be changed (1 to {MAXIMUM_PASSWORD_BYTES} bytes).")
        self._identity.set_password(user_id, password)
        return {"user": _user(self._identity.user(user_id))}

    def delete_user(self, request: falcon.Request, user_id: str) -> None:
        self._admin(request)
        self._identity.delete_user(user_id)

    def roles(self, request: falcon.Request) -> Any:
        self._admin(request)
        name = request.get_param("name")
        return _collection("roles", [role for role in self._identity.roles() if name in (None, role["name"])])

    def roles_of(self, request: falcon.Request, project_id: str, user_id: str) -> Any:
        self._admin(request)
        rows = self._identity.assignments(user_id=user_id, project_id=project_id)
        return _collection("roles", [{"id": row["role"], "name": row["role"]} for row in rows])

    def give_role(self, request: falcon.Request, project_id: str, user_id: str, role: str) -> None:
        self._admin(request)
        self._identity.give_role(user_id=user_id, project_id=project_id, role=role)

    def take_role(self, request: falcon.Request, project_id: str, user_id: str, role: str) -> None:
        self._admin(request)
        self._identity.take_role(user_id=user_id, project_id=project_id, role=role)

    def assignments(self, request: falcon.Request) -> Any:
        self._admin(request)
        rows = self._identity.assignments(
            user_id=request.get_param("user.id") or "", project_id=request.get_param("scope.project.id") or ""
        )
        return _collection(
            "role_assignments",
            [
                {
                    "user": {"id": row["user_id"]},
                    "role": {"id": row["role"]},
                    "scope": {"project": {"id": row["project_id"]}},
                }
                for row in rows
            ],
        )


class Methods:
    """Falcon's responder for one URL: method → handler and status."""

    def __init__(self, handlers: dict[str, tuple[Handler, int]]) -> None:
        self._handlers = handlers

    def on_get(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("GET", request, response, parameters)

    def on_head(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("HEAD" if "HEAD" in self._handlers else "GET", request, response, parameters)

    def on_post(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("POST", request, response, parameters)

    def on_put(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("PUT", request, response, parameters)

    def on_patch(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("PATCH", request, response, parameters)

    def on_delete(self, request: falcon.Request, response: falcon.Response, **parameters: str) -> None:
        self._respond("DELETE", request, response, parameters)

    def _respond(
        self, method: str, request: falcon.Request, response: falcon.Response, parameters: dict[str, str]
    ) -> None:
        if method not in self._handlers:
            raise falcon.HTTPNotFound
        handler, status = self._handlers[method]
        # Only the operations on tokens write headers.
        needs_response = handler.__name__ in ("issue", "validate")
        content = handler(request, response, **parameters) if needs_response else handler(request, **parameters)
        response.status = status
        if content is None:
            response.content_type = None
        else:
            response.data = msgspec.json.encode(content)


def _object(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise InvalidInput(f"Expecting to find {key} in the request body, an object.")
    return found


def _scope(scope: Any) -> tuple[str, bool]:
    """Project and whether it is an id. Nothing but projects can be a scope here."""
    if scope is None or scope == "unscoped" or (isinstance(scope, dict) and "unscoped" in scope):
        return "", True
    project = _object({"scope": scope}, "scope").get("project")
    if not isinstance(project, dict):
        raise Unauthorized()
    if isinstance(project.get("id"), str) and project["id"]:
        return project["id"], True
    if isinstance(project.get("name"), str) and project["name"]:
        _check_domain(project.get("domain"))
        return project["name"], False
    raise InvalidInput("Expecting to find id or name in the scope's project.")


def _check_domain(domain: Any) -> None:
    if not isinstance(domain, dict):
        raise InvalidInput("Expecting to find domain, an object.")
    identifier, name = domain.get("id"), domain.get("name")
    if identifier != DOMAIN["id"] and not (isinstance(name, str) and name.lower() == DOMAIN["name"].lower()):
        raise Unauthorized()


def _require_admin(token: Token) -> None:
    if "admin" not in token.roles:
        raise Forbidden("You are not authorized to perform the requested action.")


def _time(value: datetime) -> str:
    return f"{value.isoformat(timespec='microseconds')}Z"


def _collection(name: str, items: list[Any]) -> dict[str, Any]:
    return {name: items, "links": {"self": None, "previous": None, "next": None}}


def _domain() -> dict[str, Any]:
    return {**DOMAIN, "description": "The only domain", "enabled": True, "links": {}}


def _project(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"] or "",
        "enabled": row["enabled"],
        "domain_id": DOMAIN["id"],
        "parent_id": DOMAIN["id"],
        "is_domain": False,
        "links": {},
    }


def _user(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "enabled": row["enabled"],
        "default_project_id": row["default_project_id"],
        "domain_id": DOMAIN["id"],
        "links": {},
    }
