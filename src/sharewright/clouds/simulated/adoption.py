"""Taking over volumes and snapshots that are nobody's, and letting go of them."""

from __future__ import annotations

import sqlite3
from typing import Literal

from sharewright.clouds.contract import TAG_DEPLOYMENT, Tags
from sharewright.clouds.simulated.state import dump, load
from sharewright.errors import CloudError, CloudObjectMissing

NOBODY = ""  # the deployment of what is no deployment's

# As literals, so that no statement is built from data.
_BY_ID = {"volume": "SELECT * FROM volumes WHERE id = ?", "snapshot": "SELECT * FROM snapshots WHERE id = ?"}
_BY_NAME = {"volume": "SELECT * FROM volumes WHERE name = ?", "snapshot": "SELECT * FROM snapshots WHERE name = ?"}
_NAMED = {
    "volume": "SELECT * FROM volumes WHERE deployment = ? AND name = ?",
    "snapshot": "SELECT * FROM snapshots WHERE deployment = ? AND name = ?",
}
_TAKE = {
    "volume": "UPDATE volumes SET deployment = ?, name = ?, tags = ? WHERE id = ?",
    "snapshot": "UPDATE snapshots SET deployment = ?, name = ?, tags = ? WHERE id = ?",
}


def adopt(
    tx: sqlite3.Connection,
    kind: Literal["volume", "snapshot"],
    reference: str,
    name: str,
    tags: Tags,
    *,
    holder: str | None = None,
) -> sqlite3.Row:
    """The row of what ``reference`` names, now ours under ``name``. Errors as in the contract."""
    deployment = tags[TAG_DEPLOYMENT]
    ours: sqlite3.Row | None = tx.execute(_NAMED[kind], (deployment, name)).fetchone()
    row: sqlite3.Row | None = tx.execute(_BY_ID[kind], (reference,)).fetchone()
    if row is None:
        named = tx.execute(_BY_NAME[kind], (reference,)).fetchall()
        if len(named) > 1:
            raise CloudError(f"{len(named)} {kind}s are called {reference}.", hint="Name it by its id.")
        row = named[0] if named else ours  # which had that name until it was adopted
    if row is None:
        raise CloudObjectMissing(f"There is no {kind} {reference}.", hint="Name it by its id or by its name.")
    if row["deployment"] == deployment and row["name"] == name:
        return row
    if row["deployment"] == deployment:
        raise CloudError(f"The {kind} {reference} is ours already, as {row['name']}.", hint="Disown it first.")
    if row["deployment"] != NOBODY:
        raise CloudError(f"The {kind} {reference} is another deployment's.", hint="Have it disowned there first.")
    if ours is not None:
        raise CloudError(f"There is another {kind} {name} of ours.", hint="Delete or disown that first.")
    if kind == "volume" and row["instance_id"] not in (None, holder):
        raise CloudError(f"Volume {reference} is attached to instance {row['instance_id']}.", hint="Detach it first.")
    if kind == "snapshot":
        owner = tx.execute("SELECT deployment FROM volumes WHERE id = ?", (row["volume_id"],)).fetchone()
        if owner["deployment"] != deployment:
            raise CloudError(f"Snapshot {reference} is not one of a volume of ours.", hint="Adopt its volume first.")
    tx.execute(_TAKE[kind], (deployment, name, dump({**load(row["tags"]), **tags}), row["id"]))
    taken: sqlite3.Row = tx.execute(_BY_ID[kind], (row["id"],)).fetchone()
    return taken


def without_ours(tags: str) -> str:
    """Stored tags less our own."""
    return dump({key: value for key, value in load(tags).items() if not key.startswith(TAG_DEPLOYMENT)})
