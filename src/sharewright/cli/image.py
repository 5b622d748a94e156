"""``sharewright image build`` and ``image check``"""

from __future__ import annotations

import argparse
from pathlib import Path

from sharewright.cli.options import Commands, add_command, add_group, prepare_state_dir, read_settings, tell
from sharewright.settings import Settings


def add(commands: Commands) -> None:
    group = add_group(commands, "image", help="the service image")
    build_parser = add_command(
        group,
        "build",
        build,
        help="build the service image (root); quick when nothing has changed",
        examples="  sharewright image build\n  sharewright image build /srv/images/service --force",
    )
    build_parser.add_argument("path", nargs="?", type=Path, help="directory to build (default: as configured)")
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


def image_path(settings: Settings) -> Path:
    """The image of the first backend that names one, else the deployment's own."""
    named = next((backend.image for backend in settings.backends.values() if backend.image), "")
    return Path(named) if named else settings.state_path / "images" / "service"


def build(arguments: argparse.Namespace) -> int:
    from sharewright.image.build import build_image

    settings = read_settings(arguments)
    target: Path = arguments.path or image_path(settings)
    if not arguments.path:
        prepare_state_dir(settings)
    build_image(target, force=arguments.force, progress=tell)
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
