"""A small Neutron, as far as we use it, beside the rest of the small OpenStack of openstack_fake.py.

Refusals have Neutron's own types and words. Addresses are given at random, as Neutron gives them.
"""

from __future__ import annotations

import itertools
import random
import re
import uuid
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from openstack_fake import PROJECT, Asked, FakeOpenStack

ROOT = "/network"
TENANT_PROJECT = "22222222222222222222222222222222"
COLLECTIONS = {
    "networks": "network",
    "subnets": "subnet",
    "ports": "port",
    "routers": "router",
    "rbac-policies": "rbac_policy",
    "security-groups": "security_group",
    "security-group-rules": "security_group_rule",
    "floatingips": "floatingip",
    "agents": "agent",
}


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.answer = status, {"NeutronError": {"type": kind, "message": message, "detail": ""}}


class FakeNeutron(FakeOpenStack):
    def __init__(self) -> None:
        self.things: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in COLLECTIONS}
        self.limits: dict[str, int] = {}  # quota by Neutron's names; what is absent is unlimited
        self.may_choose_mac = True
        self.interrupt: Callable[[Asked], bool] | None = None  # whether to refuse a request to Neutron
        self._clock = itertools.count()
        super().__init__()
        # An answer is two writes; without this each waits 40 ms for the client's acknowledgement.
        self._server.RequestHandlerClass.disable_nagle_algorithm = True  # type: ignore[attr-defined]

    # ---- for tests ----

    def all(self, collection: str, **values: Any) -> list[dict[str, Any]]:
        found = self.things[collection].values()
        return [each for each in found if all(each.get(name) == value for name, value in values.items())]

    def add(self, collection: str, **values: Any) -> dict[str, Any]:
        """As another user would make it."""
        return self._create(collection, {"project_id": TENANT_PROJECT, **values})

    def tenant(self, cidr: str = "192.168.7.0/24", *, router: bool = False, **values: Any) -> dict[str, Any]:
        """A tenant's subnet, with a router where one is wanted."""
        network = self.add("networks", name="tenant")
        gateway = str(ip_network(cidr)[1])
        subnet = self.add("subnets", network_id=network["id"], cidr=cidr, gateway_ip=gateway, **values)
        if router:
            self.attach(self.add("routers", name="tenants")["id"], subnet["id"])
        return subnet

    def attach(self, router_id: str, subnet_id: str) -> None:
        self._interface(router_id, "add_router_interface", {"subnet_id": subnet_id})

    def network_requests(self, since: int = 0) -> list[str]:
        return [f"{each.method} {each.path[len(ROOT) + 5 :]}" for each in self.requests[since:] if ROOT in each.path]

    # ---- HTTP ----

    def _identity(self, asked: Asked, path: str) -> tuple[int, Any]:
        status, answer = super()._identity(asked, path)
        if "token" in answer:
            url = {"interface": "public", "region": "r", "region_id": "r", "url": self.url + ROOT, "id": "n"}
            answer["token"]["catalog"].append({"type": "network", "name": "neutron", "id": "n", "endpoints": [url]})
        return status, answer

    def _answer(self, asked: Asked) -> tuple[int, Any]:
        path = asked.path.rstrip("/")
        if path == ROOT:
            link = {"rel": "self", "href": f"{self.url}{ROOT}/v2.0"}
            return 200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}
        if not path.startswith(f"{ROOT}/v2.0/"):
            return super()._answer(asked)
        if self.interrupt is not None and self.interrupt(asked):
            return 400, {"NeutronError": {"type": "Interrupted", "message": "interrupted", "detail": ""}}
        try:
            return self._neutron(asked, path[len(ROOT) + 6 :].split("/"))
        except Refused as error:
            return error.answer

    def _neutron(self, asked: Asked, pieces: list[str]) -> tuple[int, Any]:
        if pieces[0] == "quotas":
            return 200, {"quota": {name: self._usage(name) for name in COLLECTIONS.values()}}
        collection = pieces[0]
        things, single = self.things[collection], COLLECTIONS[collection]
        if len(pieces) > 1 and pieces[1] not in things:
            kind = "".join(part.capitalize() for part in single.split("_")) + "NotFound"
            raise Refused(404, kind, f"{single} {pieces[1]} could not be found.")
        match asked.method, pieces[1:]:
            case "GET", []:
                fields = asked.query.pop("fields", [])
                shown = [self._shown(collection, each) for each in self._listed(asked)]
                if fields:
                    shown = [{name: value for name, value in each.items() if name in fields} for each in shown]
                return 200, {collection.replace("-", "_"): shown}
            case "GET", [identifier]:
                return 200, {single: self._shown(collection, things[identifier])}
            case "POST", []:
                if single in asked.body:
                    return 201, {single: self._shown(collection, self._create(collection, asked.body[single]))}
                bulk = [self._create(collection, each) for each in asked.body[single + "s"]]
                return 201, {single + "s": bulk}
            case "PUT", [identifier, "tags"]:
                things[identifier]["tags"] = asked.body["tags"]
                return 200, asked.body
            case "PUT", [identifier, action]:
                return 200, self._interface(identifier, action, asked.body)
            case "PUT", [identifier]:
                things[identifier] |= asked.body[single]
                return 200, {single: self._shown(collection, things[identifier])}
            case "DELETE", [identifier]:
                self._delete(collection, identifier)
                return 204, None
        return 404, {}

    def _usage(self, name: str) -> dict[str, int]:
        collection = next(key for key, value in COLLECTIONS.items() if value == name)
        return {
            "limit": self.limits.get(name, -1),
            "used": len(self.all(collection, project_id=PROJECT)),
            "reserved": 0,
        }

    def _listed(self, asked: Asked) -> list[dict[str, Any]]:
        collection = asked.path.rsplit("/", 1)[1]
        found = []
        for each in self.things[collection].values():
            for name, values in asked.query.items():
                if name == "tags":
                    matches = set(values[0].split(",")) <= set(each.get("tags", []))
                elif name == "fixed_ips":
                    wanted = dict(value.split("=", 1) for value in values)
                    matches = any(wanted.items() <= fixed.items() for fixed in each["fixed_ips"])
                else:
                    matches = str(each.get(name)) in values
                if not matches:
                    break
            else:
                found.append(each)
        return found

    def _shown(self, collection: str, thing: dict[str, Any]) -> dict[str, Any]:
        if collection == "networks":
            return {**thing, "subnets": [each["id"] for each in self.all("subnets", network_id=thing["id"])]}
        if collection == "security-groups":
            rules = self.all("security-group-rules", security_group_id=thing["id"])
            return {**thing, "security_group_rules": rules}
        return thing

    # ---- behaviour ----

    def _create(self, collection: str, values: dict[str, Any]) -> dict[str, Any]:
        single = COLLECTIONS[collection]
        if single in self.limits and self._usage(single)["used"] >= self.limits[single]:
            raise Refused(409, "OverQuota", f"Quota exceeded for resources: ['{single}'].")
        thing = {
            "id": str(uuid.uuid4()),
            "name": "",
            "description": "",
            "project_id": PROJECT,
            "tags": [],
            # Whole seconds, as Neutron's: everything of one test may have the same.
            "created_at": f"2026-01-01T00:00:{next(self._clock) // 100 % 60:02d}Z",
            **values,
        }
        prepare = {
            "networks": self._network,
            "subnets": self._subnet,
            "ports": self._port,
            "security-group-rules": self._rule,
            "floatingips": self._floating,
        }.get(collection)
        if prepare is not None:
            prepare(thing)
        self.things[collection][thing["id"]] = thing
        if collection == "security-groups":
            for kind in ("IPv4", "IPv6"):
                self._create(
                    "security-group-rules",
                    {"security_group_id": thing["id"], "direction": "egress", "ethertype": kind},
                )
        return thing

    def _network(self, network: dict[str, Any]) -> None:
        network.setdefault("mtu", 1450)
        network.setdefault("port_security_enabled", True)

    def _subnet(self, subnet: dict[str, Any]) -> None:
        self._require("networks", subnet["network_id"], "NetworkNotFound")
        cidr = ip_network(subnet["cidr"])
        for other in self.all("subnets", network_id=subnet["network_id"]):
            if ip_network(other["cidr"]).overlaps(cidr):
                raise Refused(400, "InvalidInput", f"Requested subnet with cidr: {cidr} overlaps with another subnet.")
        subnet.setdefault("ip_version", cidr.version)
        subnet.setdefault("enable_dhcp", True)
        subnet.setdefault("host_routes", [])

    def _port(self, port: dict[str, Any]) -> None:
        self._require("networks", port["network_id"], "NetworkNotFound")
        port.setdefault("device_id", "")
        port.setdefault("device_owner", "")
        port.setdefault("security_groups", [])
        network = self.things["networks"][port["network_id"]]
        port.setdefault("port_security_enabled", network["port_security_enabled"])
        if port["security_groups"] and not port["port_security_enabled"]:
            message = "Port security must be enabled and port must have an IP address in order to use security groups."
            raise Refused(400, "PortSecurityAndIPRequiredForSecurityGroups", message)
        port.setdefault("allowed_address_pairs", [])
        port.setdefault("status", "DOWN")
        for group in port["security_groups"]:
            self._require("security-groups", group, "SecurityGroupNotFound")
        if "mac_address" in port:
            if not self.may_choose_mac:
                raise Refused(403, "PolicyNotAuthorized", "rule:create_port:mac_address is disallowed by policy")
            if self.all("ports", mac_address=port["mac_address"], network_id=port["network_id"]):
                raise Refused(409, "MacAddressInUse", f"The mac address {port['mac_address']} is in use.")
        else:
            port["mac_address"] = "fa:16:3e:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))
        port["fixed_ips"] = [self._place(port["network_id"], each) for each in port.get("fixed_ips", [])]

    def _place(self, network_id: str, wanted: dict[str, str]) -> dict[str, str]:
        subnet = self.things["subnets"].get(wanted["subnet_id"])
        if subnet is None or subnet["network_id"] != network_id:
            message = f"Failed to create port on network {network_id}, because fixed_ips included invalid subnet."
            raise Refused(400, "InvalidInput", message)
        cidr = ip_network(subnet["cidr"])
        taken = {
            fixed["ip_address"]
            for port in self.all("ports")
            for fixed in port["fixed_ips"]
            if fixed["subnet_id"] == subnet["id"]
        }
        slaac = subnet.get("ipv6_address_mode") == "slaac"
        address = wanted.get("ip_address")
        if address is not None:
            if slaac:
                message = f"IPv6 address {address} can not be directly assigned on a subnet for automatic addresses"
                raise Refused(400, "AllocationOnAutoAddressSubnet", message)
            if ip_address(address) not in cidr:
                raise Refused(400, "InvalidIpForSubnet", f"IP address {address} is not a valid IP for the subnet.")
            if address in taken:
                raise Refused(409, "IpAddressAlreadyAllocated", f"IP address {address} already allocated in subnet.")
        else:
            hosts = [str(cidr[number]) for number in range(1, min(cidr.num_addresses - 1, 300))]
            free = [host for host in hosts if host not in taken and host != subnet.get("gateway_ip")]
            if not free:
                raise Refused(
                    409, "IpAddressGenerationFailure", f"No more IP addresses available on network {network_id}."
                )
            address = random.choice(free)
        return {"subnet_id": subnet["id"], "ip_address": address}

    def _rule(self, rule: dict[str, Any]) -> None:
        self._require("security-groups", rule["security_group_id"], "SecurityGroupNotFound")
        names = ("direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix")
        for name in names:
            rule.setdefault(name, None)
        for other in self.all("security-group-rules", security_group_id=rule["security_group_id"]):
            if all(other[name] == rule[name] for name in names):
                raise Refused(409, "SecurityGroupRuleExists", f"Security group rule already exists: {other['id']}.")

    def _floating(self, floating: dict[str, Any]) -> None:
        self._require("networks", floating["floating_network_id"], "NetworkNotFound")
        self._require("ports", floating["port_id"], "PortNotFound")
        number = 50 + len(self.things["floatingips"])
        floating["floating_ip_address"] = f"10.253.0.{number}"

    def _interface(self, router_id: str, action: str, body: dict[str, str]) -> dict[str, Any]:
        ports = self.things["ports"]
        if action == "remove_router_interface":
            port = ports.get(body["port_id"])
            if port is None or port["device_id"] != router_id:
                raise Refused(404, "RouterInterfaceNotFound", "Router does not have an interface on it.")
            del ports[port["id"]]
            return {"port_id": port["id"]}
        if "port_id" in body:
            port = ports[body["port_id"]]
            subnet = self.things["subnets"][port["fixed_ips"][0]["subnet_id"]]
        else:
            subnet = self.things["subnets"][body["subnet_id"]]
            port = None
        cidr = ip_network(subnet["cidr"])
        for other in self.all("ports", device_id=router_id):
            for fixed in other["fixed_ips"]:
                there = ip_network(self.things["subnets"][fixed["subnet_id"]]["cidr"])
                if fixed["subnet_id"] == subnet["id"]:
                    raise Refused(
                        400, "BadRequest", f"Bad router request: Router already has a port on subnet {subnet['id']}."
                    )
                if there.overlaps(cidr):
                    message = f"Bad router request: Cidr {cidr} of subnet overlaps with cidr {there} of subnet."
                    raise Refused(400, "BadRequest", message)
        if port is None:
            port = self._create(
                "ports",
                {
                    "network_id": subnet["network_id"],
                    "project_id": self.things["routers"][router_id]["project_id"],
                    "fixed_ips": [{"subnet_id": subnet["id"], "ip_address": subnet["gateway_ip"]}],
                },
            )
        port |= {"device_id": router_id, "device_owner": "network:router_interface"}
        return {"port_id": port["id"], "subnet_id": subnet["id"]}

    def _delete(self, collection: str, identifier: str) -> None:
        if collection == "networks":
            if self.all("ports", network_id=identifier):
                message = f"Unable to complete operation on network {identifier}. There are ports still in use on it."
                raise Refused(409, "NetworkInUse", message)
            for subnet in self.all("subnets", network_id=identifier):
                del self.things["subnets"][subnet["id"]]
        if collection == "security-groups":
            if any(identifier in port["security_groups"] for port in self.all("ports")):
                raise Refused(409, "SecurityGroupInUse", f"Security Group {identifier} in use.")
            for rule in self.all("security-group-rules", security_group_id=identifier):
                del self.things["security-group-rules"][rule["id"]]
        if collection == "ports" and re.match("network:router", self.things["ports"][identifier]["device_owner"]):
            raise Refused(409, "ServicePortInUse", f"Port {identifier} cannot be deleted directly via the port API.")
        del self.things[collection][identifier]

    def _require(self, collection: str, identifier: str, kind: str) -> None:
        if identifier not in self.things[collection]:
            raise Refused(404, kind, f"{COLLECTIONS[collection]} {identifier} could not be found.")
