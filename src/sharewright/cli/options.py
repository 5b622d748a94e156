"""What the subcommands share: the configuration, the state directory, the store, the form of help and output."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from sharewright.configuration_file import load
from sharewright.errors import ConfigurationError, SharewrightError
from sharewright.secret_files import read_secret
from sharewright.settings import Backend, Settings

if TYPE_CHECKING:
    from sharewright.store.database import Store

DEFAULT_CONFIGURATION = Path("/etc/sharewright/sharewright.toml")
CONFIGURATION_VARIABLE = "SHAREWRIGHT_CONFIG"
MARKER = ".sharewright"  # a file that tells our state directory from any other, for `sharewright purge`

Run: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class CommandFailed(SharewrightError):
    """The command could not do what it was asked. ``str()`` is for the user."""


def add_command(commands: Commands, name: str, run: Run | None, *, help: str, **more: str) -> argparse.ArgumentParser:
    """A subcommand. ``more``: ``description`` and ``examples`` for its help page."""
    examples = more.get("examples", "")
    parser = commands.add_parser(
        name,
        help=help,
        description=more.get("description", help[:1].upper() + help[1:] + "."),
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_global_options(parser, default=argparse.SUPPRESS)
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_group(commands: Commands, name: str, *, help: str) -> Commands:
    """A group of subcommands, one of which must be named."""
    parser = add_command(commands, name, None, help=help)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_global_options(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Options that may stand before or after the subcommand."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=default,
        help=f"configuration file (default: ${CONFIGURATION_VARIABLE}, else {DEFAULT_CONFIGURATION} if there is one)",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=False if default is None else default,
        help="log at level debug, and show a traceback when the command fails",
    )


def configuration_file(arguments: argparse.Namespace) -> Path | None:
    """The configuration file that applies, or None for the defaults."""
    named = arguments.config or os.environ.get(CONFIGURATION_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_CONFIGURATION if DEFAULT_CONFIGURATION.exists() else None


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The configuration, with one libvirt backend when it names none. Raises ConfigurationError."""
    path = configuration_file(arguments)
    return with_default_backend(load(path) if path else Settings())


def with_default_backend(settings: Settings) -> Settings:
    return settings if settings.backends else msgspec.structs.replace(settings, backends={"libvirt": Backend()})


def prepare_state_dir(settings: Settings) -> Path:
    """Make the state directory and put our marker in it. Others may pass through it (QEMU does) but not list it."""
    path = settings.state_path
    try:
        with suppress(FileExistsError):  # also when another process that starts now was quicker
            path.mkdir(parents=True, mode=0o711)
            path.chmod(0o711)
        (path / MARKER).touch(mode=0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {path} cannot be used: {error.strerror or error}.",
            hint="Run as root, or name a directory of your own as state_dir.",
        ) from error
    return path


@contextmanager
def state_dir_in_use(settings: Settings) -> Iterator[None]:
    """Hold the state directory, together with any number of other processes, against ``sharewright purge``. Does not
    touch it where nothing is kept in it."""
    if not settings.keeps_files:
        yield
        return
    with (prepare_state_dir(settings) / MARKER).open("rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(f"{settings.state_dir} is being purged.", hint="Wait for its end.") from None
        yield


@contextmanager
def state_dir_for_purge(settings: Settings) -> Iterator[None]:
    """Hold the state directory alone, if there is one. Raises CommandFailed while a process of ours uses it."""
    path = settings.state_path / MARKER
    if not path.exists():
        yield
        return
    with path.open("rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(
                f"A process of Sharewright uses {settings.state_dir}.",
                hint="Stop the service first (./quickstart --down, systemctl stop sharewright).",
            ) from None
        yield


def open_store(settings: Settings, **shared: Any) -> Store:
    """The configured database, its directory made and its file private. The caller closes it. ``shared``: what the
    store shares with other processes, see Store."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from sharewright.store.database import Store

    if not settings.database.url:
        prepare_state_dir(settings)
    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise ConfigurationError(
            "database.url is not a database URL.",
            hint="Expected sqlite:////path/to/file or postgresql://user:password@host/name.",
        ) from error
    if url.get_backend_name() == "sqlite" and url.database:
        try:
            Path(url.database).touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The database file {url.database} cannot be used: {error.strerror or error}.",
                hint="Make its directory, or run as a user who may write there.",
            ) from error
    if settings.database.password_file:
        url = url.set(password=read_secret("database.password_file", settings.database.password_file))
    return Store(url.render_as_string(hide_password=False), pool_size=settings.database.pool_size, **shared)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table on standard output."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(headings), *cells]) for column in range(len(headings))]
    for row in [list(headings), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def tell(text: str) -> None:
    """A line for the person at the terminal, not part of the result."""
    print(text, file=sys.stderr, flush=True)
