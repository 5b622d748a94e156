"""``sharewright server key|program``: what an operator puts on a machine that a backend is to have its shares on."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharewright.cli.options import CommandFailed, Commands, add_command, add_group, read_settings, tell
from sharewright.secret_files import CREDENTIAL, read_key_file, secret_file
from sharewright.service_instance.keys import GUEST_COMMAND, authorized_keys_line, new_key_pair, public_of


def add(commands: Commands) -> None:
    group = add_group(commands, "server", help="a machine of yours that has all shares of a backend")
    key = add_command(
        group,
        "key",
        print_key,
        help="the line of authorized_keys that lets the controllers in, for the guest program only",
        description="Print the line; make the backend's key_file first where there is none.",
        examples="  sharewright server key common | ssh root@nas 'cat >> /root/.ssh/authorized_keys'",
    )
    key.add_argument("backend")
    program = add_command(
        group,
        "program",
        write_program,
        help="write the guest program, for /usr/lib/sharewright/sharewright-guest there (mode 0755)",
        examples="  sharewright server program sharewright-guest",
    )
    program.add_argument("file", type=Path)


def print_key(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    backend = settings.backends.get(arguments.backend)
    if backend is None or backend.driver_handles_share_servers:
        named = [name for name, each in settings.backends.items() if not each.driver_handles_share_servers]
        raise CommandFailed(
            f"There is no backend {arguments.backend} with a machine of yours.",
            hint=f"Those with driver_handles_share_servers = false are: {', '.join(named) or 'none'}.",
        )
    server = backend.server
    path = secret_file(server.key_file)
    if not path.exists() and not server.key_file.startswith(CREDENTIAL):
        path.touch(mode=0o600)
        path.write_text(new_key_pair().private)
        tell(f"{path} is made; only the workers need it.")
    private = read_key_file(f"backends.{arguments.backend}.server.key_file", server.key_file)
    command = GUEST_COMMAND if server.ssh_user == "root" else f"sudo -n {GUEST_COMMAND}"
    print(authorized_keys_line(public_of(private), command=command))
    return 0


def write_program(arguments: argparse.Namespace) -> int:
    from sharewright.guest.package import build_program

    path: Path = arguments.file
    path.write_bytes(build_program())
    path.chmod(0o755)
    return 0
