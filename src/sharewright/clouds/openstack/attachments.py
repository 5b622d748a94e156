"""Attachments: the volumes and ports that a server gets and loses while it exists."""

from __future__ import annotations

import contextlib

from openstack.compute.v2.server import Server
from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import InstanceSpec, Port
from sharewright.clouds.openstack.cinder import AVAILABLE, DETACHING, IN_USE, MOVING
from sharewright.clouds.openstack.connection import Connection, block_storage
from sharewright.clouds.openstack.instances import Instances, no_instance
from sharewright.clouds.openstack.polling import Deadline, Paces, Wait
from sharewright.clouds.openstack.volumes import OpenStackVolumes, holders
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id


class Attachments:
    def __init__(self, connection: Connection, instances: Instances, volumes: OpenStackVolumes, paces: Paces) -> None:
        self._connection = connection
        self._instances = instances
        self._volumes = volumes
        self._paces = paces

    # ---- volumes ----

    def attach_volume(self, instance_id: str, volume_id: str, deadline: Deadline) -> None:
        if not is_id(instance_id):
            raise no_instance(instance_id)
        wait = Wait(f"volume {volume_id} to be attached", deadline, self._paces.volume_attached)
        asked = False
        while True:
            volume = self._volumes.look(volume_id, deadline)
            if volume is None:
                raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
            held = holders(volume)
            if held and held != [instance_id]:
                raise CloudError(
                    f"Volume {volume.name} is attached to instance {held[0]}.", hint="Detach it there first."
                )
            if held and volume.status == IN_USE:
                if asked:
                    wait.done()
                return
            if volume.status == AVAILABLE:
                if asked:  # Nova reserves the volume before it answers
                    raise CloudError(
                        f"Nova gave up attaching volume {volume.name} to instance {instance_id}.",
                        hint="See the log of nova-compute on the instance's host.",
                    )
                asked = self._ask_to_attach(instance_id, volume_id, str(volume.name), deadline)
            elif volume.status not in MOVING:
                raise CloudError(
                    f"Volume {volume.name} cannot be attached: its status is {volume.status}.",
                    hint="Mend the volume in Cinder first.",
                )
            wait.pause(str(volume.status))

    def _ask_to_attach(self, instance_id: str, volume_id: str, name: str, deadline: Deadline) -> bool:
        """Whether Nova has accepted it; False when somebody else was faster, so that the volume needs another look."""

        def taken(sdk: Sdk) -> bool | None:
            return None if block_storage(sdk).get_volume(volume_id).status == AVAILABLE else False

        def make(sdk: Sdk) -> bool:
            sdk.compute.create_volume_attachment(instance_id, volume_id)
            return True

        try:
            return self._connection.create(
                f"attaching volume {name} to instance {instance_id}", make, again=taken, deadline=deadline
            )
        except CloudObjectMissing as error:
            raise no_instance(instance_id) from error
        except CloudError:
            seen = self._volumes.look(volume_id, deadline)
            if seen is None or seen.status == AVAILABLE:
                raise
            return False

    def detach_volume(self, instance_id: str, volume_id: str, deadline: Deadline) -> None:
        wait = Wait(f"volume {volume_id} to be detached", deadline, self._paces.volume_detached)
        asked = 0
        stuck = Deadline(self._paces.detaching_is_stuck)
        while True:
            volume = self._volumes.look(volume_id, deadline)
            if volume is None:
                break
            mine = instance_id in holders(volume)
            if not mine and volume.status not in MOVING:
                break
            if mine and volume.status == DETACHING and stuck.remaining <= 0:
                # Nova could not tell Cinder the end of it, and nobody will: begin anew. Nova takes one at a time.
                self._volumes.take_back_detaching(volume_id, str(volume.name), deadline)
                stuck = Deadline(self._paces.detaching_is_stuck)
                continue
            if mine and volume.status == IN_USE:
                # Again when the guest did not let go of it in the time that Nova gives it.
                if not self._ask_to_detach(instance_id, volume_id, str(volume.name), deadline):
                    self._volumes.release(volume_id, instance_id, deadline)
                asked += 1
            wait.pause(str(volume.status))
        if asked:
            wait.done()

    def _ask_to_detach(self, instance_id: str, volume_id: str, name: str, deadline: Deadline) -> bool:
        """False when Nova knows of no such attachment."""
        try:
            self._connection.call(
                f"detaching volume {name} from instance {instance_id}",
                # openstacksdk would look at the server first.
                lambda sdk: sdk.compute.delete(
                    f"/servers/{instance_id}/os-volume_attachments/{volume_id}", raise_exc=True
                ),
                deadline=deadline,
            )
        except CloudObjectMissing:
            return False
        except CloudError:
            seen = self._volumes.look(volume_id, deadline)
            if seen is not None and seen.status == IN_USE:
                raise
        return True

    # ---- ports ----

    def missing_ports(self, server: Server, spec: InstanceSpec, deadline: Deadline) -> list[Port]:
        """Those that the server has still to get. CloudError when it has others."""
        if server.status == "BUILD":
            return []
        present = self._port_ids(str(server.id), deadline)
        if not present <= {port.id for port in spec.ports}:
            raise CloudError(f"Instance {spec.name} exists with other ports.", hint="Delete it first.")
        return [port for port in spec.ports if port.id not in present]

    def plug(self, server: Server, port: Port, deadline: Deadline) -> None:
        """Nova answers when the NIC is in the server. What it refuses because somebody else plugs the port into this
        server at the same moment is done."""
        server_id = str(server.id)

        def present(sdk: Sdk) -> bool | None:
            return True if port.id in _plugged(sdk, server_id) else None

        def make(sdk: Sdk) -> bool:
            sdk.compute.create_server_interface(server_id, port_id=port.id)
            return True

        try:
            self._connection.create(
                f"plugging port {port.name} into server {server.name}", make, again=present, deadline=deadline
            )
        except CloudError:
            if port.id not in self._port_ids(server_id, deadline):
                raise

    def detach_port(self, instance_id: str, port_id: str, deadline: Deadline) -> None:
        if self._instances.look(instance_id, deadline) is None or port_id not in self._port_ids(instance_id, deadline):
            return
        with contextlib.suppress(CloudObjectMissing):
            self._connection.call(
                f"unplugging port {port_id} from instance {instance_id}",
                lambda sdk: sdk.compute.delete_server_interface(port_id, server=instance_id),
                deadline=deadline,
            )
        wait = Wait(f"port {port_id} to be unplugged", deadline, self._paces.volume_detached)
        while port_id in self._port_ids(instance_id, deadline):
            wait.pause("plugged")
        wait.done()

    def _port_ids(self, server_id: str, deadline: Deadline) -> set[str]:
        return self._connection.call(
            "listing a server's ports", lambda sdk: _plugged(sdk, server_id), deadline=deadline
        )


def _plugged(sdk: Sdk, server_id: str) -> set[str]:
    """Nova lists a port as soon as it is the server's."""
    return {str(each.port_id) for each in sdk.compute.server_interfaces(server_id)}
