"""``sharewright version``"""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

from sharewright.cli.options import Commands, add_command


def add(commands: Commands) -> None:
    add_command(commands, "version", show, help="show the version")


def show(_arguments: argparse.Namespace) -> int:
    print(f"sharewright {version('sharewright')} (Python {platform.python_version()})")
    return 0
