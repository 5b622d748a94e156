"""The configuration as text: the reference page (docs/configuration.md) and TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec

from sharewright.setting_descriptions import DESCRIPTIONS
from sharewright.settings import Section, Settings, expectation, field_types

INTRODUCTION = """\
# Configuration reference

This page is generated: `sharewright config reference > docs/configuration.md`.

The configuration is one TOML file: the one that `--config` names, else the environment variable `SHAREWRIGHT_CONFIG`,
else `/etc/sharewright/sharewright.toml` if there is one, else the defaults below with one libvirt backend.
`sharewright config check` lists every mistake in a file with its key, its value and what was expected;
`sharewright config show` prints the configuration in force. [examples/sharewright.toml](examples/sharewright.toml) is
a file to begin with. Changes take effect when the processes are started again. "Upstream" names the option of the
OpenStack service with the same meaning. Times are in seconds, sizes in GiB (2³⁰ bytes) unless a key says otherwise.
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
    "openstack": "[openstack]: the OpenStack cloud",
    "simulated": "[simulated]: the simulated cloud",
    "backends.NAME": "[backends.NAME]: one table per backend",
    "backends.NAME.flavors.NAME": (
        "[backends.NAME.flavors.NAME]: service VMs of share types with `sharewright:server_flavor = NAME`"
    ),
}

# The options of upstream's generic and service instance modules, and what became of each.
UPSTREAM = {
    "smb_template_config_path": "Dropped: upstream declares it and uses it nowhere.",
    "volume_name_template": "`backends.NAME.volume_name_template`",
    "volume_snapshot_name_template": "Comes with snapshots.",
    "share_mount_path": "Fixed: `/shares`. Nothing but Sharewright's program looks at it.",
    "max_time_to_create_volume": "`backends.NAME.volume_seconds`",
    "max_time_to_extend_volume": "`backends.NAME.volume_seconds`",
    "max_time_to_attach": "`backends.NAME.attach_seconds`",
    "service_instance_smb_config_path": "Dropped: upstream declares it and uses it nowhere.",
    "share_helpers": "Dropped: the program in the service VM exports; there is nothing to plug in.",
    "share_volume_fstype": "`backends.NAME.filesystem` (ext4, xfs; ext3 has no advantage left)",
    "cinder_volume_type": "`backends.NAME.volume_type`",
    "set_zero_reserved_blocks": "Always: a share's whole size is its user's.",
    "service_instance_user": "Dropped: there is no login. A key per service VM may run one program and nothing else.",
    "service_instance_password": "Dropped: no passwords.",
    "path_to_private_key": "Dropped: a key pair is made for each service VM and kept encrypted in the database.",
    "path_to_public_key": "Dropped, as above.",
    "manila_service_keypair_name": "Dropped, as above.",
    "max_time_to_build_instance": "`backends.NAME.boot_seconds`",
    "limit_ssh_access": "Always: SSH is admitted on the service side only, from the controller only.",
    "service_image_name": "`backends.NAME.image`",
    "service_instance_name_template": "Fixed: `manila-<share server id>`, so that any worker finds what another made.",
    "service_instance_security_group": "Fixed: one group for each distinct filter, kept to exactly its rules.",
    "service_instance_flavor_id": (
        "`backends.NAME.flavor`; libvirt: `backends.NAME.vcpus`, `backends.NAME.memory_mib`; for single share types "
        "`sharewright:server_flavor`"
    ),
    "service_network_name": "Fixed: one network `sharewright-<id>` for each service subnet.",
    "service_network_host": "`openstack.management_host`",
    "service_network_cidr": "`backends.NAME.service_network_cidr`",
    "service_network_division_mask": "`backends.NAME.service_network_division_mask`",
    "interface_driver": "`openstack.management`; on libvirt the host is on the service network itself.",
    "connect_share_server_to_tenant_network": "`backends.NAME.connect_share_server_to_tenant_network` (default true)",
    "admin_network_id": "Comes with the OpenStack engine.",
    "admin_subnet_id": "Comes with the OpenStack engine.",
    "service_instance_boot_from_volume": "`backends.NAME.boot_volume_size` > 0",
    "service_instance_boot_volume_size": "`backends.NAME.boot_volume_size`",
    "service_instance_boot_volume_type": "`backends.NAME.boot_volume_type`",
    "service_instance_base_boot_volume_id": "Dropped: the boot volume is made from the image.",
    "service_instance_boot_volume_delete_on_termination": "Always: a service VM's root disk goes with it.",
    "service_instance_boot_volume_name_template": "Dropped: Nova makes the volume and deletes it with the VM.",
    "service_instance_name_or_id": "Comes with driver_handles_share_servers=False.",
    "service_net_name_or_ip": "Comes with driver_handles_share_servers=False.",
    "tenant_net_name_or_ip": "Comes with driver_handles_share_servers=False.",
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
    parts.append("\n## Upstream's options\n\nEvery option of upstream's generic and service instance modules:\n\n")
    parts.append("| upstream | here |\n|---|---|\n")
    parts += [f"| `{name}` | {here} |\n" for name, here in UPSTREAM.items()]
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
