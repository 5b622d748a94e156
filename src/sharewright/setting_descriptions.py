"""What each setting means, by its key in the file: docs/configuration.md is generated from these and the types."""

from __future__ import annotations

DESCRIPTIONS: dict[str, str] = {
    "state_dir": (
        "Directory of everything this deployment keeps: database, master key, service image, volumes, records."
    ),
    "deployment": (
        "Name of this deployment. Every cloud object carries it as a tag; what carries another name, or none, is "
        "never touched. Do not change it once shares exist."
    ),
    "node": (
        "Name of this node in the API's hosts (`<node>@<backend>#<pool>`). Workers that serve the same backends use "
        "the same name."
    ),
    "default_share_type": (
        "Share type of requests that name none; made at the first start. Upstream: `default_share_type`."
    ),
    "default_share_group_type": (
        "Share group type of requests that name none; empty: there is none. Upstream: the same name."
    ),
    "enabled_share_protocols": (
        "Protocols that shares may be asked for, in capitals; a share goes to a backend whose driver serves its own. "
        "Upstream: the same name."
    ),
    "log_format": "`text` for people, `json` for log collectors; both on standard error.",
    "log_level": "The least level that is logged.",
    "api.listen": (
        "Address that the API listens on. The default is reachable from this host only; put a TLS proxy in front "
        "before you open it to a network."
    ),
    "api.port": "TCP port of the API. 8786 is Manila's.",
    "api.threads": "Requests handled at the same time, by each process.",
    "api.processes": "Processes of `sharewright serve` that answer requests, beside one for the worker "
    "(docs/install.md). 0: one process does both. -1: one for each processor, 4 at most, or 0 where there is only one. "
    "`sharewright api` is always one.",
    "api.max_limit": "Most items on one page of a list. Upstream: `osapi_max_limit`.",
    "api.max_access_rules": (
        "Access rules that one share may have. All rules of a share server go to it in one document of 16 MiB at most, "
        "about 140,000 rules."
    ),
    "api.base_url": (
        "URL under which clients reach the API (`https://shares.example.org`), for links and the service catalogue. "
        "Empty: taken from each request."
    ),
    "api.policy_file": (
        "A policy.yaml in the syntax of oslo.policy, with rules that replace the defaults; empty: none. Upstream: "
        "`[oslo_policy] policy_file`."
    ),
    "api.enable_forwarded_headers": (
        "Believe `X-Forwarded-Proto`, `-Host` and `-Prefix`. Only behind a proxy that sets them itself. Upstream: "
        "`enable_proxy_headers_parsing`."
    ),
    "api.drain_seconds": (
        "When `sharewright api` is told to stop, it goes on answering for so long, closes each connection after its "
        "answer, and says 503 at `/healthcheck`, so that a proxy takes it out. Longer than the proxy needs to notice."
    ),
    "metrics.listen": (
        "Address that Prometheus finds the metrics at. They tell of all tenants: loopback, or a network of operators."
    ),
    "metrics.port": (
        "TCP port of the metrics; 0: none are served. Several processes on a host need one each: `--metrics-port` goes "
        "before it. See [metrics.md](metrics.md)."
    ),
    "metrics.most_detailed_shares": (
        "Up to so many shares, `/deployment` has series for each share and share server, with their ids; with more, "
        "only sums, because a scrape would cost the process too much memory. 0: never."
    ),
    "identity.mode": (
        "`none`: everybody is the one user below (loopback only, please). `http_basic`: named users by HTTP Basic. "
        "`builtin`: the same users behind a small Keystone v3 token endpoint at `/identity/v3`, for clients that know "
        "only Keystone. `keystone`: tokens of a real Keystone, see [identity.keystone]."
    ),
    "identity.user_file": (
        "The users of `http_basic` and `builtin`, with bcrypt hashes; written by `sharewright user`. Empty: "
        "`<state_dir>/users.json`."
    ),
    "identity.project": "Project of everybody in mode `none`.",
    "identity.user": "User name of everybody in mode `none`.",
    "identity.roles": "Roles of everybody in mode `none`: `admin`, `member`, `reader`.",
    "identity.token_seconds": "Lifetime of a token of mode `builtin`.",
    "identity.keystone.auth_url": (
        "Keystone, as this service reaches it: `https://keystone.example.org/v3`. `/v3` is added when it is missing. "
        "Needed. Upstream: `[keystone_authtoken] auth_url`, and so on below."
    ),
    "identity.keystone.www_authenticate_uri": (
        "Keystone, as clients reach it; named in every answer 401. Empty: `auth_url`."
    ),
    "identity.keystone.username": (
        "The service's own user, who asks Keystone about tokens. It needs the role `service` (or `admin`) in its "
        "project. Needed."
    ),
    "identity.keystone.password": "That user's password; better in a file, see the next key.",
    "identity.keystone.password_file": (
        "File that holds the password on its first line, and that others may not read. Read at the start."
    ),
    "identity.keystone.user_domain": "Domain of the service's user, by name.",
    "identity.keystone.user_domain_id": "The same by id; goes before the name.",
    "identity.keystone.project": "Project of the service's user.",
    "identity.keystone.project_domain": "Domain of that project, by name.",
    "identity.keystone.project_domain_id": "The same by id; goes before the name.",
    "identity.keystone.ca_file": (
        "Certificates of the authorities that may vouch for Keystone (PEM). Empty: those of the system."
    ),
    "identity.keystone.request_seconds": "One answer of Keystone must come within this time.",
    "identity.keystone.cache_seconds": (
        "What Keystone said about a token is believed for so long, so a revoked token is accepted for so long at "
        "most; never past the token's end. 0: Keystone is asked at every request. Upstream: `token_cache_time`."
    ),
    "identity.keystone.service_token_roles": (
        "Roles of which a service token (`X-Service-Token`) must have one. With such a token beside it, a user's token "
        "is accepted though it has just expired, as long as Keystone allows it."
    ),
    "database.url": (
        "SQLAlchemy URL: `sqlite:////path/to/file` (one node) or `postgresql://user:password@host/name` (any number "
        "of nodes). Empty: SQLite in the state directory."
    ),
    "database.password_file": (
        "File with the database password, instead of one in the URL; or `credential:NAME`, a systemd credential."
    ),
    "database.master_key_file": (
        "File with the key that encrypts the private keys in the database; the same on every node. A path, or "
        "`credential:NAME`, a systemd credential. It must exist. Empty: `<state_dir>/master.key`, made when missing."
    ),
    "database.access_key_file": (
        "File with the key that encrypts the access keys (passwords) of CIFS users in the database; the same on every "
        "node, the API's included. A path, or `credential:NAME`. It must exist. Empty: `<state_dir>/access.key`, made "
        "when missing; with `master_key_file` and without this there are no rules for users."
    ),
    "database.pool_size": (
        "Database connections that one process makes to read, at most; on PostgreSQL as many to write."
    ),
    "worker.threads": (
        "Operations that one worker process runs at the same time. 0: 64; or 16 where a backend has its machines on "
        "this host (libvirt)."
    ),
    "worker.lease_seconds": (
        "A worker that has not renewed its claim for so long has lost it, and any other worker continues its "
        "operations."
    ),
    "worker.poll_seconds": "How often a worker looks for operations that another process has queued.",
    "worker.reconcile_seconds": (
        "How often it is looked for work that nobody does, and at most how often one share server is looked at."
    ),
    "worker.looks_per_second": (
        "Share servers that the whole deployment looks at in a second, at most. With more than this times "
        "`reconcile_seconds` servers they take turns; those in trouble come first."
    ),
    "worker.sweep_seconds": "How often cloud objects of ours without an owner are looked for and removed.",
    "worker.soft_deleted_share_seconds": (
        "How long a share stays in the recycle bin before it is deleted. Upstream: `soft_deleted_share_retention_time`."
    ),
    "worker.stats_seconds": "How often each backend reports its capacity to the scheduler.",
    "worker.operation_seconds": "Deadline of an operation, counted from its request.",
    "worker.gather_quiet_seconds": (
        "A change of a share's access rules is begun when no other one of the same share has come for so long, so that "
        "a burst of them is one guest round trip. 0: at once."
    ),
    "worker.gather_seconds": "But no later than so long after the first of them.",
    "worker.retention_days": "Days that finished operations and user messages are kept. Upstream: `message_ttl`.",
    "worker.replica_state_seconds": (
        "How often the driver is asked whether a share's replicas are in sync. Upstream:"
        " `replica_state_update_interval`."
    ),
    "worker.unused_server_seconds": (
        "A share server without shares is deleted after so long; 0: at once. Upstream: "
        "`automatic_share_server_cleanup`, `unused_share_server_cleanup_interval`."
    ),
    "quotas.shares": "Shares. Upstream: `quota_shares`, and so on below.",
    "quotas.gigabytes": "GiB of shares together.",
    "quotas.per_share_gigabytes": "GiB of one share.",
    "quotas.snapshots": "Snapshots.",
    "quotas.snapshot_gigabytes": "GiB of snapshots together.",
    "quotas.share_networks": "Share networks.",
    "quotas.share_groups": "Share groups.",
    "quotas.share_group_snapshots": "Share group snapshots.",
    "quotas.share_replicas": "Share replicas.",
    "quotas.replica_gigabytes": "GiB of share replicas together.",
    "quotas.backups": "Share backups.",
    "quotas.backup_gigabytes": "GiB of share backups together.",
    "quotas.encryption_keys": "Encryption keys.",
    "libvirt.uri": 'libvirt connection of the backends with `cloud = "libvirt"`.',
    "libvirt.accelerator": (
        "`auto`: KVM when a probe really boots with it, else TCG (emulation, about ten times slower). `kvm`, `tcg`: "
        "without a probe."
    ),
    "libvirt.start_daemons": (
        "Start virtlogd and libvirtd when none answers and no init system does (containers, small test machines)."
    ),
    "libvirt.volume_format": "Format of volume files. Both are sparse.",
    "libvirt.volume_types.NAME.directory": (
        "Directory for the volumes of this type, on a file system of its own for example. It must exist; Sharewright "
        "makes one for its deployment in it."
    ),
    "openstack.cloud": (
        "Entry of `clouds.yaml` (openstacksdk's places and `OS_CLIENT_CONFIG_FILE`) with URL and credentials. The keys "
        "below that are set take precedence."
    ),
    "openstack.auth_url": "Keystone's URL, for example `https://keystone.example.org/v3`.",
    "openstack.username": "User that owns all of Sharewright's objects in the cloud.",
    "openstack.user_domain": "Domain of the user.",
    "openstack.password": "Its password. `password_file` keeps it out of this file.",
    "openstack.password_file": "File with the password, as a line of text. Read when the service starts.",
    "openstack.project": "Project that owns all of Sharewright's objects; its quotas limit them.",
    "openstack.project_domain": "Domain of the project.",
    "openstack.application_credential_id": (
        "Application credential, instead of user, password and project. One from a role that may use ports on tenants' "
        "networks."
    ),
    "openstack.application_credential_secret": "Its secret. `application_credential_secret_file` keeps it out of here.",
    "openstack.application_credential_secret_file": "File with the secret, as a line of text.",
    "openstack.region": "Region of the catalogue. Empty: the only one.",
    "openstack.interface": "Which of the catalogue's endpoints are used. Empty: the public ones.",
    "openstack.ca_file": "Certificates that the endpoints' TLS is checked with. Empty: the system's.",
    "openstack.request_seconds": "One HTTP request must be answered within this time.",
    "openstack.image_project": (
        "Project (id) that must own the service image, so that nobody else's image of the same name is started. Empty: "
        "Sharewright's own."
    ),
    "openstack.management": (
        "How Sharewright reaches the service VMs. `routed`: its hosts have a route to the service subnets, through "
        "`management_router`. `floating`: each VM has a floating address. `host_port`: this host has a port on the "
        "service network, plugged by its Linux bridge, Open vSwitch or OVN agent."
    ),
    "openstack.management_router": (
        "Router (id or name) that joins the service subnets to the controllers' network, for `routed` and `floating`. "
        "Upstream: `service_network_host`, `interface_driver` do the like."
    ),
    "openstack.management_cidrs": (
        "Networks that the controllers connect from; SSH to a service VM is admitted from these only."
    ),
    "openstack.external_network": "External network (id or name) that floating addresses come from.",
    "openstack.management_host": (
        "This host's name in `openstack network agent list`, for `host_port`. Empty: its host name. Upstream: "
        "`service_network_host`."
    ),
    "simulated.capacity": "GiB that the simulated cloud claims to have.",
    "simulated.delay_seconds": "Time that each call to the simulated cloud takes.",
    "simulated.any_network": "Every network that a share network names exists: for suites that name some of their own.",
    "backends.NAME.driver": (
        "Share driver: `generic`, or that of another package, by the name it is registered with or as "
        "`package.module:NAME` ([write-a-driver.md](write-a-driver.md))."
    ),
    "backends.NAME.cloud": (
        "What supplies virtual machines, volumes and networks. `simulated` stores no data: for tests and for authors "
        "of clients."
    ),
    "backends.NAME.availability_zone": (
        "Zone that the backend's pools and share servers are in. Upstream: `backend_availability_zone`."
    ),
    "backends.NAME.driver_handles_share_servers": (
        "True: share servers are made for the tenants' share networks. False: all shares are on the one machine that "
        "`[backends.NAME.server]` names, which its operator keeps ([named-server.md](named-server.md)); share types "
        "choose the backend with the extra spec of this name. Upstream: the same name."
    ),
    "backends.NAME.server.instance": (
        "The machine in the cloud, by its id or by a name that only it has: volumes are attached there. Upstream: "
        "`service_instance_name_or_id`."
    ),
    "backends.NAME.server.management_address": (
        "Where the controllers log in: an IP address or, on OpenStack, the name of a network that the machine is on. "
        "Upstream: `service_net_name_or_ip`."
    ),
    "backends.NAME.server.export_addresses": (
        "What clients mount from, the preferred one first: IP addresses or, on OpenStack, names of networks that the "
        "machine is on. Empty: the management address. Upstream: `tenant_net_name_or_ip`."
    ),
    "backends.NAME.server.ssh_user": (
        "Who logs in. Any other than root needs a forced command with `sudo`. Upstream: `service_instance_user`."
    ),
    "backends.NAME.server.ssh_port": "TCP port of the machine's SSH server.",
    "backends.NAME.server.key_file": (
        "File with the private key (ed25519, without a passphrase) that the machine admits with the guest program as "
        "its forced command, or `credential:NAME`. `sharewright server key` makes it. Upstream: "
        "`path_to_private_key`."
    ),
    "backends.NAME.server.host_key": (
        "The machine's public SSH host key: the content of its `/etc/ssh/ssh_host_ed25519_key.pub`. Nothing is sent to "
        "a machine with another one."
    ),
    "backends.NAME.image": (
        "Service image: a directory made by `sharewright image build`, or a bootable .qcow2 file. Empty: "
        "`<state_dir>/images/service`. On OpenStack: id or name of a Glance image that `openstack.image_project` owns; "
        "empty: the one that `sharewright image upload` put there last. Upstream: `service_image_name`."
    ),
    "backends.NAME.vcpus": "Virtual processors of a service VM. Upstream: `service_instance_flavor_id`.",
    "backends.NAME.memory_mib": "Memory of a service VM in MiB. Upstream: `service_instance_flavor_id`.",
    "backends.NAME.flavor": (
        "OpenStack: Nova flavor (name or id) of a service VM, in place of `vcpus` and `memory_mib`. Upstream: "
        "`service_instance_flavor_id`."
    ),
    "backends.NAME.flavors.NAME.vcpus": "Virtual processors.",
    "backends.NAME.flavors.NAME.memory_mib": "Memory in MiB.",
    "backends.NAME.boot_volume_size": (
        "OpenStack: GiB of the volume that a service VM boots from; 0: it boots from the flavor's disk. Upstream: "
        "`service_instance_boot_from_volume`, `service_instance_boot_volume_size`."
    ),
    "backends.NAME.boot_volume_type": (
        "OpenStack: volume type of that volume; empty: Cinder's default. Upstream: `service_instance_boot_volume_type`."
    ),
    "backends.NAME.server_group": (
        "OpenStack: keep the backend's service VMs on different hosts, as far as possible (`soft-anti-affinity`) or "
        "strictly (`anti-affinity`). The quota `server_group_members` (10 by default) then limits their number."
    ),
    "backends.NAME.connect_share_server_to_tenant_network": (
        "true: the service VM has a second NIC in the tenant's own network. false: one NIC in the service network, "
        "which a router connects to the tenant's network. Upstream: the same name, default false."
    ),
    "backends.NAME.admin_network_id": (
        "Network of the operator's, by its id, on which service VMs have a NIC for admin-only export locations; where "
        "they have one on the tenant's network too, it replaces the service network. No tenant may use it. Empty: "
        "none. Upstream: the same name."
    ),
    "backends.NAME.admin_subnet_id": "The subnet of the admin network, by its id. Upstream: the same name.",
    "backends.NAME.default_network_id": (
        "Network of those share networks that name none, by its id: all of them are on it, so it is for deployments "
        "whose projects need no networks of their own. Empty: a share on such a share network ends in `error`. "
        "Upstream: `StandaloneNetworkPlugin`."
    ),
    "backends.NAME.default_subnet_ids": (
        "The subnets of the default network, by their ids: one, or an IPv4 and an IPv6 one."
    ),
    "backends.NAME.service_network_cidr": "Pool that service subnets are carved from. Upstream: the same name.",
    "backends.NAME.service_network_division_mask": ("Prefix length of each service subnet. Upstream: the same name."),
    "backends.NAME.boot_seconds": (
        "A new service VM must answer within this time. Upstream: `max_time_to_build_instance`."
    ),
    "backends.NAME.guest_seconds": "One call into a service VM must be answered within this time.",
    "backends.NAME.volume_name_template": (
        "Name of a share's volume; `%s` is the share instance's id. Upstream: the same name."
    ),
    "backends.NAME.volume_type": (
        "Volume type of shares whose share type names none. OpenStack: Cinder's; empty: Cinder's default. libvirt: one "
        "of `[libvirt.volume_types]`; empty: the state directory. Upstream: `cinder_volume_type`."
    ),
    "backends.NAME.volume_types": (
        "Further volume types, for share types with `sharewright:volume_type`. Each is a pool of its own, named like "
        "the type."
    ),
    "backends.NAME.volume_seconds": (
        "A volume must be created or deleted within this time. Upstream: `max_time_to_create_volume`, "
        "`max_time_to_extend_volume`."
    ),
    "backends.NAME.volume_snapshot_name_template": (
        "Name of a snapshot of a share's volume; `%s` is the snapshot instance's id. Upstream: the same name."
    ),
    "backends.NAME.snapshot_freeze_seconds": (
        "The longest that a share stands still for a snapshot: until the cloud has fixed its moment, mostly a second "
        "or less. The share server itself ends it then, and the snapshot is tried again. No upstream equivalent."
    ),
    "backends.NAME.attach_seconds": (
        "A volume must be attached or detached within this time. Upstream: `max_time_to_attach`."
    ),
    "backends.NAME.filesystem": "File system of new shares. Upstream: `share_volume_fstype`.",
    "backends.NAME.shrink_stall_seconds": (
        "While a share is switched to a smaller volume, clients of its server wait for at most this time, and for the"
        " NFS server to start. A share with more changes or files than can be dealt with in it does not shrink."
    ),
    "backends.NAME.shrink_open_files_seconds": (
        "How long an SMB share that shrinks waits for its clients to close their files, which would be lost with the "
        "connection; then shrinking is refused."
    ),
    "backends.NAME.reserved_share_percentage": (
        "Part of the capacity that new shares may not use. Upstream: the same name."
    ),
    "backends.NAME.reserved_share_from_snapshot_percentage": (
        "The same for shares made from a snapshot; 0: as `reserved_share_percentage`. Upstream: the same name."
    ),
    "backends.NAME.reserved_share_extend_percentage": (
        "The same for extending shares; 0: as `reserved_share_percentage`. Upstream: the same name."
    ),
    "backends.NAME.max_over_subscription_ratio": (
        "How far the sizes promised may exceed the capacity. Upstream: the same name."
    ),
    "backends.NAME.max_shares_per_share_server": (
        "Most shares, and snapshots that clients mount, on one server; -1: no limit. Upstream: the same name."
    ),
    "backends.NAME.max_share_server_size": "Most GiB on one server; -1: no limit. Upstream: the same name.",
}
