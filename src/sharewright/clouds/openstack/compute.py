"""Instances: Nova's servers."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from openstack.compute.v2.server import Server
from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import Flavor, Instance, InstanceSpec, Port, cloud_calls
from sharewright.clouds.openstack import placement
from sharewright.clouds.openstack.cinder import AVAILABLE, DETACHING, IN_USE, MOVING
from sharewright.clouds.openstack.connection import PATIENCE, Connection, block_storage
from sharewright.clouds.openstack.errors import BUSY_TEXT, NO_ROOM_TEXT, QUOTA_TEXT, status_of
from sharewright.clouds.openstack.images import OpenStackImages
from sharewright.clouds.openstack.polling import Deadline, Paces, Wait
from sharewright.clouds.openstack.tags import deployment_tag, is_ours
from sharewright.clouds.openstack.volumes import OpenStackVolumes, holders
from sharewright.clouds.tags import refuse_share_server, several_named, tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable
from sharewright.identifiers import is_id

RUNNING = frozenset({"ACTIVE", "REBOOT", "HARD_REBOOT"})
SETTLING = frozenset({"BUILD", "REBOOT", "HARD_REBOOT", "REBUILD", "UNKNOWN"})
# How each state that is not running is left, by the name of the server's action.
WAKING: dict[str, Callable[[Sdk, str], None]] = {
    "SHUTOFF": lambda sdk, server_id: sdk.compute.start_server(server_id),
    "PAUSED": lambda sdk, server_id: sdk.compute.unpause_server(server_id),
    "SUSPENDED": lambda sdk, server_id: sdk.compute.resume_server(server_id),
    "ERROR": lambda sdk, server_id: sdk.compute.reboot_server(server_id, "HARD"),
}
POWERED_OFF = (4, 6)  # power_state: shut down, crashed
LONGEST_USER_DATA = 65535  # of Nova, encoded
DELETE_TRIES = 3


class OpenStackCompute:
    def __init__(
        self,
        connection: Connection,
        deployment: str,
        volumes: OpenStackVolumes,
        images: OpenStackImages,
        paces: Paces,
    ) -> None:
        self._connection = connection
        self._deployment = deployment
        self._volumes = volumes
        self._images = images
        self._placement = placement.Placement(connection, deployment)
        self._paces = paces

    # ---- the contract: servers ----

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        deadline = Deadline(timeout)
        with self._connection.locks.hold(f"server {spec.name}", deadline):
            server = self._connection.call(
                f"looking for server {spec.name}", lambda sdk: self._named(sdk, spec.name), deadline=deadline
            )
            if server is not None and _never_ran(server):
                self._delete(server, deadline)
                server = None
            if server is None:
                server_id = self._create(spec, tags, deadline)
                server = self._await_creation(server_id, spec.name, deadline)
            else:
                missing = self._missing_ports(server, spec, deadline)
                server = self._run(server, deadline)
                for port in missing:
                    self._attach_port(server, port, deadline)
            return _instance(server)

    def find_instance(self, instance_id: str) -> Instance | None:
        cloud_calls.count += 1
        server = self._look(instance_id)
        return None if server is None else _instance(server)

    def list_instances(self) -> Sequence[Instance]:
        cloud_calls.count += 1
        return [_instance(each) for each in self._connection.call("listing servers", lambda sdk: self._list(sdk))]

    def find_named_instance(self, reference: str) -> Instance | None:
        """In our project; for an administrator, in any."""
        cloud_calls.count += 1
        server = self._anybodys(reference)
        if server is None:
            found = self._called(reference) or self._called(reference, all_projects=True)
            if len(found) > 1:
                raise several_named(reference, sorted(str(each.id) for each in found))
            server = found[0] if found else None
        if server is None:
            return None
        refuse_share_server(server.metadata or {}, str(server.name))
        return replace(_instance(server), addresses=_addresses(server))

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        _require_running(self._run(self._existing(instance_id, deadline), deadline))

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        name = self._existing(instance_id, deadline).name
        self._connection.call(
            f"rebooting server {name}", lambda sdk: sdk.compute.reboot_server(instance_id, "HARD"), deadline=deadline
        )
        _require_running(self._await_running(instance_id, deadline))

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        server = self._look(instance_id, deadline)
        if server is not None:
            self._delete(server, deadline)

    def console_log(self, instance_id: str, *, length: int = 8192) -> str:
        cloud_calls.count += 1
        if not is_id(instance_id):
            return ""
        try:
            answer = self._connection.once(
                "reading a console", lambda sdk: sdk.compute.get_server_console_output(instance_id)
            )
        except CloudError as error:  # no console yet, or none of this kind
            if isinstance(error, CloudUnavailable) and status_of(error) is None:
                raise
            return ""
        text = str(answer.get("output") or "")
        return text.encode()[-length:].decode(errors="replace")

    def check(self, flavor: str, image: str) -> None:
        """CloudError, with a hint, when a backend's flavor or image is not there."""
        deadline = Deadline(PATIENCE)
        self._placement.flavor_id(Flavor(name=flavor), deadline)
        self._images.resolve(image, deadline)

    def remove_groups(self) -> None:
        """Delete the server groups of this deployment; their servers run on."""
        self._placement.remove_groups()

    # ---- the contract: attachments ----

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        if not is_id(instance_id):
            raise _no_instance(instance_id)
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
            raise _no_instance(instance_id) from error
        except CloudError:
            seen = self._volumes.look(volume_id, deadline)
            if seen is None or seen.status == AVAILABLE:
                raise
            return False

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
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

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        if self._look(instance_id, deadline) is None or port_id not in self._port_ids(instance_id, deadline):
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

    # ---- creation ----

    def _create(self, spec: InstanceSpec, tags: dict[str, str], deadline: Deadline) -> str:
        image_id = self._images.resolve(spec.image, deadline)
        body: dict[str, Any] = {
            "name": spec.name,
            "flavor_id": self._placement.flavor_id(spec.flavor, deadline),
            "networks": [{"port": port.id} for port in spec.ports] or "none",
            "config_drive": True,
            "user_data": encode_user_data(spec),
            "metadata": tags,
            "tags": [deployment_tag(self._deployment)],
        }
        if spec.availability_zone:
            body["availability_zone"] = spec.availability_zone
        group_id = self._placement.group_id(spec, deadline)
        if group_id:
            body["scheduler_hints"] = {"group": group_id}
        if spec.flavor.boot_volume_size:
            body["block_device_mapping"] = [placement.boot_volume(spec.flavor, image_id)]
        else:
            body["image_id"] = image_id

        def again(sdk: Sdk) -> str | None:
            found = self._named(sdk, spec.name)
            return None if found is None else str(found.id)

        try:
            return self._connection.create(
                f"making server {spec.name}",
                lambda sdk: str(sdk.compute.create_server(**body).id),
                again=again,
                deadline=deadline,
            )
        except CloudError as error:
            if status_of(error) in (400, 404) and "could not be found" in error.message:
                self._placement.forget()  # the flavor may be made anew under another id
                raise CloudObjectMissing(error.message, hint="Make the missing port again, or name another.") from error
            raise

    def _await_creation(self, server_id: str, name: str, deadline: Deadline) -> Server:
        wait = Wait(f"server {name} to become ACTIVE", deadline, self._paces.server_made)
        wait.pause("BUILD")  # that, the answer has told
        while True:
            server = self._look(server_id, deadline)
            if server is None:
                raise CloudObjectMissing(f"Server {name} was deleted while it was being made.", hint="Try again.")
            if server.status == "ERROR":
                failure = _failure(server)
                self._delete(server, Deadline(max(deadline.remaining, PATIENCE)))
                raise _creation_failed(name, failure)
            if server.status not in SETTLING:
                wait.done()
                return server
            wait.pause(_status(server))

    def _missing_ports(self, server: Server, spec: InstanceSpec, deadline: Deadline) -> list[Port]:
        """Those that the server has still to get. CloudError when it has others."""
        if server.status == "BUILD":
            return []
        present = self._port_ids(str(server.id), deadline)
        if not present <= {port.id for port in spec.ports}:
            raise CloudError(f"Instance {spec.name} exists with other ports.", hint="Delete it first.")
        return [port for port in spec.ports if port.id not in present]

    def _port_ids(self, server_id: str, deadline: Deadline) -> set[str]:
        interfaces = self._connection.call(
            "listing a server's ports", lambda sdk: list(sdk.compute.server_interfaces(server_id)), deadline=deadline
        )
        return {str(each.port_id) for each in interfaces}

    def _attach_port(self, server: Server, port: Port, deadline: Deadline) -> None:
        """Nova answers when the NIC is in the server. What it refuses because somebody else plugs the port into this
        server at the same moment is done."""
        server_id = str(server.id)

        def present(sdk: Sdk) -> bool | None:
            return True if port.id in {str(each.port_id) for each in sdk.compute.server_interfaces(server_id)} else None

        def make(sdk: Sdk) -> bool:
            sdk.compute.create_server_interface(server_id, port_id=port.id)
            return True

        try:
            self._connection.create(
                f"plugging port {port.name} into server {server.name}", make, again=present, deadline=deadline
            )
        except CloudError:
            if port.id not in self._port_ids(server_id, deadline):  # Nova lists it as soon as it is the server's
                raise

    # ---- life and death ----

    def _run(self, server: Server, deadline: Deadline) -> Server:
        """Let a server run, in whatever state it is."""
        server_id, name = str(server.id), str(server.name)
        if _runs(server) and server.status not in SETTLING:
            return server
        status = "SHUTOFF" if server.status == "ACTIVE" and not _runs(server) else str(server.status)
        wake = WAKING.get(status)
        if wake is None and status not in SETTLING:
            raise CloudError(
                f"Server {name} cannot be started: its status is {status}.", hint="Bring it to ACTIVE in Nova first."
            )
        if wake is not None:
            try:
                self._connection.call(f"starting server {name}", lambda sdk: wake(sdk, server_id), deadline=deadline)
            except CloudError as error:
                if status_of(error) != 409:  # it has changed its state meanwhile
                    raise
        return self._await_running(server_id, deadline)

    def _await_running(self, server_id: str, deadline: Deadline) -> Server:
        wait = Wait(f"server {server_id} to become ACTIVE", deadline, self._paces.server_started)
        wait.pause("not looked at yet")
        while True:
            server = self._existing(server_id, deadline)
            if server.task_state is None and server.status not in SETTLING:
                if server.status == "ACTIVE" and _runs(server):
                    wait.done()
                    return server
                if server.status == "ERROR":
                    return server  # its failure is the answer
            wait.pause(_status(server))

    def _delete(self, server: Server, deadline: Deadline) -> None:
        """Return when it is gone. Nova forgets a server on a host that does not answer without powering it off; so
        such a host is waited for, unless an operator has told Nova that it is down (``forced_down``)."""
        server_id, name = str(server.id), str(server.name)
        if server.host_status == "UNKNOWN":
            raise CloudUnavailable(
                f"The host of server {name} does not answer Nova, so the server may still run and write.",
                hint="Bring the host back; or power it off and then: openstack compute service set --down HOST "
                "nova-compute.",
            )
        self._ask_to_delete(server_id, name, deadline)
        asked = 1
        wait = Wait(f"server {name} to be deleted", deadline, self._paces.server_deleted)
        while True:
            wait.pause(_status(server))
            seen = self._look(server_id, deadline)
            if seen is None:
                break
            server = seen
            if server.status == "SOFT_DELETED":
                self._ask_to_delete(server_id, name, deadline, force=True)
            elif server.status == "ERROR" and server.task_state is None:
                if asked == DELETE_TRIES:
                    raise CloudError(
                        f"Nova could not delete server {name}: {_failure(server)}",
                        hint="See the log of nova-compute on its host; deleting may be tried again.",
                    )
                self._ask_to_delete(server_id, name, deadline)
                asked += 1
        wait.done()

    def _ask_to_delete(self, server_id: str, name: str, deadline: Deadline, *, force: bool = False) -> None:
        with contextlib.suppress(CloudObjectMissing):
            self._connection.call(
                f"deleting server {name}",
                lambda sdk: sdk.compute.delete_server(server_id, ignore_missing=True, force=force),
                deadline=deadline,
            )

    # ---- finding ----

    def _look(self, server_id: str, deadline: Deadline | None = None) -> Server | None:
        server = self._anybodys(server_id, deadline)
        return server if server is not None and is_ours(server.metadata or {}, self._deployment) else None

    def _anybodys(self, server_id: str, deadline: Deadline | None = None) -> Server | None:
        if not is_id(server_id):
            return None
        try:
            server = self._connection.call(
                "looking at a server", lambda sdk: sdk.compute.get_server(server_id), deadline=deadline
            )
        except CloudObjectMissing:
            return None
        return None if server.status == "DELETED" else server

    def _called(self, name: str, **filters: Any) -> list[Server]:
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

    def _existing(self, server_id: str, deadline: Deadline) -> Server:
        server = self._look(server_id, deadline)
        if server is None:
            raise _no_instance(server_id)
        return server

    def _list(self, sdk: Sdk, **filters: Any) -> list[Server]:
        found = sdk.compute.servers(details=True, tags=deployment_tag(self._deployment), **filters)
        return [each for each in found if is_ours(each.metadata or {}, self._deployment) and each.status != "DELETED"]

    def _named(self, sdk: Sdk, name: str) -> Server | None:
        found = [each for each in self._list(sdk, name=f"^{name}$") if each.name == name]
        if len(found) > 1:
            raise CloudError(
                f"There are {len(found)} servers {name}: {', '.join(str(each.id) for each in found)}.",
                hint="Delete the ones that share_servers does not name.",
            )
        return found[0] if found else None


