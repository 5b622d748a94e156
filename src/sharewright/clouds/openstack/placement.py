"""Where a server goes and what it is made of: flavors, server groups, boot volumes."""

from __future__ import annotations

import threading
from typing import Any

from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import TAG_BACKEND, Flavor, InstanceSpec
from sharewright.clouds.openstack.connection import Connection
from sharewright.clouds.openstack.polling import Deadline
from sharewright.errors import CloudError, CloudObjectMissing


class Placement:
    """Ids of flavors and server groups, asked for once per process. Thread safe."""

    def __init__(self, connection: Connection, deployment: str) -> None:
        self._connection = connection
        self._deployment = deployment
        self._guard = threading.Lock()
        self._ids: dict[tuple[str, ...], str] = {}

    def forget(self) -> None:
        with self._guard:
            self._ids.clear()

    def flavor_id(self, flavor: Flavor, deadline: Deadline) -> str:
        """The flavor by name or id; without a name the smallest that has the numbers. CloudObjectMissing."""
        key = ("flavor", flavor.name or f"{flavor.vcpus}/{flavor.memory_mib}")
        known = self._ids.get(key)
        if known is not None:
            return known
        found = self._connection.call(
            "listing flavors", lambda sdk: list(sdk.compute.flavors(details=True)), deadline=deadline
        )
        if flavor.name:
            chosen = [each for each in found if flavor.name in (each.name, each.id)]
            missing = f"Nova has no flavor {flavor.name} that Sharewright's project may use."
        else:
            chosen = sorted(
                (each for each in found if each.vcpus >= flavor.vcpus and each.ram >= flavor.memory_mib),
                key=lambda each: (each.ram, each.vcpus, each.disk, each.name),
            )
            missing = f"Nova has no flavor of {flavor.vcpus} vCPU and {flavor.memory_mib} MiB or more."
        if not chosen:
            raise CloudObjectMissing(missing, hint="openstack flavor list shows them; set the backend's flavor.")
        return self._remember(key, str(chosen[0].id))

    def group_id(self, spec: InstanceSpec, deadline: Deadline) -> str | None:
        """The server group of the spec's backend, made when it is missing; None when none is wanted."""
        policy = spec.flavor.server_group
        if policy == "none":
            return None
        name = group_name(self._deployment, spec.tags.get(TAG_BACKEND, ""))
        key = ("group", name, policy)
        known = self._ids.get(key)
        if known is not None:
            return known

        def find(sdk: Sdk) -> str | None:
            found = [each for each in sdk.compute.server_groups() if each.name == name]
            wrong = [each for each in found if each.policy != policy]
            if wrong:
                raise CloudError(
                    f"Server group {name} exists with policy {wrong[0].policy}, not {policy}.",
                    hint="Delete the group; servers that are in it keep running.",
                )
            return str(found[0].id) if found else None

        with self._connection.locks.hold(f"server group {name}", deadline):
            found = self._connection.call("listing server groups", find, deadline=deadline)
            if found is None:
                found = self._connection.create(
                    f"making server group {name}",
                    lambda sdk: str(sdk.compute.create_server_group(name=name, policy=policy).id),
                    again=find,
                    deadline=deadline,
                )
        return self._remember(key, found)

    def remove_groups(self) -> None:
        """Delete the server groups of this deployment."""
        prefix = group_name(self._deployment, "")

        def action(sdk: Sdk) -> None:
            for each in list(sdk.compute.server_groups()):
                if str(each.name).startswith(prefix):
                    sdk.compute.delete_server_group(each.id, ignore_missing=True)

        self._connection.call("deleting server groups", action)
        self.forget()

    def _remember(self, key: tuple[str, ...], value: str) -> str:
        with self._guard:
            self._ids[key] = value
        return value


def group_name(deployment: str, backend: str) -> str:
    return f"sharewright/{deployment}/{backend}"


def boot_volume(flavor: Flavor, image_id: str) -> dict[str, Any]:
    """The root disk as a volume that Nova makes from the image, and deletes with the server."""
    mapping: dict[str, Any] = {
        "uuid": image_id,
        "source_type": "image",
        "destination_type": "volume",
        "boot_index": 0,
        "volume_size": flavor.boot_volume_size,
        "delete_on_termination": True,
    }
    if flavor.boot_volume_type:
        mapping["volume_type"] = flavor.boot_volume_type
    return mapping
