"""What access rules a share may have, by its protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, or_, select

from sharewright.errors import InvalidInput
from sharewright.services.validation import check_address
from sharewright.states import AccessState
from sharewright.store.tables import share_access_rules, share_instances, share_snapshot_access_rules

_BY_PROTOCOL: Final[Mapping[str, tuple[str, ...]]] = {"CIFS": ("ip", "user")}
_OTHERS: Final = ("ip",)
_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{3,27}")


def check_access_to(kind: str, protocol: str, value: str) -> str:
    """``access_to`` of a rule as it is kept: an address in canonical form, a user's name as it was given. InvalidInput,
    also when the protocol has no rules of this type."""
    kinds = _BY_PROTOCOL.get(protocol, _OTHERS)
    if kind not in kinds:
        raise InvalidInput(
            f"Access type '{kind}' is not supported by the share's protocol, {protocol}; use {' or '.join(kinds)}."
        )
    return check_user(value) if kind == "user" else check_address(value)


def check_user(value: str) -> str:
    """A user name as it was given, without space around it. SMB knows no upper and lower case in names, so whoever
    compares two compares same_client() of them. Fewer than Manila's names, which has 4 to 255 characters of more kinds:
    they become accounts of the share server."""
    name = value.strip()
    if not _USER.fullmatch(name):
        raise InvalidInput(
            f"Invalid user name '{value[:64]}'. Must be 4-28 characters, letters, digits, '.', '_' and '-', the first a"
            " letter or digit."
        )
    return name


def same_client(access_to: str) -> str:
    """What the ``access_to`` of all rules for one client have in common: upper and lower case do not differ, in
    addresses neither. A share has one rule for a client. In SQL: func.lower()."""
    return access_to.lower()


def check_cifs_snapshot_rule(tx: Connection, share: Mapping[str, Any], snapshot_id: str, kind: str) -> None:
    """The same for a rule of a CIFS share's snapshot; all of those are for reading. The snapshot's row is locked."""
    if share["protocol"] != "CIFS":
        return
    _check_guests(tx, share["id"], kind)
    rules = share_snapshot_access_rules.c
    other = tx.execute(
        select(rules.access_type, rules.access_to)
        .where(
            rules.snapshot_id == snapshot_id,
            rules.state.not_in((*AccessState.LEAVING, AccessState.ERROR)),
            rules.access_type != kind,
        )
        .limit(1)
    ).first()
    if other is not None:
        raise InvalidInput(
            f"A CIFS share's snapshot has rules of one type, and {other.access_type}:{other.access_to} is of another.",
            hint="Deny those rules first.",
        )


def check_cifs_rule(tx: Connection, share: Mapping[str, Any], kind: str, level: str, *, but: str | None = None) -> None:
    """Refuse a rule that a CIFS share cannot honour, as it is or beside those it has. Samba gives all guests of a share
    one level, and a share that some open with a password must not be open to guests. The share's row is locked.
    ``but``: the id of a rule that this is instead of."""
    if share["protocol"] != "CIFS":
        return
    _check_guests(tx, share["id"], kind)
    rules = share_access_rules.c
    unlike = rules.access_type != kind
    other = tx.execute(
        select(rules.access_type, rules.access_to, rules.access_level)
        .where(
            rules.share_id == share["id"],
            rules.id != (but or ""),
            rules.state.not_in((*AccessState.LEAVING, AccessState.ERROR)),
            or_(unlike, rules.access_level != level) if kind == "ip" else unlike,
        )
        .limit(1)
    ).first()
    if other is None:
        return
    hint = "Deny those rules first, or use another share."
    if other.access_type != kind:
        raise InvalidInput(
            f"A CIFS share has rules of one type, and {other.access_type}:{other.access_to} is of another.", hint=hint
        )
    raise InvalidInput(
        f"All ip rules of a CIFS share have one access level, and the one for {other.access_to} is"
        f" {other.access_level}.",
        hint=hint,
    )


def _check_guests(tx: Connection, share_id: str, kind: str) -> None:
    if kind == "ip" and _requires_encryption(tx, share_id):
        raise InvalidInput(
            "The share's type requires encryption, which guests cannot do.", hint="Give access to users instead."
        )


def _requires_encryption(tx: Connection, share_id: str) -> bool:
    column = share_instances.c.smb_encryption
    query = select(column).where(share_instances.c.share_id == share_id, column == "required").limit(1)
    return tx.execute(query).first() is not None
