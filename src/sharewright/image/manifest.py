"""``manifest.json`` of an image directory: what was built, from what, and how to boot it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from sharewright.errors import NotFound, SharewrightError

MANIFEST = "manifest.json"
ROOT = "root.qcow2"
KERNEL = "kernel"
INITRD = "initrd"


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """``hash`` is the recipe's; ``files`` are name → SHA-256; ``packages`` are name → version; ``kernel_arguments`` is
    the whole command line for a direct boot of ``kernel`` with ``initrd`` and ``root.qcow2`` as any disk."""

    hash: str
    suite: str
    kernel_version: str
    kernel_arguments: str
    root_uuid: str
    program_sha256: str
    program_identity: str
    files: dict[str, str]
    packages: dict[str, str]
    build_seconds: float
    format_version: int = 1


def read_manifest(image: Path) -> ImageManifest:
    """The manifest of an image directory. Raises NotFound when there is none, SharewrightError when it is damaged."""
    path = image / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=ImageManifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no service image in {image}.", hint="Build one: sharewright image build.") from error
    except (msgspec.DecodeError, OSError) as error:
        raise SharewrightError(
            f"{path} cannot be read: {error}.", hint="Build the image again: sharewright image build --force."
        ) from error


def write_manifest(image: Path, manifest: ImageManifest) -> None:
    """Write it so that it is on disk when this returns: it is what says that the image is whole."""
    with (image / MANIFEST).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
