"""Which instances there are: Nova's servers, those with our tag and others; found and read."""

from __future__ import annotations

import re
from typing import Any

from openstack.compute.v2.server import Server
from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import Instance
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.errors import status_of
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.tags import deployment_tag, is_ours
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id

RUNNING = frozenset({"ACTIVE", "REBOOT", "HARD_REBOOT"})
POWERED_OFF = (4, 6)  # power_state: shut down, crashed


class Instances:
    """What is ours; ``anybodys`` and ``called`` find servers of others, too."""

    def __init__(self, connection: Connection, deployment: str) -> None:
        self._connection = connection
        self._deployment = deployment

    def look(self, server_id: str, deadline: Deadline | None = None) -> Server | None:
        server = self.anybodys(server_id, deadline)
        return server if server is not None and is_ours(server.metadata or {}, self._deployment) else None

    def anybodys(self, server_id: str, deadline: Deadline | None = None) -> Server | None:
        if not is_id(server_id):
            return None
        try:
            server = self._connection.call(
                "looking at a server", lambda sdk: sdk.compute.get_server(server_id), deadline=deadline
            )
        except CloudObjectMissing:
            return None
        return None if server.status == "DELETED" else server

    def called(self, name: str, **filters: Any) -> list[Server]:
        """Anybody's servers of that name, as far as we may list them."""
        pattern = "^" + re.escape(name).replace(r"\-", "-") + "$"  # Nova's filter is a regular expression
        try:
            found = self._connection.call(
                f"looking for server {name}",
                lambda sdk: list(sdk.compute.servers(details=True, name=pattern, **filters)),
            )
        except CloudError as error:
            if status_of(error) == 403 and filters:  # other projects are for administrators
                return []
            raise
        return [each for each in found if each.name == name and each.status != "DELETED"]

    def existing(self, server_id: str, deadline: Deadline) -> Server:
        server = self.look(server_id, deadline)
        if server is None:
            raise no_instance(server_id)
        return server

    def ours(self, sdk: Sdk, **filters: Any) -> list[Server]:
        found = sdk.compute.servers(details=True, tags=deployment_tag(self._deployment), **filters)
        return [each for each in found if is_ours(each.metadata or {}, self._deployment) and each.status != "DELETED"]

    def named(self, sdk: Sdk, name: str) -> Server | None:
        found = [each for each in self.ours(sdk, name=f"^{name}$") if each.name == name]
        if len(found) > 1:
            raise CloudError(
                f"There are {len(found)} servers {name}: {', '.join(str(each.id) for each in found)}.",
                hint="Delete the ones that share_servers does not name.",
            )
        return found[0] if found else None


def instance_of(server: Server) -> Instance:
    return Instance(
        id=str(server.id),
        name=str(server.name),
        running=runs(server),
        tags={str(key): str(value) for key, value in (server.metadata or {}).items()},
        failure=failure_of(server) if server.status == "ERROR" else "",
        availability_zone=str(server.availability_zone) if server.availability_zone else None,
        macs=_macs(server),
    )


def _macs(server: Server) -> frozenset[str]:
    """What Nova knows of the server's ports; a port that Neutron deletes leaves it within a moment."""
    entries = (entry for entries in (server.addresses or {}).values() for entry in entries)
    return frozenset(str(entry.get("OS-EXT-IPS-MAC:mac_addr", "")).lower() for entry in entries)


def addresses_of(server: Server) -> dict[str, tuple[str, ...]]:
    """By the name of the network; floating addresses come after the fixed ones, as Nova lists them."""
    return {
        str(network): tuple(str(entry["addr"]) for entry in entries if entry.get("addr"))
        for network, entries in (server.addresses or {}).items()
    }


def runs(server: Server) -> bool:
    return server.status in RUNNING and server.power_state not in POWERED_OFF


def failure_of(server: Server) -> str:
    fault = server.fault or {}
    return " ".join(str(fault.get("message") or "Nova gives no reason.").split())[:500]


def no_instance(instance_id: str) -> CloudObjectMissing:
    return CloudObjectMissing(f"There is no instance {instance_id}.", hint="It may have been deleted.")
