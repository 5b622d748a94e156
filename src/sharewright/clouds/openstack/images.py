"""Service images: Glance's. Found by id, by name and owner, or by our tag; uploaded once per content.

An upload is marked with the SHA-256 of what it holds, so that uploading the same again does nothing. It belongs to our
project and is private.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from openstack.connection import Connection as Sdk

from sharewright.clouds.openstack.connection import Connection, image_service
from sharewright.clouds.openstack.polling import Deadline, Pace, Wait
from sharewright.clouds.openstack.tags import deployment_tag
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import is_id
from sharewright.progress import Progress

log = structlog.get_logger()

NAME = "sharewright-service-image"
SHA256 = "sharewright_sha256"
FORM = "sharewright_form"
UPLOAD_SECONDS = 1800.0
LEAST_MEMORY_MIB = 256
# virtio-scsi: no limit by PCI slots, and a volume's whole id as the disk's serial number.
PROPERTIES = {
    "hw_disk_bus": "scsi",
    "hw_scsi_model": "virtio-scsi",
    "hw_cdrom_bus": "scsi",  # the config drive's; kernels for clouds have no IDE
    "hw_vif_model": "virtio",
    "hw_qemu_guest_agent": "no",
    "hw_rng_model": "virtio",
    "os_type": "linux",
    "os_distro": "debian",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What to upload: a bootable qcow2 file, or with ``kernel`` and ``initrd`` beside it a direct boot of those."""

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None
    kernel_arguments: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    min_ram: int = LEAST_MEMORY_MIB

    @property
    def form(self) -> str:
        return "kernel" if self.kernel is not None else "disk"

    def digest(self) -> str:
        """SHA-256 of everything that makes a difference to what boots."""
        digest = hashlib.sha256()
        for path in (self.disk, self.kernel, self.initrd):
            if path is not None:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(repr((self.kernel_arguments, sorted({**PROPERTIES, **self.properties}.items()))).encode())
        return digest.hexdigest()


