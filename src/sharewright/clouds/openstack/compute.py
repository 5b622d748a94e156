"""Compute: makes, starts, reboots and deletes instances, which are Nova's servers (instances.py finds them)."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from openstack.compute.v2.server import Server
from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import Flavor, Instance, InstanceSpec, cloud_calls
from sharewright.clouds.openstack import placement
from sharewright.clouds.openstack.attachments import Attachments
from sharewright.clouds.openstack.connection import PATIENCE, Connection
from sharewright.clouds.openstack.errors import BUSY_TEXT, NO_ROOM_TEXT, QUOTA_TEXT, status_of
from sharewright.clouds.openstack.images import OpenStackImages
from sharewright.clouds.openstack.instances import Instances, addresses_of, failure_of, instance_of, runs
from sharewright.clouds.openstack.polling import Deadline, Paces, Wait
from sharewright.clouds.openstack.tags import deployment_tag
from sharewright.clouds.openstack.volumes import OpenStackVolumes
from sharewright.clouds.tags import refuse_share_server, several_named, tags_to_store
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, CloudUnavailable
from sharewright.identifiers import is_id

SETTLING = frozenset({"BUILD", "REBOOT", "HARD_REBOOT", "REBUILD", "UNKNOWN"})
# How each state that is not running is left, by the name of the server's action.
WAKING: dict[str, Callable[[Sdk, str], None]] = {
    "SHUTOFF": lambda sdk, server_id: sdk.compute.start_server(server_id),
    "PAUSED": lambda sdk, server_id: sdk.compute.unpause_server(server_id),
    "SUSPENDED": lambda sdk, server_id: sdk.compute.resume_server(server_id),
    "ERROR": lambda sdk, server_id: sdk.compute.reboot_server(server_id, "HARD"),
}
LONGEST_USER_DATA = 65535  # of Nova, encoded
DELETE_TRIES = 3


class OpenStackCompute:
    """Contract Compute."""

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
        self._images = images
        self._instances = Instances(connection, deployment)
        self._attachments = Attachments(connection, self._instances, volumes, paces)
        self._placement = placement.Placement(connection, deployment)
        self._paces = paces

    # ---- the contract: servers ----

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        cloud_calls.count += 1
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        deadline = Deadline(timeout)
        with self._connection.locks.hold(f"server {spec.name}", deadline):
            server = self._connection.call(
                f"looking for server {spec.name}", lambda sdk: self._instances.named(sdk, spec.name), deadline=deadline
            )
            if server is not None and _never_ran(server):
                self._delete(server, deadline)
                server = None
            if server is None:
                server_id = self._create(spec, tags, deadline)
                server = self._await_creation(server_id, spec.name, deadline)
            else:
                missing = self._attachments.missing_ports(server, spec, deadline)
                server = self._run(server, deadline)
                for port in missing:
                    self._attachments.plug(server, port, deadline)
            return instance_of(server)

    def find_instance(self, instance_id: str) -> Instance | None:
        cloud_calls.count += 1
        server = self._instances.look(instance_id)
        return None if server is None else instance_of(server)

    def list_instances(self) -> Sequence[Instance]:
        cloud_calls.count += 1
        return [instance_of(each) for each in self._connection.call("listing servers", self._instances.ours)]

    def find_named_instance(self, reference: str) -> Instance | None:
        """In our project; for an administrator, in any."""
        cloud_calls.count += 1
        server = self._instances.anybodys(reference)
        if server is None:
            found = self._instances.called(reference) or self._instances.called(reference, all_projects=True)
            if len(found) > 1:
                raise several_named(reference, sorted(str(each.id) for each in found))
            server = found[0] if found else None
        if server is None:
            return None
        refuse_share_server(server.metadata or {}, str(server.name))
        return replace(instance_of(server), addresses=addresses_of(server))

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        _require_running(self._run(self._instances.existing(instance_id, deadline), deadline))

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        name = self._instances.existing(instance_id, deadline).name
        self._connection.call(
            f"rebooting server {name}", lambda sdk: sdk.compute.reboot_server(instance_id, "HARD"), deadline=deadline
        )
        _require_running(self._await_running(instance_id, deadline))

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        deadline = Deadline(timeout)
        server = self._instances.look(instance_id, deadline)
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
        self._attachments.attach_volume(instance_id, volume_id, Deadline(timeout))

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._attachments.detach_volume(instance_id, volume_id, Deadline(timeout))

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        cloud_calls.count += 1
        self._attachments.detach_port(instance_id, port_id, Deadline(timeout))

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
            found = self._instances.named(sdk, spec.name)
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
            server = self._instances.look(server_id, deadline)
            if server is None:
                raise CloudObjectMissing(f"Server {name} was deleted while it was being made.", hint="Try again.")
            if server.status == "ERROR":
                failure = failure_of(server)
                self._delete(server, Deadline(max(deadline.remaining, PATIENCE)))
                raise _creation_failed(name, failure)
            if server.status not in SETTLING:
                wait.done()
                return server
            wait.pause(_status(server))

    # ---- life and death ----

    def _run(self, server: Server, deadline: Deadline) -> Server:
        """Let a server run, in whatever state it is."""
        server_id, name = str(server.id), str(server.name)
        if runs(server) and server.status not in SETTLING:
            return server
        status = "SHUTOFF" if server.status == "ACTIVE" and not runs(server) else str(server.status)
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
            server = self._instances.existing(server_id, deadline)
            if server.task_state is None and server.status not in SETTLING:
                if server.status == "ACTIVE" and runs(server):
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
            seen = self._instances.look(server_id, deadline)
            if seen is None:
                break
            server = seen
            if server.status == "SOFT_DELETED":
                self._ask_to_delete(server_id, name, deadline, force=True)
            elif server.status == "ERROR" and server.task_state is None:
                if asked == DELETE_TRIES:
                    raise CloudError(
                        f"Nova could not delete server {name}: {failure_of(server)}",
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


def encode_user_data(spec: InstanceSpec) -> str:
    """Nova writes the other files of the config drive itself."""
    text = base64.b64encode(spec.files.get("user_data", b"")).decode()
    if len(text) > LONGEST_USER_DATA:
        raise CloudError(
            f"The user data of {spec.name} has {len(text)} bytes; Nova takes {LONGEST_USER_DATA}.",
            hint="Fewer entries in the firewall make it shorter.",
        )
    return text


def _require_running(server: Server) -> None:
    if not runs(server):
        raise CloudError(
            f"Server {server.name} does not run: {failure_of(server)}", hint="See the log of nova-compute on its host."
        )


def _never_ran(server: Server) -> bool:
    """Its creation failed, or it is being deleted; nothing that a share server has done is in it."""
    return server.task_state == "deleting" or (server.status == "ERROR" and not server.launched_at)


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
