"""``sharewright config show|check|reference|upstream|metrics``"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from sharewright.cli.options import (
    Commands,
    add_command,
    add_group,
    configuration_file,
    read_settings,
    with_default_backend,
)
from sharewright.cli.reference import reference, toml
from sharewright.cli.upstream_options import upstream_options
from sharewright.configuration_file import load
from sharewright.logging import redact, without_secrets


def add(commands: Commands) -> None:
    group = add_group(commands, "config", help="the configuration")
    add_command(
        group,
        "show",
        show,
        help="print the configuration in force, defaults included",
        examples="  sharewright config show\n  sharewright --config /etc/sharewright/sharewright.toml config show",
    )
    check_parser = add_command(group, "check", check, help="check a configuration file; exit code 2 when it is wrong")
    check_parser.add_argument("file", nargs="?", help="default: the one that --config or the environment names")
    add_command(group, "reference", print_reference, help="print the reference page of all keys (Markdown)")
    add_command(group, "upstream", print_upstream, help="print what became of upstream's options (Markdown)")
    add_command(group, "metrics", print_metrics, help="print the reference page of all metrics (Markdown)")


def show(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    print(f"# {configuration_file(arguments) or 'defaults; there is no configuration file'}")
    print(without_secrets(toml(redact(msgspec.to_builtins(settings)))), end="")
    return 0


def check(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file) if arguments.file else configuration_file(arguments)
    if path is None:
        print("There is no configuration file; the defaults apply.")
        return 0
    settings = with_default_backend(load(path))
    print(f"{path} is right. Backends: {', '.join(settings.backends)}.")
    return 0


def print_reference(_arguments: argparse.Namespace) -> int:
    print(reference(), end="")
    return 0


def print_upstream(_arguments: argparse.Namespace) -> int:
    print(upstream_options(), end="")
    return 0


def print_metrics(_arguments: argparse.Namespace) -> int:
    from sharewright.metrics import reference as metrics_reference

    print(metrics_reference.reference(), end="")
    return 0
