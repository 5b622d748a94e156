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
_MAXIMUM_PATH: Final = 4096  # no URL of ours is longer


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request that is allowed."""

    service: str
    method: str
    path: str

    def allows(self, method: str, path: str) -> bool:
        return self.service in SERVICE_TYPES and self.method == method and matches(self.path, path)


def allowed(rules: Sequence[AccessRule], method: str, path: str) -> bool:
    """Whether any rule allows the request. No rules allow nothing."""
    return any(rule.allows(method, path) for rule in rules)


def matches(pattern: str, path: str) -> bool:
    """Whether a rule's path fits. Tenants write the rules, so this takes time in proportion to both lengths, which a
    regular expression with many wildcards does not."""
    if len(path) > _MAXIMUM_PATH:
        return False
    ends = {0}  # where in the path the parts so far may end
    for anything, one_segment, literal in _PARTS.findall(pattern):
        if not ends:
            return False
        if anything:
            ends = set(range(min(ends), len(path) + 1))
        elif one_segment:
            begins, ends = ends, set()
            for index, character in enumerate(path):
                if character != "/" and (index in begins or index in ends):
                    ends.add(index + 1)
        else:
            ends = {end + len(literal) for end in ends if path.startswith(literal, end)}
    return len(path) in ends
