"""Plain JSON values from outside, read strictly: each function returns the value with its type, or raises a Refusal
(invalid) that names the field."""

from __future__ import annotations

import ipaddress
import re

from .host import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def table(value: object, name: str, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Refusal("invalid", f"{name} is not an object.")
    for key in required:
        if key not in value:
            raise Refusal("invalid", f"{name} lacks {key}.")
    for key in value:
        if key not in required and key not in optional:
            raise Refusal("invalid", f"{name} has an unknown field {str(key)[:40]!r}.")
    return value


def items(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise Refusal("invalid", f"{name} is not a list.")
    return value


def text(value: object, name: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected {pattern.pattern}.")
    return value


def boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        wrong(name, value, "true or false")
    return value


def seconds(value: object, name: str, longest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= longest:
        wrong(name, value, f"seconds up to {longest:g}")
    return float(value)


def integer(value: object, name: str, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected a number from {lowest} to {highest}.")
    return value


def one_of(value: object, name: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected one of {', '.join(choices)}.")
    return value


def network(value: object, name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or CIDR; host bits, zones and IPv4-mapped IPv6 are refused."""
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")
        parsed = ipaddress.ip_network(value)
        if isinstance(parsed, ipaddress.IPv6Network):
            if "%" in value:
                raise ValueError("has a zone")
            if parsed.network_address.ipv4_mapped is not None:
                raise ValueError("is an IPv4 address in IPv6 clothes")
    except ValueError as error:
        wrong(name, value, f"an address or CIDR without host bits ({error})")
    return parsed


def wrong(name: str, value: object, expected: str) -> NoReturn:
    raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected {expected}.")
