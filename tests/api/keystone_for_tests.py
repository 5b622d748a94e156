"""A Keystone for tests, behind a real socket: tokens of every kind, and a catalogue that can be changed.

What it says and refuses follows Keystone's API reference (v3) and its default policy, as far as this project uses them.
Our own ``builtin`` mode issues only project-scoped tokens; here a test puts in any token it wants.
"""

from __future__ import annotations

import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import falcon
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from site_for_tests import PASSWORD, make_settings

from sharewright.api.server import Server

# name → project, roles
USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sharewright": ("service", ("service",)),
    "admin": ("admin", ("admin", "member", "reader")),
    "demo": ("demo", ("member", "reader")),
    "other": ("other", ("member", "reader")),
}
GRACE = timedelta(days=2)  # Keystone's allow_expired_window


def moment(offset: timedelta) -> str:
    return (datetime.now(UTC) + offset).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class FakeKeystone:
    """``asked`` counts questions about tokens; ``answer`` replaces what is answered to them (status, body); answers
    wait for ``may_answer``."""

    url: str = ""
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {
            "regions": {"RegionOne": {"id": "RegionOne"}},
            "services": {},
            "endpoints": {},
            "projects": {f"id-of-{name}": {"id": f"id-of-{name}", "name": name} for name, _ in USERS.values()},
        }
    )
    asked: int = 0
    answer: tuple[str, str] | None = None
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def put_token(self, *, lifetime: timedelta = timedelta(hours=1), **body: Any) -> str:
        """A token as Keystone shows it; ``body`` adds to, or with None takes away from, that of a member of a
        project."""
        token: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": "user-1", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "blue", "name": "blue", "domain": {"id": "default", "name": "Default"}},
            "is_domain": False,
            "roles": [{"id": "role-1", "name": "member"}],
            "issued_at": moment(timedelta(0)),
            "expires_at": moment(lifetime),
            "audit_ids": ["x"],
            **body,
        }
        secret = uuid.uuid4().hex
        self.tokens[secret] = {key: value for key, value in token.items() if value is not None}
        return secret

    # ---- what Falcon calls -------------------------------------------------------------------------------------------

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        self._find(request.get_header("X-Auth-Token"), falcon.HTTPUnauthorized, None)
        self.asked += 1
        self.may_answer.wait(30)
        if self.answer is not None:
            response.status, response.text = self.answer
            return
        asker = self.tokens[request.get_header("X-Auth-Token") or ""]
        subject = request.get_header("X-Subject-Token") or ""
        found = self._find(subject, falcon.HTTPNotFound, request)
        if not {"admin", "service"} & {role["name"] for role in asker["roles"]} and found is not asker:
            raise falcon.HTTPForbidden
        response.set_header("X-Subject-Token", subject)
        response.media = {"token": found}

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        identity = request.media["auth"]["identity"]
        user = identity["password"]["user"]
        project, roles = USERS.get(user["name"], ("", ()))
        if not project or user["password"] != PASSWORD:
            raise falcon.HTTPUnauthorized
        secret = self.put_token(
            user={"id": f"id-of-{user['name']}", "name": user["name"], "domain": {"id": "default", "name": "Default"}},
            project={"id": f"id-of-{project}", "name": project, "domain": {"id": "default", "name": "Default"}},
            roles=[{"id": role, "name": role} for role in roles],
        )
        response.status = "201 Created"
        response.set_header("X-Subject-Token", secret)
        response.media = {"token": {**self.tokens[secret], "catalog": self.catalogue()}}

    def on_delete(self, request: falcon.Request, response: falcon.Response) -> None:
        self.tokens.pop(request.get_header("X-Subject-Token") or "", None)
        response.status = "204 No Content"

    def _find(
        self, secret: str | None, error: type[falcon.HTTPError], request: falcon.Request | None
    ) -> dict[str, Any]:
        token = self.tokens.get(secret or "")
        if token is None:
            raise error
        late = timedelta(0)
        if request is not None and request.get_param("allow_expired") == "1":
            late = GRACE
        if datetime.fromisoformat(token["expires_at"]) + late <= datetime.now(UTC):
            raise error
        rules = token.get("application_credential", {}).get("access_rules")
        if rules is not None and request is not None and not request.get_header("OpenStack-Identity-Access-Rules"):
            raise error
        return token

    def catalogue(self) -> list[dict[str, Any]]:
        catalogue = []
        for service in self.tables["services"].values():
            endpoints = [
                {**{key: row[key] for key in ("id", "interface", "url", "region_id")}, "region": row["region_id"]}
                for row in self.tables["endpoints"].values()
                if row["service_id"] == service["id"]
            ]
            catalogue.append({**service, "endpoints": endpoints})
        return catalogue


