"""docs/upstream-options.md: the options of upstream's generic driver, of its service instance module and of what these
depend on, and what became of each here."""

from __future__ import annotations

from typing import Final

PAGE: Final = """\
# Upstream's options, and ours

This page is generated: `sharewright config upstream > docs/upstream-options.md`.

For operators who come from Manila's generic driver: every option of its two modules, then those of neighbouring modules
that change what the driver does. An answer is an option of ours with the same effect
([configuration.md](configuration.md)); or "Always", "Fixed" or "Dropped", with the reason; or "Open": not built yet.
"""

# Title → upstream's name (with its group, where that is not the backend's) → its default there and the answer here.
OPTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Generic module": {
        "smb_template_config_path": ("`$state_path/smb.conf`", "Dropped: upstream declares it and uses it nowhere."),
        "volume_name_template": ("`manila-share-%s`", "`backends.NAME.volume_name_template`"),
        "volume_snapshot_name_template": ("`manila-snapshot-%s`", "`backends.NAME.volume_snapshot_name_template`"),
        "share_mount_path": ("`/shares`", "Fixed: `/shares`. Nothing but Sharewright's program looks at it."),
        "max_time_to_create_volume": ("180", "`backends.NAME.volume_seconds`"),
        "max_time_to_extend_volume": ("180", "`backends.NAME.volume_seconds`"),
        "max_time_to_attach": ("120", "`backends.NAME.attach_seconds`"),
        "service_instance_smb_config_path": (
            "`$share_mount_path/smb.conf`",
            "Dropped: upstream declares it and uses it nowhere.",
        ),
        "share_helpers": (
            "CIFS and NFS helpers",
            "Dropped: the program in the service VM exports; a driver of another protocol brings its own part of it "
            "([write-a-driver.md](write-a-driver.md)).",
        ),
        "share_volume_fstype": ("`ext4`", "`backends.NAME.filesystem` (ext4, xfs; ext3 has no advantage left)"),
        "cinder_volume_type": ("none", "`backends.NAME.volume_type`; for single share types `sharewright:volume_type`"),
        "set_zero_reserved_blocks": ("true", "Always: a share's whole size is its user's."),
    },
    "Service instance module": {
        "service_instance_user": (
            "none",
            "Dropped: there is no login. A key per service VM may run one program and nothing else. On a machine of "
            "the operator's: `backends.NAME.server.ssh_user`.",
        ),
        "service_instance_password": ("none", "Dropped: no passwords."),
        "path_to_private_key": (
            "none",
            "Dropped: a key pair is made for each service VM and kept encrypted in the database. For a machine of the "
            "operator's: `backends.NAME.server.key_file`.",
        ),
        "path_to_public_key": ("`~/.ssh/id_rsa.pub`", "Dropped, as the private key."),
        "manila_service_keypair_name": ("`manila-service`", "Dropped, as the private key."),
        "max_time_to_build_instance": ("300", "`backends.NAME.boot_seconds`"),
        "limit_ssh_access": ("false", "Always: SSH is admitted on the service side only, from the controller only."),
        "service_image_name": ("`manila-service-image`", "`backends.NAME.image`"),
        "service_instance_name_template": (
            "`%s`",
            "Fixed: `manila-<share server id>`, so that any worker finds what another made.",
        ),
        "service_instance_security_group": (
            "`manila-service`",
            "Fixed: one group for each distinct filter, kept to exactly its rules.",
        ),
        "service_instance_flavor_id": (
            "`100`",
            "`backends.NAME.flavor`; libvirt: `backends.NAME.vcpus`, `backends.NAME.memory_mib`; for "
            "single share types `sharewright:server_flavor`",
        ),
        "service_network_name": (
            "`manila_service_network`",
            "Fixed: one network `sharewright-<id>` for each service subnet.",
        ),
        "service_network_host": ("none", "`openstack.management_host`"),
        "service_network_cidr": ("`10.254.0.0/16`", "`backends.NAME.service_network_cidr`"),
        "service_network_division_mask": ("28", "`backends.NAME.service_network_division_mask`"),
        "interface_driver": (
            "Open vSwitch",
            "`openstack.management`; on libvirt the host is on the service network itself.",
        ),
        "connect_share_server_to_tenant_network": (
            "false",
            "`backends.NAME.connect_share_server_to_tenant_network` (default true)",
        ),
        "admin_network_id": ("none", "`backends.NAME.admin_network_id`"),
        "admin_subnet_id": ("none", "`backends.NAME.admin_subnet_id`"),
        "service_instance_boot_from_volume": ("false", "`backends.NAME.boot_volume_size` > 0"),
        "service_instance_boot_volume_size": ("10", "`backends.NAME.boot_volume_size`"),
        "service_instance_boot_volume_type": ("none", "`backends.NAME.boot_volume_type`"),
        "service_instance_base_boot_volume_id": ("none", "Dropped: the boot volume is made from the image."),
        "service_instance_boot_volume_delete_on_termination": (
            "true",
            "Always: a service VM's root disk goes with it. It holds nothing that the database does not have.",
        ),
        "service_instance_boot_volume_name_template": (
            "`manila-share-%s-boot`",
            "Dropped: Nova makes the volume and deletes it with the VM.",
        ),
        "service_instance_name_or_id": ("none", "`backends.NAME.server.instance`"),
        "service_net_name_or_ip": ("none", "`backends.NAME.server.management_address`"),
        "tenant_net_name_or_ip": ("none", "`backends.NAME.server.export_addresses`"),
    },
    "Base of all drivers": {
        "driver_handles_share_servers": ("none", "`backends.NAME.driver_handles_share_servers` (default true)"),
        "share_backend_name": ("`Cinder_Volumes`", "Fixed: the backend's name in `[backends.NAME]`."),
        "backend_availability_zone": ("none", "`backends.NAME.availability_zone`"),
        "max_shares_per_share_server": ("-1", "`backends.NAME.max_shares_per_share_server`"),
        "max_share_server_size": ("-1", "`backends.NAME.max_share_server_size`"),
        "max_over_subscription_ratio": ("20.0", "`backends.NAME.max_over_subscription_ratio`"),
        "reserved_share_percentage": ("0", "`backends.NAME.reserved_share_percentage`"),
        "reserved_share_from_snapshot_percentage": ("0", "`backends.NAME.reserved_share_from_snapshot_percentage`"),
        "reserved_share_extend_percentage": ("0", "`backends.NAME.reserved_share_extend_percentage`"),
        "network_config_group": ("none", "Dropped: a backend's options stand in its own table."),
        "admin_network_config_group": ("none", "Dropped, as `network_config_group`."),
        "share_mount_template": ("`mount -vt %(proto)s …`", "Dropped: data are never copied through the controller."),
        "share_unmount_template": ("`umount -v %(path)s`", "Dropped, as `share_mount_template`."),
        "migration_ignore_files": ("`lost+found`", "Dropped, as `share_mount_template`."),
        "protocol_access_mapping": (
            "ip: nfs, user: cifs",
            "Fixed: what a protocol's rules may be is known; a rule that cannot work is refused with the reason.",
        ),
        "num_shell_tries": ("3", "Dropped: the generic driver does not use it, and there is no shell."),
        "ssh_conn_timeout": (
            "60",
            "`backends.NAME.guest_seconds` bounds a call as a whole; a connection that is silent for 8 s is closed.",
        ),
        "ssh_min_pool_conn": ("1", "Fixed: one connection for each server, kept open; calls take turns."),
        "ssh_max_pool_conn": ("10", "Fixed, as `ssh_min_pool_conn`."),
        "ovs_integration_bridge": (
            "`br-int`",
            "Fixed: the bridge that Neutron names in the port's binding, else `br-int`.",
        ),
    },
    "Manager, API and coordination": {
        "delete_share_server_with_last_share": ("false", "`worker.unused_server_seconds` = 0"),
        "automatic_share_server_cleanup": ("true", "`worker.unused_server_seconds`, very large for false"),
        "unused_share_server_cleanup_interval": ("10 minutes", "`worker.unused_server_seconds`"),
        "share_service_inithost_offload": (
            "false",
            "Dropped: a start ensures nothing; servers are looked at in turn (`worker.looks_per_second`).",
        ),
        "update_shares_status_on_ensure": (
            "true",
            "Dropped: looking after a share never changes its status, because its clients go on.",
        ),
        "unmanage_remove_access_rules": ("false", "Always: an unmanaged share is not exported any more, to nobody."),
        "is_deferred_deletion_enabled": (
            "false",
            "Dropped: deleting is a row that workers carry out and repeat; the quota is given back with the space.",
        ),
        "enabled_share_protocols": ("NFS, CIFS", "`enabled_share_protocols`"),
        "default_share_type": ("none", "`default_share_type`"),
        "enable_gathering_share_usage_size": (
            "false",
            "Always, as metrics ([metrics.md](metrics.md)); upstream's generic driver does not gather any.",
        ),
        "share_usage_size_update_interval": ("300", "`worker.reconcile_seconds`, `worker.looks_per_second`"),
        "[coordination] backend_url": ("`file://$state_path`", "Dropped: the database coordinates all processes."),
        "periodic_interval": ("60", "`worker.stats_seconds`, `worker.reconcile_seconds`, `worker.sweep_seconds`"),
        "report_interval": ("10", "`worker.lease_seconds` (a third of it)"),
    },
    "Clients of other services": {
        "[nova] api_microversion": ("2.10", "Fixed: 2.79, which every release since Train has."),
        "[glance] api_microversion": ("2", "Fixed: 2."),
        "endpoint_type": ("publicURL", "`openstack.interface`"),
        "region_name": ("none", "`openstack.region`"),
        "[cinder] http_retries": (
            "3",
            "Fixed: passing failures are repeated with growing pauses until the deadline of the call.",
        ),
        "[cinder] cross_az_attach": (
            "true",
            "Dropped: upstream never looks at it. Volumes and VMs are made in the backend's zone.",
        ),
        "[neutron] url": ("none", "Dropped: the catalogue tells."),
        "[neutron] url_timeout": (
            "30",
            "Dropped: upstream never looks at it. `openstack.request_seconds` bounds a request.",
        ),
        "[neutron] auth_strategy": ("keystone", "Dropped: upstream never looks at it."),
        "auth_url, username, password, project_name, …": (
            "none",
            "`openstack.cloud`, or `openstack.auth_url`, `openstack.username` and so on: one account for all services",
        ),
        "cafile, insecure, timeout": (
            "none",
            "`openstack.ca_file`, `openstack.request_seconds`; TLS is always checked",
        ),
    },
}


def upstream_options() -> str:
    """The whole page."""
    parts = [PAGE]
    for title, options in OPTIONS.items():
        parts.append(f"\n## {title}\n\n| upstream | default there | here |\n|---|---|---|\n")
        parts += [f"| `{name}` | {default} | {answer} |\n" for name, (default, answer) in options.items()]
    return "".join(parts)
