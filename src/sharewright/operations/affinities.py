"""Which shares are to live together and which apart, kept in the metadata of all that a scheduler hint names, as Manila
does. Only administrators may change these keys; the scheduler goes by the hints themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from sharewright.store.tables import share_metadata, shares

_KEYS: Final[Mapping[str, str]] = {
    "same_host": "__affinity_same_host",
    "different_host": "__affinity_different_host",
}
ADMIN_METADATA: Final = tuple(_KEYS.values())
LONGEST: Final = 1023  # characters of a value, as everywhere in metadata; what would not fit is not kept


_AFFINE: Final = select(share_metadata.c.key).where(
    share_metadata.c.share_id == bindparam("share"), share_metadata.c.key.in_(ADMIN_METADATA)
)


def keep_affinities(tx: Connection, share_id: str, hints: Mapping[str, Any]) -> None:
    """Write the hints of a new share to its metadata, and the share to that of those that they name. ``hints``: ids of
    shares by the hint's name; others are left out."""
    for hint, key in _KEYS.items():
        named: Sequence[str] = hints.get(hint) or ()
        if named:
            _write(tx, share_id, key, list(dict.fromkeys(named)))
        for other in sorted(set(named)):  # one order, so that two requests do not wait for each other
            present = _read(tx, other, key)
            if share_id not in present:
                _write(tx, other, key, [*present, share_id])


def drop_affinities(tx: Connection, share_id: str) -> None:
    """Take a share that goes out of the metadata of the others. Its own goes with it."""
    named = tx.execute(_AFFINE, {"share": share_id}).scalars().all()  # of nearly every share: none
    for key in sorted(named):
        for other in sorted(set(_read(tx, share_id, key))):
            _write(tx, other, key, [each for each in _read(tx, other, key) if each != share_id])


def _read(tx: Connection, share_id: str, key: str) -> list[str]:
    """Locks the share's row when there is one: its metadata are not written by others until the transaction ends."""
    tx.execute(select(shares.c.id).where(shares.c.id == share_id).with_for_update())
    columns = share_metadata.c
    value = tx.execute(select(columns.value).where(columns.share_id == share_id, columns.key == key)).scalar()
    return [each.strip() for each in str(value).split(",") if each.strip()] if value else []


def _write(tx: Connection, share_id: str, key: str, ids: Sequence[str]) -> None:
    """Of a share that is gone nothing is written."""
    value = ",".join(ids)
    if len(value) > LONGEST or tx.execute(select(shares.c.id).where(shares.c.id == share_id)).first() is None:
        return
    columns = share_metadata.c
    tx.execute(share_metadata.delete().where(columns.share_id == share_id, columns.key == key))
    if ids:
        tx.execute(share_metadata.insert().values(share_id=share_id, key=key, value=value))
