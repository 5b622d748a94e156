"""Images as libvirt boots them, and the files of one instance.

An instance's root disk is a thin overlay on the image's, so the image's files must not change while any instance lives,
not even when a newer image is put in their place. They are therefore linked into a directory of ours, named by what
they are; only root may write there. Kernel and initrd are copied per instance, because libvirt gives such files to
QEMU's user, and one VM must not own what another boots.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pycdlib

from sharewright.clouds.libvirt.records import write_atomically
from sharewright.errors import CloudCapacityExceeded, CloudError
from sharewright.identifiers import short_hash

DISK, KERNEL, INITRD, MANIFEST = "root.qcow2", "kernel", "initrd", "manifest.json"
OVERLAY, CONFIG_DRIVE = "root.qcow2", "config.iso"
QEMU_IMG_SECONDS = 60.0
ORPHAN_SECONDS = 3600.0  # files this old without a domain are of a creation that died


@dataclass(frozen=True, slots=True)
class Image:
    """``directory`` is ours, with ``root.qcow2`` and, for direct boot, ``kernel``, ``initrd`` and ``manifest.json``."""

    directory: Path
    kernel_arguments: str | None  # None: the disk boots by itself

    @property
    def disk(self) -> Path:
        return self.directory / DISK


def adopt_image(source: Path, images: Path) -> Image:
    """Link the image into ``images``. ``source`` is an image directory or a bootable qcow2 file."""
    names = (DISK, KERNEL, INITRD, MANIFEST)
    files = {name: source / name for name in names} if source.is_dir() else {DISK: source}
    try:
        states = {name: path.stat() for name, path in files.items()}
    except OSError as error:
        raise CloudError(
            f"The image {source} is not complete: {error.filename} is missing.",
            hint="Build it with: sharewright image build.",
        ) from error
    key = short_hash(*(f"{n} {s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns}" for n, s in states.items()), length=24)
    directory = images / key
    if not directory.is_dir():
        making = images / f".{key}.{os.getpid()}.{time.monotonic_ns()}"
        making.mkdir(mode=0o755)
        try:
            for name, path in files.items():
                _link(path, making / name)
            with suppress(OSError):  # another thread was first
                making.rename(directory)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return Image(directory, _kernel_arguments(directory / MANIFEST) if MANIFEST in files else None)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy on another file system; readable by QEMU's user (images hold no secrets)."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
    mode = target.stat().st_mode & 0o777
    if mode & 0o444 != 0o444:
        target.chmod(mode | 0o444)


def _kernel_arguments(manifest: Path) -> str:
    try:
        arguments = json.loads(manifest.read_bytes())["kernel_arguments"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CloudError(
            f"{manifest} does not tell the kernel's arguments.", hint="Build the image again: sharewright image build."
        ) from error
    if isinstance(arguments, list):
        return " ".join(str(argument) for argument in arguments)
    return str(arguments)


def make_files(directory: Path, image: Image, files: Mapping[str, bytes]) -> None:
    """Everything that one instance needs, in its own new directory."""
    directory.mkdir(mode=0o711)
    try:
        write_atomically(directory / CONFIG_DRIVE, config_drive(files))
        if image.kernel_arguments is not None:
            for name in (KERNEL, INITRD):
                shutil.copyfile(image.directory / name, directory / name)
                (directory / name).chmod(0o600)
        _make_overlay(image.disk, directory / OVERLAY)
    except OSError as error:
        raise CloudCapacityExceeded(
            f"Cannot write the files of an instance: {error.strerror}.", hint="Free space in the state directory."
        ) from error


def _make_overlay(backing: Path, overlay: Path) -> None:
    try:
        result = subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(backing), str(overlay)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=QEMU_IMG_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise CloudError("qemu-img is not installed.", hint="Install the package qemu-utils.") from error
    except subprocess.TimeoutExpired as error:
        raise CloudError("qemu-img does not finish.", hint="Look at the host's disk.") from error
    if result.returncode:
        reason = result.stderr.strip()
        if "No space left" in reason:
            raise CloudCapacityExceeded(f"Cannot make a root disk: {reason}.", hint="Free space on the host.")
        raise CloudError(f"Cannot make a root disk on {backing}: {reason}.", hint="Is it a valid qcow2 image?")
    overlay.chmod(0o600)


def config_drive(files: Mapping[str, bytes]) -> bytes:
    """An ISO 9660 image labelled config-2 with the files below openstack/latest, with Rock Ridge and Joliet names."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="config-2")
    try:
        iso.add_directory("/OPENSTACK", rr_name="openstack", joliet_path="/openstack")
        iso.add_directory("/OPENSTACK/LATEST", rr_name="latest", joliet_path="/openstack/latest")
        for number, (name, content) in enumerate(sorted(files.items())):
            if not name or "/" in name:
                raise CloudError(f"{name!r} cannot be a file of the config drive.", hint="Use plain file names.")
            iso.add_fp(
                io.BytesIO(content),
                len(content),
                f"/OPENSTACK/LATEST/FILE{number:04d}.;1",
                rr_name=name,
                joliet_path=f"/openstack/latest/{name}",
            )
        output = io.BytesIO()
        iso.write_fp(output)
        return output.getvalue()
    finally:
        iso.close()


def remove_files(directory: Path) -> None:
    """Remove an instance's directory, or whatever of it there is."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise CloudError(f"Cannot remove {directory}.", hint="Remove it by hand.")


def remove_orphans(parent: Path, keep: Collection[str]) -> None:
    """Remove directories and files, named by instance id, of instances that are no more."""
    limit = time.time() - ORPHAN_SECONDS
    for path in parent.iterdir():
        with suppress(FileNotFoundError):
            if path.name.split(".")[0] not in keep and path.stat().st_mtime < limit:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def remove_unused_images(images: Path, used: Collection[Path]) -> None:
    """Remove adopted images that no instance's overlay rests on and that nobody is about to use."""
    limit = time.time() - ORPHAN_SECONDS
    for path in images.iterdir():
        with suppress(FileNotFoundError):
            if path not in used and path.stat().st_ctime < limit:
                shutil.rmtree(path, ignore_errors=True)