class Version:
    """The version document that clients discover Keystone by."""

    def __init__(self, keystone: FakeKeystone) -> None:
        self._keystone = keystone

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {
            "version": {
                "id": "v3.14",
                "status": "stable",
                "links": [{"rel": "self", "href": f"{self._keystone.url}/v3/"}],
                "media-types": [],
            }
        }


class Collection:
    """Regions, services, endpoints or projects. They are for administrators; others may see their own project."""

    def __init__(self, keystone: FakeKeystone, name: str) -> None:
        self._keystone = keystone
        self._name = name

    def _rows(self, request: falcon.Request) -> dict[str, dict[str, Any]]:
        token = self._keystone.tokens.get(request.get_header("X-Auth-Token") or "")
        if token is None:
            raise falcon.HTTPUnauthorized
        if "admin" not in {role["name"] for role in token["roles"]}:
            raise falcon.HTTPForbidden
        return self._keystone.tables[self._name]

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        found = [
            row
            for row in self._rows(request).values()
            if all(row.get(key) == value for key, value in request.params.items())
        ]
        response.media = {self._name: found, "links": {"next": None}}

    def on_get_one(self, request: falcon.Request, response: falcon.Response, identifier: str) -> None:
        token = self._keystone.tokens.get(request.get_header("X-Auth-Token") or "", {})
        own = self._name == "projects" and token.get("project", {}).get("id") == identifier
        rows = self._keystone.tables[self._name] if own else self._rows(request)
        if identifier not in rows:
            raise falcon.HTTPNotFound
        response.media = {self._name[:-1]: rows[identifier]}

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        rows = self._rows(request)
        row = {"id": uuid.uuid4().hex, "enabled": True, **request.media[self._name[:-1]]}
        if self._name == "endpoints" and row["region_id"] not in self._keystone.tables["regions"]:
            raise falcon.HTTPBadRequest
        rows[row["id"]] = row
        response.status = "201 Created"
        response.media = {self._name[:-1]: row}

    def on_patch_one(self, request: falcon.Request, response: falcon.Response, identifier: str) -> None:
        row = self._rows(request)[identifier]
        row.update(request.media[self._name[:-1]])
        response.media = {self._name[:-1]: row}

    def on_delete_one(self, request: falcon.Request, response: falcon.Response, identifier: str) -> None:
        del self._rows(request)[identifier]
        if self._name == "services":
            endpoints = self._keystone.tables["endpoints"]
            for key in [key for key, row in endpoints.items() if row["service_id"] == identifier]:
                del endpoints[key]
        response.status = "204 No Content"


def application(keystone: FakeKeystone) -> falcon.App[falcon.Request, falcon.Response]:
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
    app.req_options.strip_url_path_trailing_slash = True
    app.add_route("/v3", Version(keystone))
    app.add_route("/v3/auth/tokens", keystone)
    for name in keystone.tables:
        collection = Collection(keystone, name)
        app.add_route(f"/v3/{name}", collection)
        app.add_route(f"/v3/{name}/{{identifier}}", collection, suffix="one")
    return app


@contextmanager
def running_tls_keystone(certificate: Path) -> Iterator[FakeKeystone]:
    """The same behind TLS; its self-signed certificate is written to ``certificate``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = certificate.with_suffix(".key")
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    keystone = FakeKeystone()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    with make_server("127.0.0.1", 0, application(keystone), handler_class=QuietHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        keystone.url = f"https://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield keystone
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def running_keystone(directory: Path) -> Iterator[FakeKeystone]:
    """Serve on a free port of the loopback interface."""
    keystone = FakeKeystone()
    server = Server(application(keystone), make_settings(directory), port=0)
    server.start()
    keystone.url = server.url
    identity = {"id": "identity", "type": "identity", "name": "keystone", "enabled": True}
    keystone.tables["services"]["identity"] = identity
    for interface in ("public", "internal", "admin"):
        keystone.tables["endpoints"][interface] = {
            "id": interface, "interface": interface, "region_id": "RegionOne", "service_id": "identity",
            "url": f"{server.url}/v3",
        }  # fmt: skip
    try:
        yield keystone
    finally:
        server.stop()
