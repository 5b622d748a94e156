"""``sharewright user add|list|remove``: the password file of the identity modes http_basic and builtin."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sharewright.cli.options import (
    CommandFailed,
    Commands,
    add_command,
    add_group,
    prepare_state_dir,
    print_table,
    read_settings,
)
from sharewright.settings import Settings

if TYPE_CHECKING:
    from sharewright.api.identity.users import Users


def add(commands: Commands) -> None:
    group = add_group(commands, "user", help="named users, for the identity modes http_basic and builtin")
    parser = add_command(
        group,
        "add",
        add_user,
        help="add a user, or give an existing one a new password and further roles",
        examples="  sharewright user add alice --project research\n"
        "  sharewright user add root --project operations --role admin\n"
        "  pass show alice | sharewright user add alice --project research --password-stdin",
    )
    parser.add_argument("name")
    parser.add_argument("--project", required=True, help="project in which the user gets the roles")
    parser.add_argument(
        "--role",
        action="append",
        choices=["admin", "member", "reader"],
        help="may be repeated (default: member)",
    )
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input instead of asking for it"
    )
    listing = add_command(group, "list", list_users, help="list users, their projects and roles")
    listing.add_argument("--json", action="store_true", help="print JSON")
    remove = add_command(group, "remove", remove_user, help="remove a user; its shares stay")
    remove.add_argument("name")


def user_file(settings: Settings) -> Path:
    """The password file that applies."""
    return Path(settings.identity.user_file) if settings.identity.user_file else settings.state_path / "users.json"


def add_user(arguments: argparse.Namespace) -> int:
    from sharewright.api.identity.users import User, hash_password, write_users

    settings = read_settings(arguments)
    path = user_file(settings)
    users = _read(path)
    password = read_password(arguments.password_stdin)
    roles = dict(existing.roles if (existing := users.get(arguments.name)) else {})
    roles[arguments.project] = tuple(arguments.role or ["member"])
    try:
        user = msgspec.convert({"name": arguments.name, "password_hash": hash_password(password), "roles": roles}, User)
    except msgspec.ValidationError:
        raise CommandFailed(
            f"{arguments.name!r} in project {arguments.project!r} cannot be a user.",
            hint="Names consist of letters, digits and _ . -; user names also of @; at most 64 characters.",
        ) from None
    if not settings.identity.user_file:
        prepare_state_dir(settings)
    write_users(path, users.with_user(user))
    return 0


def list_users(arguments: argparse.Namespace) -> int:
    users = _read(user_file(read_settings(arguments)))
    if arguments.json:
        rows = [{"name": user.name, "roles": user.roles, "enabled": user.enabled} for user in users.users]
        print(msgspec.json.encode(rows).decode())
    else:
        print_table(
            ("name", "project", "roles", "enabled"),
            [
                (user.name, project, " ".join(roles), "yes" if user.enabled else "no")
                for user in users.users
                for project, roles in user.roles.items()
            ],
        )
    return 0


def remove_user(arguments: argparse.Namespace) -> int:
    from sharewright.api.identity.users import write_users

    path = user_file(read_settings(arguments))
    users = _read(path)
    if users.get(arguments.name) is None:
        raise CommandFailed(f"There is no user {arguments.name} in {path}.", hint="See them: sharewright user list")
    write_users(path, users.without_user(arguments.name))
    return 0


def read_password(from_stdin: bool) -> str:
    """The password, from standard input (its first line) or asked for twice at the terminal."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise CommandFailed("There is no terminal to ask for the password.", hint="Use --password-stdin.")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise CommandFailed("The two passwords differ.", hint="Nothing was changed; try again.")
    return password


def _read(path: Path) -> Users:
    from sharewright.api.identity.users import Users, read_users

    return read_users(path) if path.exists() else Users()
