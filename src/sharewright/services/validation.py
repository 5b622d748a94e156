"""What values may be, with Manila's limits and messages. Every function returns the canonical value or raises."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final

from msgspec import Meta

from sharewright.errors import InvalidInput
from sharewright.identifiers import is_id
from sharewright.operations.type_specs import check_type_specs

Text255 = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]

ACCESS_LEVELS: Final = ("rw", "ro")
_KNOWN_ACCESS_TYPES: Final = ("ip", "user", "cert", "cephx")
_SPEC_KEY: Final = re.compile(r"^[\w.\-: ]{1,255}$")
_CLOUD_ID: Final = re.compile(r"(?! )[A-Za-z0-9_. -]{1,36}(?<! )")
BOOLEAN_SPECS: Final = (
    "driver_handles_share_servers", "snapshot_support", "create_share_from_snapshot_support",
    "revert_to_snapshot_support", "mount_snapshot_support", "snapshot_inherit_share_access_support",
)  # fmt: skip
ZONES_SPEC: Final = "availability_zones"
_SIZE_SPECS: Final = frozenset(
    {"provisioning:min_share_size", "provisioning:max_share_size", "provisioning:max_share_extend_size"}
)
_TRUE: Final = frozenset({"true", "1", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"false", "0", "f", "no", "n", "off"})


def check_protocol(value: str, enabled: Sequence[str]) -> str:
    """The protocol in capitals. ``enabled`` are those of the configuration."""
    protocol = value.upper()
    if protocol not in enabled:
        raise InvalidInput(
            f"Invalid share protocol provided: {protocol[:32]}. It is either disabled or unsupported."
            f" Available protocols: {', '.join(enabled)}."
        )
    return protocol


def check_access_type(value: str) -> str:
    """One of Manila's; whether a share's protocol knows it is for :mod:`sharewright.services.access_types`."""
    if value not in _KNOWN_ACCESS_TYPES:
        raise InvalidInput(f"Invalid access type '{value[:32]}'. It must be one of: {', '.join(_KNOWN_ACCESS_TYPES)}.")
    return value


def check_access_level(value: str | None) -> str:
    """The level; none given means rw."""
    if value is None:
        return "rw"
    if value not in ACCESS_LEVELS:
        raise InvalidInput(
            f"Invalid or unsupported share access level: {value[:32]}. Use {' or '.join(ACCESS_LEVELS)}."
        )
    return value


def check_address(value: str) -> str:
    """An IPv4 or IPv6 address, or a network in CIDR form without bits behind its prefix, in canonical form: one text
    for each client, however it was written. /32 and /128 are addresses."""
    text = value.strip()
    address, slash, prefix = text.partition("/")
    try:
        if slash and not prefix.isdecimal():
            raise ValueError("the prefix length is not a number")
        network = ip_network(f"{ip_address(address)}/{int(prefix)}" if slash else ip_address(address))
    except ValueError as error:
        raise InvalidInput(
            f"Invalid IP access: '{value[:64]}' is not an IP address or CIDR network ({error})."
        ) from None
    if isinstance(network, IPv6Network):
        if "%" in text:
            raise InvalidInput(f"Invalid IP access: '{value[:64]}' has a zone, which means nothing to another machine.")
        if network.network_address.ipv4_mapped is not None:
            raise InvalidInput(
                f"Invalid IP access: '{value[:64]}' stands for an IPv4 address.",
                hint="Give the IPv4 address itself.",
            )
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def check_metadata(values: Any, *, what: str = "Metadata") -> dict[str, str]:
    """Keys and values of metadata: strings of 1 to 255 and 1 to 1023 characters."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{what} must be an object of strings.")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInput(f"{what} property values must be strings.")
        if not key.strip():
            raise InvalidInput(f"{what} property key is blank.")
        if len(key) > 255 or "\0" in key:
            raise InvalidInput(f"{what} property key is greater than 255 characters or has a NUL.")
        if not value.strip():
            raise InvalidInput(f"{what} property value is blank.")
        if len(value) > 1023 or "\0" in value:
            raise InvalidInput(f"{what} property value is greater than 1023 characters or has a NUL.")
    return dict(values)


def check_identifier(value: str, what: str) -> str:
    """What a cloud knows a thing by. That is a UUID, but as in Manila another text is found to name nothing only when
    it is looked for."""
    if is_id(value.lower()):
        return value.lower()
    if not _CLOUD_ID.fullmatch(value):
        raise InvalidInput(
            f"{what} '{value[:64]}' is not a UUID, nor 1 to 36 letters, digits, blanks, '_', '.' and '-'."
        )
    return value


def parse_moment(text: str, name: str) -> datetime:
    """A time in a query, without a zone meaning UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError):  # the latter in the first and last hours that there are
        raise InvalidInput(f"Invalid input for {name}: expected a time such as 2026-11-23T06:58:01.") from None


def parse_zones(text: str) -> list[str]:
    """The availability zones of a share type, which have commas between them."""
    zones = [zone.strip() for zone in text.split(",")]
    if not all(zones):
        raise InvalidInput(f"Invalid extra spec {ZONES_SPEC}: names of availability zones with commas between them.")
    return zones


def parse_boolean_spec(key: str, value: Any) -> bool:
    """A boolean extra spec, in any of its written forms, also Manila's "<is> True"."""
    text = str(value).strip().lower().removeprefix("<is>").strip()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidInput(f"Invalid extra spec {key}: '{str(value)[:64]}' is not a boolean.")


def check_extra_specs(values: Any, *, what: str = "Extra spec") -> dict[str, str]:
    """Extra specs of a share type, or group specs: keys of letters, digits and ``_.-:``, values of 1 to 255 characters.
    Those of our own scope must be among operations/type_specs.py. ``what``: one of them, in messages."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{what}s must be an object of strings.")
    checked: dict[str, str] = {}
    for key, value in values.items():
        if not isinstance(key, str) or not _SPEC_KEY.match(key) or not key.strip():
            raise InvalidInput(
                "Key names can only contain alphanumeric characters, underscores, periods, colons and hyphens,"
                " 1 to 255 of them."
            )
        if isinstance(value, bool | int | float):
            value = str(value)
        if not isinstance(value, str) or not 1 <= len(value.strip()) <= 255 or "\0" in value:
            raise InvalidInput(f"{what} {key} needs a string of 1 to 255 characters.")
        if key in BOOLEAN_SPECS:
            parse_boolean_spec(key, value)
        if key in _SIZE_SPECS and not re.fullmatch(r"[1-9][0-9]{0,8}", value.strip()):
            raise InvalidInput(f"Extra spec {key} needs a whole number of GiB, at least 1.")
        checked[key] = ",".join(parse_zones(value)) if key == ZONES_SPEC else value
    check_type_specs(checked)
    return checked
