"""``sharewright purge``: delete everything of this deployment."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sharewright.cli.options import (
    MARKER,
    CommandFailed,
    Commands,
    add_command,
    read_settings,
    state_dir_for_purge,
    tell,
)
from sharewright.progress import NoProgress
from sharewright.settings import Settings

if TYPE_CHECKING:
    from sharewright.clouds.libvirt.cloud import LibvirtCloud

FILES_OF_OTHERS = Path("libvirt/volumes")  # in the state directory: after a purge, what was disowned
Say = Callable[[str], None]


class Told(NoProgress):
    """Progress that tells each step."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    @contextmanager
    def step(self, name: str, *, brief: bool = False) -> Iterator[None]:
        self._say(name)
        yield


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "purge",
        run,
        help="delete everything of this deployment, SHARES AND THEIR DATA included",
        description="Delete everything of this deployment: virtual machines, volumes with the data of all shares,\n"
        "networks, packet filters, the daemons that Sharewright started, and the state directory with the database.\n"
        "Stop the service first. What carries another deployment's tag, or none, is not touched.",
        examples="  sudo sharewright purge\n  sudo sharewright --config /srv/test.toml purge --yes",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise CommandFailed("purge deletes all shares and asks first.", hint="Without a terminal, say --yes.")
        tell(f"This deletes all shares of deployment {settings.deployment} with their data, and {settings.state_dir}.")
        if input(f"Type the deployment's name ({settings.deployment}) to go on: ").strip() != settings.deployment:
            raise CommandFailed("Nothing was deleted.")
    with state_dir_for_purge(settings):
        purge_deployment(settings, tell)
    return 0


def purge_deployment(settings: Settings, say: Say) -> None:
    """Delete what this deployment has in its clouds, end the daemons it started, remove the state directory.

    May be called again after a failure; what is gone already is not an error.
    """
    if (
        any(backend.cloud == "libvirt" for backend in settings.backends.values())
        or (settings.state_path / "libvirt").exists()
    ):
        with libvirt_cloud(settings) as cloud:
            cloud.purge(Told(say))
            cloud.stop_daemons()
    if any(backend.cloud == "openstack" for backend in settings.backends.values()):
        from sharewright.clouds.openstack.cloud import OpenStackCloud

        with closing(OpenStackCloud(settings.openstack, deployment=settings.deployment)) as openstack:
            openstack.purge(Told(say))
    for path in own_files(settings):
        path.unlink(missing_ok=True)
    remove_state_dir(settings.state_path)
    if settings.state_path.exists():
        say(f"Kept, because not all files there are of this deployment: {settings.state_path / FILES_OF_OTHERS}.")


def power_off(settings: Settings, say: Say) -> None:
    """Power off every virtual machine of this deployment and end the daemons it started. Everything is kept."""
    with libvirt_cloud(settings) as cloud:
        cloud.stop(Told(say))
        cloud.stop_daemons()


@contextmanager
def libvirt_cloud(settings: Settings) -> Iterator[LibvirtCloud]:
    from sharewright.clouds.libvirt.cloud import LibvirtCloud

    cloud = LibvirtCloud(settings.libvirt, deployment=settings.deployment, state_dir=settings.state_path)
    with closing(cloud):
        yield cloud


def own_files(settings: Settings) -> list[Path]:
    """Files outside the state directory that are this deployment's alone."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return []  # a PostgreSQL database is the operator's to drop
    return [Path(url.database + suffix) for suffix in ("", "-wal", "-shm")]


def remove_state_dir(path: Path) -> None:
    """Remove the directory if our marker is in it. Raises CommandFailed for one that is not ours.

    What a purge of the libvirt cloud left of its volumes is not the deployment's: it stays, and the marker with it.
    """
    if not path.exists():
        return
    if not (path / MARKER).exists():
        if not any(path.iterdir()):
            path.rmdir()
            return
        raise CommandFailed(
            f"{path} is not removed: it lacks our mark ({MARKER}), so it may be somebody else's.",
            hint=f"If it is Sharewright's: rm -r {path}",
        )
    volumes = path / FILES_OF_OTHERS
    keep = {path / MARKER}  # the marker goes last, so that an interrupted removal can be repeated
    if volumes.is_dir() and any(volumes.iterdir()):
        keep |= {volumes.parent, volumes}
        _remove_children(volumes.parent, keep)
    _remove_children(path, keep)
    if len(keep) == 1:
        (path / MARKER).unlink()
        path.rmdir()


def _remove_children(path: Path, keep: set[Path]) -> None:
    for child in path.iterdir():
        if child in keep:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