class OpenStackImages:
    def __init__(self, connection: Connection, deployment: str, owner: str = "") -> None:
        self._connection = connection
        self._deployment = deployment
        self._owner = owner

    def resolve(self, image: str, deadline: Deadline) -> str:
        """The id of an image named by id or name, or "" for the last one uploaded. CloudObjectMissing, CloudError."""
        if is_id(image) and not self._owner:
            return image
        owner = self._owner or self._connection.project_id
        if is_id(image):
            found = self._connection.call(
                f"looking for image {image}", lambda sdk: image_service(sdk).get_image(image), deadline=deadline
            )
            if found.owner_id != owner or found.status != "active":
                raise CloudError(
                    f"Image {image} is {found.status} and belongs to project {found.owner_id}, not {owner}.",
                    hint="Check openstack.image_project and the backend's image.",
                )
            return image
        wanted = {"name": image} if image else {"tag": self._tag}
        images = self._connection.call(
            f"looking for image {image or self._tag}",
            lambda sdk: list(image_service(sdk).images(owner=owner, status="active", sort="created_at:desc", **wanted)),
            deadline=deadline,
        )
        if not images:
            raise CloudObjectMissing(
                f"Project {owner} has no active image {image or f'with tag {self._tag}'}.",
                hint="sharewright image upload puts it there.",
            )
        if image and len(images) > 1:
            raise CloudError(
                f"Project {owner} has {len(images)} images {image}: {', '.join(str(each.id) for each in images)}.",
                hint="Name one by its id.",
            )
        return str(images[0].id)

    def upload(self, source: Source, progress: Progress) -> str:
        """The id of an image with this content, uploaded unless it is there."""
        digest = source.digest()
        deadline = Deadline(UPLOAD_SECONDS)
        with progress.step("look for the image"):
            present = self._present(digest, deadline)
        if present is not None:
            return present
        properties = PROPERTIES | {SHA256: digest, FORM: source.form, **source.properties}
        made: list[str] = []
        try:
            if source.kernel is not None and source.initrd is not None:
                with progress.step("upload the kernel"):
                    made.append(self._put(source.kernel, f"{NAME}-kernel", "aki", {SHA256: digest}, deadline))
                with progress.step("upload the initrd"):
                    made.append(self._put(source.initrd, f"{NAME}-initrd", "ari", {SHA256: digest}, deadline))
                properties |= {"kernel_id": made[0], "ramdisk_id": made[1], "os_command_line": source.kernel_arguments}
            with progress.step("upload the disk"):
                image_id = self._put(
                    source.disk,
                    NAME,
                    "qcow2",
                    properties,
                    deadline,
                    min_disk=virtual_gib(source.disk),
                    min_ram=source.min_ram,
                )
        except BaseException:
            for image_id in made:
                self._remove(image_id)
            raise
        # The tag last: only a whole image is ever chosen by it.
        self._connection.call(
            "tagging the image", lambda sdk: image_service(sdk).add_tag(image_id, self._tag), deadline=deadline
        )
        return image_id

    def purge(self) -> None:
        """Delete every image that this deployment has uploaded."""
        owner = self._connection.project_id
        images = self._connection.call(
            "listing images",
            lambda sdk: list(image_service(sdk).images(owner=owner, tag=deployment_tag(self._deployment))),
        )
        for each in images:
            self._remove(str(each.id))

    @property
    def _tag(self) -> str:
        return f"{deployment_tag(self._deployment)}:service-image"

    def _present(self, digest: str, deadline: Deadline) -> str | None:
        owner = self._connection.project_id
        images = self._connection.call(
            "listing images",
            lambda sdk: list(
                image_service(sdk).images(owner=owner, status="active", tag=self._tag, sort="created_at:desc")
            ),
            deadline=deadline,
        )
        # The newest of ours must be it, since that is what an empty backends.NAME.image means.
        if images and (images[0].properties or {}).get(SHA256) == digest:
            return str(images[0].id)
        return None

    def _put(
        self,
        path: Path,
        name: str,
        form: str,
        properties: dict[str, str],
        deadline: Deadline,
        **limits: int,
    ) -> str:
        """Upload one file. What a failed upload has made is deleted."""
        body: dict[str, Any] = {
            "name": name,
            "disk_format": form,
            "container_format": "bare" if form == "qcow2" else form,
            "visibility": "private",
            "tags": [deployment_tag(self._deployment)],
            **properties,
            **limits,
        }

        def make(sdk: Sdk) -> str:
            answer = image_service(sdk).post("/images", json=body, raise_exc=True)
            return str(answer.json()["id"])

        def send(sdk: Sdk) -> None:
            with path.open("rb") as file:
                image_service(sdk).put(
                    f"/images/{image_id}/file",
                    data=file,
                    headers={"Content-Type": "application/octet-stream"},
                    timeout=UPLOAD_SECONDS,
                    raise_exc=True,
                )

        image_id = self._connection.once(f"making image {name}", make, deadline=deadline)
        try:
            self._connection.once(f"uploading {path.name}", send, deadline=deadline)
            wait = Wait(f"image {name} to become active", deadline, Pace(0.5))
            while (status := self._status(image_id, deadline)) != "active":
                if status in ("killed", "deleted", "missing"):
                    raise CloudError(f"Glance made image {name} {status}.", hint="See the log of glance-api.")
                wait.pause(status)
        except BaseException:
            self._remove(image_id)
            raise
        return image_id

    def _status(self, image_id: str, deadline: Deadline) -> str:
        try:
            found = self._connection.call(
                "looking at an image", lambda sdk: image_service(sdk).get_image(image_id), deadline=deadline
            )
        except CloudObjectMissing:
            return "missing"
        return str(found.status)

    def _remove(self, image_id: str) -> None:
        try:
            self._connection.call(
                "deleting an image", lambda sdk: image_service(sdk).delete_image(image_id, ignore_missing=True)
            )
        except CloudError as error:
            log.warning("image stays in Glance", image=image_id, reason=error.message)


def virtual_gib(disk: Path) -> int:
    """Size of the disk in a qcow2 file, in whole GiB. CloudError when it is no such file."""
    with disk.open("rb") as file:
        header = file.read(32)
    if header[:4] != b"QFI\xfb" or len(header) < 32:
        raise CloudError(f"{disk} is no qcow2 file.", hint="qemu-img convert -O qcow2 makes one.")
    return -(-int.from_bytes(header[24:32], "big") // 2**30)