def encode_user_data(spec: InstanceSpec) -> str:
    """Nova writes the other files of the config drive itself."""
    text = base64.b64encode(spec.files.get("user_data", b"")).decode()
    if len(text) > LONGEST_USER_DATA:
        raise CloudError(
            f"The user data of {spec.name} has {len(text)} bytes; Nova takes {LONGEST_USER_DATA}.",
            hint="Fewer entries in the firewall make it shorter.",
        )
    return text


def _instance(server: Server) -> Instance:
    return Instance(
        id=str(server.id),
        name=str(server.name),
        running=_runs(server),
        tags={str(key): str(value) for key, value in (server.metadata or {}).items()},
        failure=_failure(server) if server.status == "ERROR" else "",
        availability_zone=str(server.availability_zone) if server.availability_zone else None,
        macs=_macs(server),
    )


def _macs(server: Server) -> frozenset[str]:
    """What Nova knows of the server's ports; a port that Neutron deletes leaves it within a moment."""
    entries = (entry for entries in (server.addresses or {}).values() for entry in entries)
    return frozenset(str(entry.get("OS-EXT-IPS-MAC:mac_addr", "")).lower() for entry in entries)


def _addresses(server: Server) -> dict[str, tuple[str, ...]]:
    """By the name of the network; floating addresses come after the fixed ones, as Nova lists them."""
    return {
        str(network): tuple(str(entry["addr"]) for entry in entries if entry.get("addr"))
        for network, entries in (server.addresses or {}).items()
    }


