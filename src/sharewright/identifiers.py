"""Identifiers and names that cloud objects get from ours, so that any worker finds what another one made."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime


def new_id() -> str:
    """A random UUID4 in canonical form."""
    return str(uuid.uuid4())


def is_id(value: object) -> bool:
    """Whether value is a UUID in canonical, dashed form."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def derived_id(*parts: str) -> str:
    """A UUID that the same parts always give (RFC 9562 version 5), for names that must be found again."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "sharewright:" + "\x1f".join(parts)))


def short_hash(*parts: str, length: int = 10) -> str:
    """A short lower-case hexadecimal digest, for names with a length limit (IFNAMSIZ is 16 with the NUL)."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:length]


def utcnow() -> datetime:
    """The current time in UTC without a zone, as the store keeps it and Manila prints it."""
    return datetime.now(UTC).replace(tzinfo=None)
