"""Write a new revision from the difference between tables.py and the revisions so far.

``--initial`` writes the first revision anew instead: right only until the first release, because databases that were
made by the old text are not upgraded by the new one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from alembic import command

from sharewright.store.database import Store
from sharewright.store.migrations import configuration, migrate, newest_revision

VERSIONS = Path(__file__).parent / "versions"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sharewright.store.migrations", description=__doc__)
    parser.add_argument("--initial", action="store_true", help="write the first revision anew")
    parser.add_argument("message", nargs="?", default="initial tables")
    arguments = parser.parse_args()
    if arguments.initial:
        for script in VERSIONS.glob("[0-9]*.py"):
            script.unlink()
    with tempfile.TemporaryDirectory() as directory:
        store = Store(f"sqlite:///{Path(directory) / 'scratch.db'}")
        newest = newest_revision()
        if newest is not None:
            migrate(store)
        with store.begin() as tx:
            command.revision(
                configuration(tx), arguments.message, autogenerate=True, rev_id=f"{int(newest or 0) + 1:04d}"
            )
        store.close()


if __name__ == "__main__":
    main()
