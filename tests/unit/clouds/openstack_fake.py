"""A small OpenStack behind a real HTTP server on loopback: Keystone, Nova, Cinder and Glance as far as we use them.

Objects change their status by being looked at, so that tests need no clock. ``fail`` scripts answers that a cloud gives
on bad days; what was asked is in ``requests``.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

PROJECT = "11111111111111111111111111111111"
PASSWORD = "swordfish"
SERVICES = {  # catalogue's type → path, newest microversion
    "compute": ("/compute/v2.1", "2.93"),
    "block-storage": ("/volume/v3", "3.70"),
    "image": ("/image/v2", ""),
}


@dataclass
class Failure:
    method: str
    path: re.Pattern[str]
    status: int  # 0: the connection is closed without an answer
    text: str
    times: int
    moment: Literal["before", "after"]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


class FakeOpenStack:
    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.volumes: dict[str, dict[str, Any]] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.administrator = True
        self.servers: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.groups: list[dict[str, Any]] = []
        self.flavors = [{"id": "1", "name": "tiny", "ram": 64, "vcpus": 1, "disk": 1, "links": []}]
        self.messages: list[str] = []
        self.looks = 1  # how often a thing is looked at before its status changes
        self.quota = 1000  # GiB
        self.volume_quota = 10
        self.snapshot_quota = 10
        self.pools: list[dict[str, Any]] | None = None  # None: only administrators may see them
        self.volume_types: list[dict[str, Any]] = []
        self.outcome = {
            "volume": "available",
            "extend": "",  # the status from before
            "snapshot": "available",
            "snapshot deletion": "",  # the status that it ends in; "": it is gone
            "attach": "in-use",
            "detach": "available",
            "server": "ACTIVE",
            "reboot": "ACTIVE",
        }
        self.fault = "No valid host was found."
        self._failures: list[Failure] = []
        self.lock = threading.RLock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                chunks = [self.rfile.read(length)] if length else []
                while self.headers.get("Transfer-Encoding") == "chunked":
                    size = int(self.rfile.readline(), 16)
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                    if size == 0:
                        break
                fake.serve(self, b"".join(chunks))

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---- for tests ----

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        text: str = "",
        *,
        times: int = 1,
        moment: Literal["before", "after"] = "before",
        **headers: str,
    ) -> None:
        """Answer the next ``times`` requests so. "after": the request takes effect all the same."""
        self._failures.append(Failure(method, re.compile(path), status, text, times, moment, headers))

    def asked(self, method: str, path: str) -> list[Asked]:
        return [each for each in self.requests if each.method == method and re.search(path, each.path)]

    def add_server(self, name: str, deployment: str, /, **values: Any) -> str:
        server_id = str(uuid.uuid4())
        self.servers[server_id] = {
            "id": server_id,
            "name": name,
            "status": "ACTIVE",
            "metadata": {"sharewright": deployment},
            "OS-EXT-STS:task_state": None,
            "OS-EXT-STS:power_state": 1,
            "OS-SRV-USG:launched_at": "2026-01-01T00:00:00",
            "OS-EXT-AZ:availability_zone": "nova",
            "ports": [],
            **values,
        }
        return server_id

    def add_volume(self, name: str, deployment: str, /, **values: Any) -> str:
        volume_id = str(uuid.uuid4())
        self.volumes[volume_id] = {
            "id": volume_id,
            "name": name,
            "size": 1,
            "status": "available",
            "metadata": {"sharewright": deployment},
            "attachments": [],
            **values,
        }
        return volume_id

    def add_snapshot(self, name: str, deployment: str, volume_id: str, /, **values: Any) -> str:
        snapshot_id = str(uuid.uuid4())
        self.snapshots[snapshot_id] = {
            "id": snapshot_id,
            "name": name,
            "size": self.volumes[volume_id]["size"],
            "volume_id": volume_id,
            "status": "available",
            "metadata": {"sharewright": deployment} if deployment else {},
            **values,
        }
        return snapshot_id

    # ---- HTTP ----

    def serve(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        parts = urlsplit(handler.path)
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = data
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, parts.path, parse_qs(parts.query), headers, body)
        with self.lock:
            self.requests.append(asked)
            failure = next((f for f in self._failures if f.method == asked.method and f.path.search(asked.path)), None)
            status, answer = 404, {"itemNotFound": {"message": "not found", "code": 404}}
            if failure is None or failure.moment == "after":
                status, answer = self._answer(asked)
            extra = {"x-openstack-request-id": "req-of-the-service"}
            if failure is not None:
                failure.times -= 1
                if failure.times == 0:
                    self._failures.remove(failure)
                status = failure.status
                answer = {"error": {"message": failure.text, "code": status}}
                extra |= failure.headers
        if status == 0:
            handler.close_connection = True
            handler.connection.close()
            return
        if asked.path.endswith("/auth/tokens") and status == 201:
            extra["X-Subject-Token"] = "token"
        payload = b"" if status == 204 else json.dumps(answer).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload)), **extra}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(payload)

    def _answer(self, asked: Asked) -> tuple[int, Any]:
        path = asked.path.rstrip("/")
        if path.startswith("/identity"):
            return self._identity(asked, path)
        for kind, (root, newest) in SERVICES.items():
            if path == root:
                version = {
                    "id": root.rsplit("/", 1)[1],
                    "status": "CURRENT",
                    "links": [{"rel": "self", "href": self.url + root}],
                }
                if newest:
                    version |= {"version": newest, "min_version": newest.split(".")[0] + ".0"}
                return 200, {"version": version} if kind == "compute" else {"versions": [version]}
            if path.startswith(root + "/"):
                pieces = path[len(root) + 1 :].split("/")
                method = {"compute": self._compute, "block-storage": self._volume, "image": self._image}[kind]
                return method(asked, pieces)
        return 404, {}

    def _identity(self, asked: Asked, path: str) -> tuple[int, Any]:
        if not path.endswith("/auth/tokens"):
            link = {"rel": "self", "href": f"{self.url}/identity/v3"}
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": [link]}}
        if asked.body["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            return 401, {"error": {"message": "The request you have made requires authentication.", "code": 401}}
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [
                    {"interface": "public", "region": "r", "region_id": "r", "url": self.url + root, "id": kind}
                ],
            }
            for kind, (root, _) in SERVICES.items()
        ]
        return 201, {
            "token": {
                "methods": ["password"],
                "expires_at": "2099-01-01T00:00:00.000000Z",
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "project": {"id": PROJECT, "name": "service", "domain": {"id": "default", "name": "Default"}},
                "user": {"id": "u", "name": "sharewright", "domain": {"id": "default", "name": "Default"}},
                "roles": [{"id": "member", "name": "member"}],
                "catalog": catalog,
            }
        }

    # ---- Cinder ----

    def _volume(self, asked: Asked, pieces: list[str]) -> tuple[int, Any]:
        if pieces[0] == "snapshots":
            return self._snapshot(asked, pieces[1:])
        match asked.method, pieces:
            case "GET", ["volumes"] | ["volumes", "detail"]:
                return 200, {"volumes": _filtered(asked, self.volumes)}
            case "PUT", ["volumes", identifier] if identifier in self.volumes:
                self.volumes[identifier] |= asked.body["volume"]
                return 200, {"volume": self.volumes[identifier]}
            case (("POST" | "PUT"), ["volumes", identifier, "metadata"]) if identifier in self.volumes:
                return _set_metadata(asked, self.volumes[identifier])
            case "POST", ["volumes"]:
                wanted = asked.body["volume"]
                if sum(each["size"] for each in self.volumes.values()) + wanted["size"] > self.quota:
                    message = "VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed gigabytes quota."
                    return 413, {"overLimit": {"message": message, "code": 413, "retryAfter": "0"}}
                volume_id = self.add_volume("", "", status="creating", looks=self.looks)
                self.volumes[volume_id] |= wanted
                return 202, {"volume": self.volumes[volume_id]}
            case "GET", ["volumes", identifier] if identifier in self.volumes:
                return 200, {"volume": self._look_at_volume(identifier)} if identifier in self.volumes else {}
            case "DELETE", ["volumes", identifier] if identifier in self.volumes:
                if any(each["volume_id"] == identifier for each in self.snapshots.values()):
                    message = "Invalid volume: Volume has dependent snapshots."
                    return 400, {"badRequest": {"message": message, "code": 400}}
                self.volumes[identifier] |= {"status": "deleting", "looks": self.looks}
                return 202, {}
            case "POST", ["volumes", identifier, "action"] if "os-roll_detaching" in asked.body:
                assert self.volumes[identifier]["status"] == "detaching"
                self.volumes[identifier] |= {"status": "in-use"}
                return 202, {}
            case "POST", ["volumes", identifier, "action"] if identifier in self.volumes:
                volume, size = self.volumes[identifier], asked.body["os-extend"]["new_size"]
                if volume["status"] not in ("available", "in-use") or size <= volume["size"]:
                    return 400, {"badRequest": {"message": f"Invalid volume: {volume['status']}", "code": 400}}
                if sum(each["size"] for each in self.volumes.values()) - volume["size"] + size > self.quota:
                    message = "VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed gigabytes quota."
                    return 413, {"overLimit": {"message": message, "code": 413, "retryAfter": "0"}}
                volume |= {"then": (volume["status"], size), "status": "extending", "looks": self.looks}
                return 202, {}
            case "GET", ["limits"]:
                used = sum(each["size"] for each in self.volumes.values())
                limits = {
                    "totalGigabytesUsed": used,
                    "maxTotalVolumeGigabytes": self.quota,
                    "totalVolumesUsed": len(self.volumes),
                    "maxTotalVolumes": self.volume_quota,
                }
                return 200, {"limits": {"rate": [], "absolute": limits}}
            case "GET", ["scheduler-stats", "get_pools"]:
                if self.pools is None:
                    return 403, {"forbidden": {"message": "Policy doesn't allow it to be performed.", "code": 403}}
                return 200, {"pools": [{"name": "pool", "capabilities": each} for each in self.pools]}
            case "GET", ["types"]:
                return 200, {"volume_types": self.volume_types}
            case "GET", ["messages"] if asked.query["resource_uuid"][0] in {**self.volumes, **self.snapshots}:
                return 200, {"messages": [{"id": "m", "user_message": each} for each in self.messages]}
            case "GET", ["attachments"] | ["attachments", "detail"]:
                found = []
                for each in self.volumes.values():
                    found += [
                        {"id": held["attachment_id"], "instance": held["server_id"], "volume_id": each["id"]}
                        for held in each["attachments"]
                        if each["id"] in asked.query.get("volume_id", [each["id"]])
                    ]
                return 200, {"attachments": found}
            case "DELETE", ["attachments", identifier]:
                for each in self.volumes.values():
                    if any(held["attachment_id"] == identifier for held in each["attachments"]):
                        each |= {"attachments": [], "status": "available"}
                return 200, {"attachments": []}
        return 404, {"itemNotFound": {"message": f"{asked.path} could not be found.", "code": 404}}

    def _look_at_volume(self, identifier: str) -> dict[str, Any]:
        volume = self.volumes[identifier]
        seen = dict(volume)
        looks = volume.get("looks", 0)
        if volume["status"] in ("creating", "attaching", "detaching", "deleting", "extending"):
            if looks > 1:
                volume["looks"] = looks - 1
            elif volume["status"] == "extending":
                status, size = volume.pop("then")
                volume |= {"status": self.outcome["extend"] or status}
                if not self.outcome["extend"]:
                    volume["size"] = size
            elif volume["status"] == "creating":
                volume["status"] = self.outcome["volume"]
            elif volume["status"] == "deleting":
                del self.volumes[identifier]
            elif volume["status"] == "attaching":
                volume["status"] = self.outcome["attach"]
                if volume["status"] == "in-use":
                    held = {"server_id": volume["for"], "attachment_id": str(uuid.uuid4()), "volume_id": identifier}
                    volume["attachments"] = [held]
            else:
                volume["status"] = self.outcome["detach"]
                if volume["status"] == "available":
                    volume["attachments"] = []
                self.outcome["detach"] = "available"
        return seen

    def _snapshot(self, asked: Asked, pieces: list[str]) -> tuple[int, Any]:
        match asked.method, pieces:
            case "GET", ["detail"]:
                return 200, {"snapshots": _filtered(asked, self.snapshots)}
            case "POST", []:
                wanted = asked.body["snapshot"]
                volume = self.volumes[wanted["volume_id"]]
                if volume["status"] != "available" and not (wanted.pop("force") and volume["status"] == "in-use"):
                    return 400, {"badRequest": {"message": f"Invalid volume: {volume['status']}", "code": 400}}
                if len(self.snapshots) >= self.snapshot_quota:
                    message = "SnapshotLimitExceeded: Maximum number of snapshots allowed (0) exceeded"
                    return 413, {"overLimit": {"message": message, "code": 413, "retryAfter": "0"}}
                made = self.add_snapshot("", "", volume["id"], status="creating", looks=self.looks)
                self.snapshots[made] |= wanted
                return 202, {"snapshot": self.snapshots[made]}
            case "GET", [identifier] if identifier in self.snapshots:
                return 200, {"snapshot": self._look_at_snapshot(identifier)}
            case "DELETE", [identifier] if identifier in self.snapshots:
                self.snapshots[identifier] |= {"status": "deleting", "looks": self.looks}
                return 202, {}
            case "PUT", [identifier] if identifier in self.snapshots:
                self.snapshots[identifier] |= asked.body["snapshot"]
                return 200, {"snapshot": self.snapshots[identifier]}
            case (("POST" | "PUT"), [identifier, "metadata"]) if identifier in self.snapshots:
                return _set_metadata(asked, self.snapshots[identifier])
        return 404, {"itemNotFound": {"message": f"{asked.path} could not be found.", "code": 404}}

    def _look_at_snapshot(self, identifier: str) -> dict[str, Any]:
        """As Ceph, it keeps a snapshot that volumes were made from."""
        snapshot = self.snapshots[identifier]
        seen = dict(snapshot)
        if snapshot["status"] not in ("creating", "deleting"):
            return seen
        if snapshot.get("looks", 0) > 1:
            snapshot["looks"] -= 1
        elif snapshot["status"] == "creating":
            snapshot["status"] = self.outcome["snapshot"]
        elif any(each.get("snapshot_id") == identifier for each in self.volumes.values()):
            snapshot["status"] = "available"
        elif self.outcome["snapshot deletion"]:
            snapshot["status"] = self.outcome["snapshot deletion"]
        else:
            del self.snapshots[identifier]
        return seen

    # ---- Nova ----

    def _compute(self, asked: Asked, pieces: list[str]) -> tuple[int, Any]:
        match asked.method, pieces:
            case "GET", ["flavors"] | ["flavors", "detail"]:
                return 200, {"flavors": self.flavors}
            case "GET", ["os-server-groups"]:
                return 200, {"server_groups": self.groups}
            case "POST", ["os-server-groups"]:
                group = {"id": str(uuid.uuid4()), "members": [], **asked.body["server_group"]}
                self.groups.append(group)
                return 200, {"server_group": group}
            case "GET", ["servers", "detail"]:
                pattern = re.compile(asked.query.get("name", [""])[0])
                everybodys = "all_tenants" in asked.query
                if everybodys and not self.administrator:
                    return 403, {"forbidden": {"message": "Policy doesn't allow get_all_tenants", "code": 403}}
                named = [each for each in self.servers.values() if pattern.search(each["name"])]
                return 200, {"servers": [each for each in named if everybodys or not each.get("elsewhere")]}
            case "POST", ["servers"]:
                wanted = asked.body["server"]
                ports = [] if wanted["networks"] == "none" else [each["port"] for each in wanted["networks"]]
                server_id = self.add_server(
                    wanted["name"],
                    "",
                    **{"metadata": wanted["metadata"], "status": "BUILD", "OS-SRV-USG:launched_at": None},
                    ports=ports,
                    looks=self.looks,
                )
                return 202, {"server": {"id": server_id, "links": []}}
            case "GET", ["servers", identifier] if identifier in self.servers:
                return 200, {"server": self._look_at_server(identifier)}
            case "DELETE", ["servers", identifier] if identifier in self.servers:
                self.servers[identifier] |= {"OS-EXT-STS:task_state": "deleting", "looks": self.looks}
                return 204, None
            case "GET", ["servers", identifier, "os-interface"] if identifier in self.servers:
                found = self.servers[identifier]["ports"]
                return 200, {"interfaceAttachments": [{"port_id": each} for each in found]}
            case "POST", ["servers", identifier, "os-interface"] if identifier in self.servers:
                port_id = asked.body["interfaceAttachment"]["port_id"]
                self.servers[identifier]["ports"].append(port_id)
                return 200, {"interfaceAttachment": {"port_id": port_id, "port_state": "ACTIVE"}}
            case "DELETE", ["servers", identifier, "os-interface", port_id] if identifier in self.servers:
                if port_id not in self.servers[identifier]["ports"]:
                    return 404, {"itemNotFound": {"message": f"Port {port_id} could not be found.", "code": 404}}
                self.servers[identifier]["ports"].remove(port_id)
                return 202, None
            case "POST", ["servers", identifier, "action"] if identifier in self.servers:
                server = self.servers[identifier]
                if "os-getConsoleOutput" in asked.body:
                    return 200, {"output": "Linux version 6\nlogin: "}
                server |= {"status": "HARD_REBOOT", "OS-EXT-STS:power_state": 1, "looks": self.looks}
                return 202, {}
            case "POST", ["servers", identifier, "os-volume_attachments"] if identifier in self.servers:
                volume = self.volumes[asked.body["volumeAttachment"]["volumeId"]]
                volume |= {"status": "attaching", "for": identifier, "looks": self.looks}
                return 200, {"volumeAttachment": {"id": volume["id"], "volumeId": volume["id"], "device": "/dev/vdb"}}
            case "DELETE", ["servers", identifier, "os-volume_attachments", volume_id] if identifier in self.servers:
                self.volumes[volume_id] |= {"status": "detaching", "looks": self.looks}
                return 202, {}
        return 404, {"itemNotFound": {"message": f"{asked.path} could not be found.", "code": 404}}

    def _look_at_server(self, identifier: str) -> dict[str, Any]:
        server = self.servers[identifier]
        seen = dict(server)
        looks = server.get("looks", 0)
        if server["OS-EXT-STS:task_state"] == "deleting":
            if looks > 1:
                server["looks"] = looks - 1
            else:
                del self.servers[identifier]
        elif server["status"] in ("BUILD", "HARD_REBOOT"):
            if looks > 1:
                server["looks"] = looks - 1
            elif self.outcome["reboot" if server["status"] == "HARD_REBOOT" else "server"] == "ACTIVE":
                server |= {"status": "ACTIVE", "OS-SRV-USG:launched_at": "2026-01-01T00:00:00"}
            else:
                server |= {"status": "ERROR", "fault": {"code": 500, "message": self.fault}}
        return seen

    # ---- Glance ----

    def _image(self, asked: Asked, pieces: list[str]) -> tuple[int, Any]:
        match asked.method, pieces:
            case "GET", ["images"]:
                wanted = {name: values[0] for name, values in asked.query.items()}
                found = [
                    each
                    for each in reversed(self.images.values())
                    if all(wanted.get(name, each[name]) == each[name] for name in ("name", "owner", "status"))
                    and ("tag" not in wanted or wanted["tag"] in each["tags"])
                ]
                return 200, {"images": found}
            case "POST", ["images"]:
                image = {"id": str(uuid.uuid4()), "owner": PROJECT, "status": "queued", **asked.body}
                self.images[image["id"]] = image
                return 201, image
            case "GET", ["images", identifier] if identifier in self.images:
                return 200, self.images[identifier]
            case "PUT", ["images", identifier, "file"]:
                self.images[identifier]["status"] = "active"
                return 204, None
            case "PUT", ["images", identifier, "tags", tag]:
                self.images[identifier]["tags"].append(tag.replace("%3D", "=").replace("%3A", ":"))
                return 204, None
            case "DELETE", ["images", identifier] if identifier in self.images:
                del self.images[identifier]
                return 204, None
        return 404, {"code": 404}


def _filtered(asked: Asked, things: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What Cinder lists when asked for certain metadata, a name, or one volume's."""
    wanted = json.loads(asked.query.get("metadata", ["{}"])[0])
    return [
        each
        for each in things.values()
        if wanted.items() <= each["metadata"].items()
        and all(each.get(key) == asked.query[key][0] for key in ("name", "volume_id") if key in asked.query)
    ]


def _set_metadata(asked: Asked, thing: dict[str, Any]) -> tuple[int, Any]:
    kept = thing["metadata"] if asked.method == "POST" else {}
    thing["metadata"] = {**kept, **asked.body["metadata"]}
    return 200, {"metadata": thing["metadata"]}
