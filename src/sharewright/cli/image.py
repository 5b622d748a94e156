"""``sharewright image build``, ``image check`` and ``image upload``"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sharewright.cli.options import (
    CommandFailed,
    Commands,
    add_command,
    add_group,
    prepare_state_dir,
    read_settings,
    tell,
)
from sharewright.cli.purge import Told
from sharewright.settings import Settings

if TYPE_CHECKING:
    from sharewright.clouds.openstack.images import Source


def add(commands: Commands) -> None:
    group = add_group(commands, "image", help="the service image")
    build_parser = add_command(
        group,
        "build",
        build,
        help="build the service image (root); quick when nothing has changed",
        examples="  sharewright image build\n  sharewright image build /srv/images/service --force\n"
        "  sharewright image build /srv/images/rsync --additions image.toml",
    )
    build_parser.add_argument("path", nargs="?", type=Path, help="directory to build (default: as configured)")
    build_parser.add_argument(
        "--additions",
        type=Path,
        metavar="FILE",
        help="TOML file with packages, files and units to add, for another share driver (docs/service-image.md)",
    )
    build_parser.add_argument("--force", action="store_true", help="build even when recipe and contents are unchanged")
    check_parser = add_command(
        group,
        "check",
        check,
        help="tell whether an image meets the service image requirements; exit code 1 when it does not",
        examples="  sharewright image check\n  sharewright image check /srv/images/our-own.qcow2",
    )
    check_parser.add_argument(
        "path", nargs="?", type=Path, help="image directory or .qcow2 file (default: as configured)"
    )
    upload_parser = add_command(
        group,
        "upload",
        upload,
        help="put the image into Glance, for the OpenStack cloud; quick when it is there",
        description="Put the service image into Glance, private to Sharewright's project. Backends whose image is\n"
        "empty use what was uploaded last. An earlier image stays, and servers made from it are not touched.",
        examples="  sharewright image upload\n  sharewright image upload /srv/images/our-own.qcow2",
    )
    upload_parser.add_argument(
        "path", nargs="?", type=Path, help="image directory or .qcow2 file (default: <state_dir>/images/service)"
    )
    upload_parser.add_argument(
        "--kernel",
        action="store_true",
        help="upload kernel and initrd beside the disk, for a direct boot: faster where there is no KVM",
    )


def image_path(settings: Settings) -> Path:
    """The image of the first backend that names a path, else the deployment's own."""
    paths = (backend.image for backend in settings.backends.values() if backend.cloud != "openstack")
    named = next((path for path in paths if path), "")
    return Path(named) if named else settings.state_path / "images" / "service"


def build(arguments: argparse.Namespace) -> int:
    from sharewright.image.additions import NO_ADDITIONS, read_additions
    from sharewright.image.build import build_image

    if arguments.additions and not arguments.path:
        raise CommandFailed(
            "An image with additions is one of its own.", hint="Say where: sharewright image build PATH --additions …"
        )
    additions = read_additions(arguments.additions) if arguments.additions else NO_ADDITIONS
    settings = read_settings(arguments)
    target: Path = arguments.path or image_path(settings)
    if not arguments.path:
        prepare_state_dir(settings)
    build_image(target, force=arguments.force, progress=tell, additions=additions)
    return 0


def check(arguments: argparse.Namespace) -> int:
    from sharewright.image.check import check_image

    path: Path = arguments.path or image_path(read_settings(arguments))
    findings = check_image(path)
    for finding in findings:
        print(f"{finding.severity:7} {finding.subject}: {finding.message}")
        if finding.hint:
            print(f"{'':7} → {finding.hint}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{path} {'is no service image' if errors else 'is a service image'}. Errors: {errors}.")
    return 1 if errors else 0


def upload(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    try:
        from sharewright.clouds.openstack.connection import Connection
        from sharewright.clouds.openstack.images import OpenStackImages
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"The OpenStack cloud needs the Python package {error.name}.", hint="pip install 'sharewright[openstack]'."
        ) from error
    path: Path = arguments.path or image_path(settings)
    source = image_source(path, kernel=arguments.kernel)
    connection = Connection(settings.openstack)
    try:
        print(OpenStackImages(connection, settings.deployment).upload(source, Told(tell)))
    finally:
        connection.close()
    return 0


def image_source(path: Path, *, kernel: bool) -> Source:
    """What to upload of an image directory or a file. Raises CommandFailed, NotFound."""
    from sharewright.clouds.openstack.images import Source
    from sharewright.image.build import ensure_image
    from sharewright.image.manifest import INITRD, KERNEL, ROOT

    if path.is_file():
        if kernel:
            raise CommandFailed(f"{path} has no kernel beside it.", hint="Name a directory made by image build.")
        return Source(disk=path)
    manifest = ensure_image(path)
    properties = {"sharewright_recipe": manifest.hash}
    if not kernel:
        return Source(disk=path / ROOT, properties=properties)
    return Source(
        disk=path / ROOT,
        kernel=path / KERNEL,
        initrd=path / INITRD,
        kernel_arguments=manifest.kernel_arguments,
        properties=properties,
    )