def _runs(server: Server) -> bool:
    return server.status in RUNNING and server.power_state not in POWERED_OFF


def _require_running(server: Server) -> None:
    if not _runs(server):
        raise CloudError(
            f"Server {server.name} does not run: {_failure(server)}", hint="See the log of nova-compute on its host."
        )


def _never_ran(server: Server) -> bool:
    """Its creation failed, or it is being deleted; nothing that a share server has done is in it."""
    return server.task_state == "deleting" or (server.status == "ERROR" and not server.launched_at)


def _failure(server: Server) -> str:
    fault = server.fault or {}
    return " ".join(str(fault.get("message") or "Nova gives no reason.").split())[:500]


def _creation_failed(name: str, failure: str) -> CloudError:
    if NO_ROOM_TEXT.search(failure) or QUOTA_TEXT.search(failure):
        return CloudCapacityExceeded(
            f"Nova found no room for server {name}: {failure}",
            hint="Add compute hosts, use a smaller flavor, or raise the quotas of Sharewright's project.",
        )
    if BUSY_TEXT.search(failure):
        return CloudUnavailable(f"Nova could not make server {name}: {failure}", hint="Try again.")
    return CloudError(f"Nova could not make server {name}: {failure}", hint="See the log of nova-compute.")


def _status(server: Server) -> str:
    return f"{server.status}{f' ({server.task_state})' if server.task_state else ''}"


def _no_instance(instance_id: str) -> CloudObjectMissing:
    return CloudObjectMissing(f"There is no instance {instance_id}.", hint="It may have been deleted.")
