"""The extra specs of a share type that Sharewright itself understands: those of the scope ``sharewright:``.

They say what a share is made of. What a type says when a share is requested is kept in the share instance's row, so a
type that changes later changes no share. A backend names what it offers in the capability of each spec.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from sharewright.errors import InvalidInput
from sharewright.guest.document import FilesystemType, SmbEncryption, Squash

SCOPE: Final = "sharewright"
REPLICATION_SPEC: Final = "replication_type"
# What shares of the type can, in columns of the same names.
SUPPORT: Final = (
    "snapshot_support", "create_share_from_snapshot_support", "revert_to_snapshot_support", "mount_snapshot_support",
)  # fmt: skip
_NAME: Final = re.compile(r"[\w.-][\w. -]{0,253}[\w.-]|[\w.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSpec:
    """One spec. ``column`` of share_instances keeps its value; None: it has one value, and nothing depends on it.
    ``capability`` of a pool lists the values that it offers; None there: the cloud knows them, ask it. ``choices``: all
    values there are; empty: a name. ``why``: a sentence about values that somebody may expect."""

    column: str | None
    capability: str
    choices: tuple[str, ...] = ()
    why: str = ""


TYPE_SPECS: Final[Mapping[str, TypeSpec]] = {
    "volume_type": TypeSpec(column="volume_type", capability="volume_types"),
    "server_flavor": TypeSpec(column="server_flavor", capability="server_flavors"),
    "filesystem": TypeSpec(column="filesystem_type", capability="filesystems", choices=get_args(FilesystemType)),
    "squash": TypeSpec(column="squash", capability="squash_modes", choices=get_args(Squash)),
    "smb_encryption": TypeSpec(
        column="smb_encryption", capability="smb_encryption_modes", choices=get_args(SmbEncryption)
    ),
    "sec": TypeSpec(
        column=None,
        capability="sec_flavors",
        choices=("sys",),
        why="Kerberos (krb5, krb5i, krb5p) needs a security service of that type, which share servers cannot join yet.",
    ),
}


def check_type_specs(extra_specs: Mapping[str, str]) -> None:
    """Raise InvalidInput for a spec of our scope that does not exist, or whose value can never be meant."""
    for key, value in extra_specs.items():
        scope, _, name = key.partition(":")
        if scope != SCOPE:
            continue
        spec = TYPE_SPECS.get(name)
        if spec is None:
            near = difflib.get_close_matches(name, TYPE_SPECS, 1)
            meant = f" Did you mean {SCOPE}:{near[0]}?" if near else ""
            raise InvalidInput(
                f"There is no extra spec {key[:64]}.{meant}",
                hint=f"Those of this scope are {', '.join(f'{SCOPE}:{known}' for known in TYPE_SPECS)}.",
            )
        if spec.choices and value not in spec.choices:
            why = f" {spec.why}" if spec.why else ""
            raise InvalidInput(
                f"Invalid extra spec {key}: '{value[:64]}' is not one of {', '.join(spec.choices)}.{why}",
                hint=f"Use {' or '.join(spec.choices)}, or leave the extra spec out.",
            )
        if not spec.choices and not _NAME.fullmatch(value):
            raise InvalidInput(
                f"Invalid extra spec {key}: '{value[:64]}' is not a name.",
                hint="Use letters, digits, '_', '.', '-' and spaces inside.",
            )


def check_protocol_specs(extra_specs: Mapping[str, str], protocol: str) -> None:
    """Raise InvalidInput for a share that would lack what its type promises."""
    if protocol != "CIFS" and extra_specs.get(f"{SCOPE}:smb_encryption") == "required":
        raise InvalidInput(
            f"The share type requires encryption by SMB, which a share of protocol {protocol} does not have.",
            hint="Ask for CIFS, or use another share type.",
        )


def check_size(specs: Mapping[str, str], size: int) -> None:
    """The share type's own limits of size, in GiB."""
    smallest, largest = specs.get("provisioning:min_share_size"), specs.get("provisioning:max_share_size")
    if smallest and size < int(smallest):
        raise InvalidInput(f"Share size {size} is less than {smallest} GiB, the share type's minimum.")
    if largest and size > int(largest):
        raise InvalidInput(f"Share size {size} is greater than {largest} GiB, the share type's maximum.")


def instance_columns(extra_specs: Mapping[str, str]) -> dict[str, str]:
    """What a type says of its shares, as columns of ``share_instances``; the rest is the backend's own choice."""
    named = {spec.column: extra_specs.get(f"{SCOPE}:{name}") for name, spec in TYPE_SPECS.items()}
    return {column: value for column, value in named.items() if column is not None and value is not None}


def unoffered(name: str, wanted: str, capabilities: Mapping[str, Any]) -> str:
    """Why a pool with these capabilities cannot have the spec's value, as a sentence part; empty when it can."""
    spec = TYPE_SPECS.get(name)
    if spec is None or spec.capability not in capabilities:
        return f"extra spec {SCOPE}:{name} = {wanted}: the backend does not know it"
    offered = capabilities[spec.capability]
    if offered is None or wanted in offered:
        return ""
    return f"extra spec {SCOPE}:{name} = {wanted}: the backend offers {', '.join(offered) or 'no choice'}"


def unasked(extra_specs: Mapping[str, str], capabilities: Mapping[str, Any]) -> str:
    """Why a pool that is only for shares that ask for its volume type is none for this type; empty when it is."""
    if not capabilities.get("volume_type_required") or f"{SCOPE}:volume_type" in extra_specs:
        return ""
    return f"the share type has no {SCOPE}:volume_type, and this pool is for those that do"
