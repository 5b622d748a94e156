"""Access rules of application credentials: a token that may be used for some requests only.

A rule names a service type, an HTTP method and a path. In the path ``*`` and ``{name}`` stand for one segment or a part
of one, ``**`` for anything (Keystone's API reference, "Application credentials", and keystonemiddleware).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

# What this service is called in a catalogue: its type, and the alias that older clients use.
SERVICE_TYPES: Final = ("shared-file-system", "sharev2")

_PARTS: Final = re.compile(r"(\*\*)|(\{[^}]*\}|\*)|([^*{]+|\{)")


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request that is allowed."""

    service: str
    method: str
    path: str

    def allows(self, method: str, path: str) -> bool:
        return self.service in SERVICE_TYPES and self.method == method and bool(_expression(self.path).fullmatch(path))


def allowed(rules: Sequence[AccessRule], method: str, path: str) -> bool:
    """Whether any rule allows the request. No rules allow nothing."""
    return any(rule.allows(method, path) for rule in rules)


def _expression(path: str) -> re.Pattern[str]:
    """A rule's path as a regular expression."""
    text = ""
    for anything, one_segment, literal in _PARTS.findall(path):
        text += ".*" if anything else "[^/]+" if one_segment else re.escape(literal)
    return re.compile(text)
