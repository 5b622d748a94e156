"""The configuration as text: the reference page (docs/configuration.md) and TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec

from sharewright.configuration_file import expectation, field_types
from sharewright.setting_descriptions import DESCRIPTIONS
from sharewright.settings import Section, Settings

INTRODUCTION = """\
# Configuration reference

This page is generated: `sharewright config reference > docs/configuration.md`.

The configuration is one TOML file: the one that `--config` names, else the environment variable `SHAREWRIGHT_CONFIG`,
else `/etc/sharewright/sharewright.toml` if there is one, else the defaults below with one libvirt backend.
`sharewright config check` lists every mistake in a file with its key, its value and what was expected;
`sharewright config show` prints the configuration in force. [examples/sharewright.toml](examples/sharewright.toml) is
a file to begin with. Changes take effect when the processes are started again. "Upstream" names the option of the
OpenStack service with the same meaning; [upstream-options.md](upstream-options.md) has all of those. Times are in
seconds, sizes in GiB (2³⁰ bytes) unless a key says otherwise.
"""

SECTIONS = {
    "": "Top level",
    "api": "[api]",
    "metrics": "[metrics]",
    "identity": "[identity]",
    "identity.keystone": '[identity.keystone]: with mode = "keystone"',
    "database": "[database]",
    "worker": "[worker]",
    "quotas": "[quotas]: default limits of each project, -1 for none",
    "libvirt": "[libvirt]: the libvirt cloud",
    "libvirt.volume_types.NAME": "[libvirt.volume_types.NAME]: volume types of the libvirt cloud",
    "openstack": "[openstack]: the OpenStack cloud",
    "simulated": "[simulated]: the simulated cloud",
    "backends.NAME": "[backends.NAME]: one table per backend",
    "backends.NAME.server": "[backends.NAME.server]: the machine, with `driver_handles_share_servers = false`",
    "backends.NAME.flavors.NAME": (
        "[backends.NAME.flavors.NAME]: service VMs of share types with `sharewright:server_flavor = NAME`"
    ),
}


def reference() -> str:
    """docs/configuration.md, whole."""
    parts = [INTRODUCTION]
    for prefix, title in SECTIONS.items():
        parts.append(f"\n## {title}\n\n| key | default | accepts | meaning |\n|---|---|---|---|\n")
        section = section_named(prefix)
        for name, kind in field_types(section).items():
            if _is_table(kind):
                continue
            key = f"{prefix}.{name}" if prefix else name
            cells = (f"`{name}`", f"`{value_text(default(section, name))}`", expectation(kind), DESCRIPTIONS[key])
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def section_named(prefix: str) -> type[Section]:
    """The section of a dotted prefix; "backends.NAME" is a backend."""
    kind: Any = Settings
    for name in prefix.split(".") if prefix else ():
        kind = get_args(kind)[1] if get_origin(kind) is dict else field_types(kind)[name]
    section: type[Section] = kind
    return section


def keys() -> set[str]:
    """Every dotted key of the configuration, with NAME for a name of the user's own."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix in SECTIONS
        for name, kind in field_types(section_named(prefix)).items()
        if not _is_table(kind)
    }


def default(section: type[Section], name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(section) if field.name == name)


def toml(data: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested tables of plain values."""
    lines = [f"{name} = {value_text(value)}\n" for name, value in data.items() if not isinstance(value, dict)]
    text = (f"\n[{prefix}]\n" if prefix and lines else "") + "".join(lines)
    for name, value in data.items():
        if isinstance(value, dict):
            key = name if name.replace("-", "_").isidentifier() else json.dumps(name)
            text += toml(value, f"{prefix}.{key}" if prefix else key)
    return text


def value_text(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are the same in JSON and TOML


def _is_table(kind: Any) -> bool:
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Section))
