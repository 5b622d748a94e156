"""``sharewright db upgrade`` and ``db current``"""

from __future__ import annotations

import argparse
from contextlib import closing

from sharewright.cli.options import Commands, add_command, add_group, open_store, read_settings


def add(commands: Commands) -> None:
    group = add_group(commands, "db", help="the database's tables")
    add_command(
        group,
        "upgrade",
        upgrade,
        help="bring the tables to this version; safe to repeat, and from several nodes at once",
        examples="  sharewright db upgrade",
    )
    add_command(group, "current", current, help="show the tables' revision; exit code 1 when an upgrade is due")


def upgrade(arguments: argparse.Namespace) -> int:
    from sharewright.store.migrations import migrate

    with closing(open_store(read_settings(arguments))) as store:
        print(migrate(store))
    return 0


def current(arguments: argparse.Namespace) -> int:
    from sharewright.store.migrations import current_revision, newest_revision

    with closing(open_store(read_settings(arguments))) as store:
        have, want = current_revision(store), newest_revision()
    if have == want:
        print(f"{have} (newest)")
        return 0
    print(f"{have or 'empty'}; this version needs {want}. Run: sharewright db upgrade")
    return 1
