"""Extra specs of a share type against a pool's capabilities, with Manila's operators.

``capabilities:name`` and unscoped ``name`` count, and ``sharewright:name`` (type_specs.py); any other ``scope:name`` is
a driver's own affair. Operators: none
(equal), ``=`` (at least), ``== != >= <=`` (numbers), ``s== s!= s< s<= s> s>=`` (text), ``<in>`` (contains), ``<is>``
(boolean), ``<or> a <or> b``. A capability that is a list satisfies when any element does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from sharewright.operations.type_specs import SCOPE, unoffered

_NOT_CAPABILITIES: Final = frozenset({"availability_zones"})  # a check of its own in the scheduler
# A type that says False to one of these only hides the feature; a backend that has it will do.
_FEATURES: Final = frozenset(
    {
        "snapshot_support",
        "create_share_from_snapshot_support",
        "revert_to_snapshot_support",
        "mount_snapshot_support",
        "snapshot_inherit_share_access_support",
        "mount_point_name_support",
    }
)
# What Manila's scheduler says of a pool whose driver says nothing of it; clients take them for granted.
_UNSAID: Final[Mapping[str, Any]] = {
    "replication_type": None,
    "replication_domain": None,
    "snapshot_inherit_share_access_support": False,
    "share_replicas_migration_support": False,
    "encryption_support": None,
    "qos_type_support": None,
}
_NUMBERS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
}
_TRUE: Final = frozenset({"1", "t", "true", "on", "y", "yes"})


def completed(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """A driver's report on a pool with what every pool has."""
    groups = capabilities.get("share_group_stats") or {}
    return {
        **_UNSAID,
        "sg_consistent_snapshot_support": groups.get("consistent_snapshot_support"),
        **capabilities,
    }


def unsatisfied(extra_specs: Mapping[str, str], capabilities: Mapping[str, Any]) -> str:
    """What the first extra spec in the way asks for, as a sentence part; empty when all are satisfied."""
    for key, wanted in sorted(extra_specs.items()):
        scope, separator, rest = key.partition(":")
        if separator and scope == SCOPE:
            failure = unoffered(rest, wanted, capabilities)
            if failure:
                return failure
        if separator and scope != "capabilities":
            continue
        name = rest if separator else key
        if name in _NOT_CAPABILITIES or (name in _FEATURES and not is_true(wanted)):
            continue
        found, value = _look_up(capabilities, name)
        if not found:
            return f"extra spec {name} = {wanted}: the backend has no such capability"
        if not satisfies(value, wanted):
            return f"extra spec {name} = {wanted}: the backend has {value}"
    return ""


def satisfies(value: Any, wanted: str) -> bool:
    """Whether one capability's value meets one extra spec's text."""
    if isinstance(value, list | tuple):
        return any(satisfies(element, wanted) for element in value)
    words = wanted.split()
    sign = words[0] if words else ""
    rest = words[1:]
    if sign == "<or>":
        return any(str(value) == choice.strip() for choice in wanted.split("<or>") if choice.strip())
    if sign == "<is>":
        return len(rest) == 1 and is_true(str(value)) == is_true(rest[0])
    if sign == "<in>":
        return bool(rest) and " ".join(rest) in str(value)
    if sign in _TEXTS:
        return bool(rest) and _TEXTS[sign](str(value), " ".join(rest))
    if sign in _NUMBERS:
        try:
            return len(rest) == 1 and _NUMBERS[sign](float(value), float(rest[0]))
        except (TypeError, ValueError):
            return False
    if isinstance(value, bool):
        return value == is_true(wanted)
    return str(value) == wanted


def is_true(text: str) -> bool:
    """``True``, ``<is> True``, ``yes``, ``1`` … in any case."""
    return text.removeprefix("<is>").strip().lower() in _TRUE


def _look_up(capabilities: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """A capability by its name; ``a:b`` looks for b inside the dictionary a."""
    value: Any = capabilities
    for part in name.split(":"):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value
