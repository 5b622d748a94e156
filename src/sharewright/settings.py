"""The configuration: one TOML file, read into frozen, typed settings.

A mistake is a ConfigurationError that names the key, the value and what was expected, for every mistake in the file at
once. Each field's meaning is its entry in ``DESCRIPTIONS`` (docs/configuration.md is generated from both; a test
compares them). A section's ``__post_init__`` checks what one field's type cannot say, and raises ValueError with a text
that begins with the field's name and a colon.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sharewright.errors import ConfigurationError
from sharewright.logging import redact, without_secrets

Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of the file."""


class Api(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    listen: str = "127.0.0.1"
    port: Port = 8786
    threads: Annotated[int, Meta(ge=1, le=256)] = 8
    max_limit: Annotated[int, Meta(ge=1, le=10000)] = 1000
    base_url: str = ""
    enable_forwarded_headers: bool = False

    def __post_init__(self) -> None:
        try:
            ip_address(self.listen)
        except ValueError:
            raise ValueError("listen: expected an IPv4 or IPv6 address of this host") from None
        if self.base_url and (
            urlsplit(self.base_url).scheme not in ("http", "https") or not urlsplit(self.base_url).netloc
        ):
            raise ValueError("base_url: expected http://… or https://…")


class Keystone(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The real Keystone of ``identity.mode = "keystone"``, and the user that asks it about tokens."""

    auth_url: str = ""
    www_authenticate_uri: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    user_domain: str = "Default"
    user_domain_id: str = ""
    project: str = "service"
    project_domain: str = "Default"
    project_domain_id: str = ""
    ca_file: str = ""
    request_seconds: Seconds = 10.0
    cache_seconds: Annotated[float, Meta(ge=0)] = 60.0
    service_token_roles: tuple[str, ...] = ("service",)

    def __repr__(self) -> str:
        return f"Keystone(auth_url={self.auth_url!r}, username={self.username!r})"

    def __post_init__(self) -> None:
        for name in ("auth_url", "www_authenticate_uri"):
            # The second is sent to every client in a quoted string of a header.
            if getattr(self, name) and not re.fullmatch(r"https?://[^\s\"{}<>\\]+", getattr(self, name)):
                raise ValueError(f"{name}: expected http://… or https://…")
        for name in ("password_file", "ca_file"):
            if getattr(self, name) and not Path(getattr(self, name)).is_absolute():
                raise ValueError(f"{name}: expected an absolute path")
        if self.password and self.password_file:
            raise ValueError("password_file: expected nothing beside password; keep one of the two")


class Identity(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mode: Literal["none", "http_basic", "builtin", "keystone"] = "none"
    user_file: str = ""
    project: str = "demo"
    user: str = "demo"
    roles: tuple[str, ...] = ("admin", "member", "reader")
    token_seconds: Seconds = 3600.0
    keystone: Keystone = Keystone()

    def __post_init__(self) -> None:
        if self.mode == "keystone":
            for name in ("auth_url", "username", "project"):
                if not getattr(self.keystone, name):
                    raise ValueError(f'keystone.{name}: mode "keystone" needs it')
            if not self.keystone.password and not self.keystone.password_file:
                raise ValueError('keystone.password_file: mode "keystone" needs it, or keystone.password')


class Database(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: str = ""
    pool_size: Annotated[int, Meta(ge=1, le=100)] = 10

    def __post_init__(self) -> None:
        if self.url and urlsplit(self.url).scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise ValueError("url: expected sqlite:////path/to/file or postgresql://user:password@host/name")


class Worker(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    threads: Annotated[int, Meta(ge=1, le=256)] = 8
    lease_seconds: Seconds = 15.0
    poll_seconds: Seconds = 1.0
    reconcile_seconds: Seconds = 30.0
    sweep_seconds: Seconds = 300.0
    stats_seconds: Seconds = 60.0
    operation_seconds: Seconds = 900.0
    retention_days: Annotated[int, Meta(ge=1)] = 30
    unused_server_seconds: Annotated[float, Meta(ge=0)] = 600.0


class Quotas(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Default limits per project; -1 is no limit (upstream's quota_* options)."""

    shares: int = 50
    gigabytes: int = 1000
    per_share_gigabytes: int = -1
    snapshots: int = 50
    snapshot_gigabytes: int = 1000
    share_networks: int = 10
    share_groups: int = 50
    share_group_snapshots: int = 50
    share_replicas: int = 100
    replica_gigabytes: int = 1000
    backups: int = 10
    backup_gigabytes: int = 1000
    encryption_keys: int = 100

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < -1:
                raise ValueError(f"{name}: expected a whole number ≥ -1 (-1: no limit)")


class Libvirt(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    uri: str = "qemu:///system"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    start_daemons: bool = True
    volume_format: Literal["raw", "qcow2"] = "raw"


class OpenStack(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the OpenStack cloud is reached, and how its service networks are."""

    cloud: str = ""
    auth_url: str = ""
    username: str = ""
    user_domain: str = "Default"
    password: str = ""
    password_file: str = ""
    project: str = "service"
    project_domain: str = "Default"
    application_credential_id: str = ""
    application_credential_secret: str = ""
    application_credential_secret_file: str = ""
    region: str = ""
    interface: Literal["", "public", "internal", "admin"] = ""
    ca_file: str = ""
    request_seconds: Seconds = 60.0
    image_project: str = ""
    management: Literal["routed", "floating", "host_port"] = "routed"
    management_router: str = ""
    management_cidrs: tuple[str, ...] = ()
    external_network: str = ""
    management_host: str = ""

    def __post_init__(self) -> None:
        if self.auth_url and (
            urlsplit(self.auth_url).scheme not in ("http", "https") or not urlsplit(self.auth_url).netloc
        ):
            raise ValueError("auth_url: expected http://… or https://…, such as https://keystone.example.org/v3")
        for name in ("password_file", "application_credential_secret_file", "ca_file"):
            if getattr(self, name) and not Path(getattr(self, name)).is_absolute():
                raise ValueError(f"{name}: expected an absolute path")
        for name, file in (
            ("password", self.password_file),
            ("application_credential_secret", self.application_credential_secret_file),
        ):
            if getattr(self, name) and file:
                raise ValueError(f"{name}_file: expected either this or openstack.{name}, not both")
        for cidr in self.management_cidrs:
            try:
                ip_network(cidr)
            except ValueError:
                raise ValueError("management_cidrs: expected networks such as 192.0.2.0/24") from None

    def __repr__(self) -> str:
        return f"OpenStack(cloud={self.cloud!r}, auth_url={self.auth_url!r}, username={self.username!r}, …)"


class Simulated(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    capacity: float = 100000.0
    delay_seconds: Annotated[float, Meta(ge=0)] = 0.0


class Backend(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One generic driver on one cloud."""

    cloud: Literal["libvirt", "openstack", "simulated"] = "libvirt"
    availability_zone: str = "nova"
    # service instance
    image: str = ""
    vcpus: Annotated[int, Meta(ge=1, le=64)] = 1
    memory_mib: Annotated[int, Meta(ge=256)] = 512
    flavor: str = ""
    boot_volume_size: Annotated[int, Meta(ge=0)] = 0
    boot_volume_type: str = ""
    server_group: Literal["none", "soft-anti-affinity", "anti-affinity"] = "none"
    connect_share_server_to_tenant_network: bool = True
    service_network_cidr: str = "10.254.0.0/16"
    service_network_division_mask: Annotated[int, Meta(ge=16, le=29)] = 28
    boot_seconds: Seconds = 300.0
    guest_seconds: Seconds = 60.0
    # volumes and file systems
    volume_name_template: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.%-]+$")] = "manila-share-%s"
    volume_type: str = ""
    volume_seconds: Seconds = 180.0
    attach_seconds: Seconds = 120.0
    filesystem: Literal["ext4", "xfs"] = "ext4"
    reserved_share_percentage: Annotated[int, Meta(ge=0, le=100)] = 0
    max_over_subscription_ratio: Annotated[float, Meta(ge=1)] = 20.0
    max_shares_per_share_server: int = -1
    max_share_server_size: int = -1

    def __post_init__(self) -> None:
        try:
            pool = ip_network(self.service_network_cidr)
        except ValueError as error:
            raise ValueError(
                f"service_network_cidr: expected an IPv4 network such as 10.254.0.0/16 ({error})"
            ) from None
        if not isinstance(pool, IPv4Network) or pool.prefixlen > self.service_network_division_mask:
            raise ValueError(
                "service_network_cidr: expected an IPv4 network that holds at least one subnet of"
                f" service_network_division_mask (/{self.service_network_division_mask})"
            )
        if self.volume_name_template.count("%s") != 1 or self.volume_name_template.count("%") != 1:
            raise ValueError("volume_name_template: expected exactly one %s, where the share instance's id goes")
        for name in ("max_shares_per_share_server", "max_share_server_size"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name}: expected a whole number ≥ 1, or -1 for no limit")
        if self.cloud == "openstack" and not self.flavor:
            raise ValueError("flavor: expected the name or id of a Nova flavor")
        if self.image and self.cloud != "openstack" and not Path(self.image).is_absolute():
            raise ValueError("image: expected an absolute path, or nothing for <state_dir>/images/service")


class Settings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    state_dir: str = "/var/lib/sharewright"
    deployment: Name = "sharewright"
    node: Name = "sharewright"
    default_share_type: str = "default"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api: Api = Api()
    identity: Identity = Identity()
    database: Database = Database()
    worker: Worker = Worker()
    quotas: Quotas = Quotas()
    libvirt: Libvirt = Libvirt()
    openstack: OpenStack = OpenStack()
    simulated: Simulated = Simulated()
    backends: dict[Name, Backend] = {}

    def __post_init__(self) -> None:
        if not Path(self.state_dir).is_absolute():
            raise ValueError("state_dir: expected an absolute path")

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL; SQLite in the state directory unless configured."""
        return self.database.url or f"sqlite:///{self.state_path / 'sharewright.db'}"


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
    "log_format": "`text` for people, `json` for log collectors; both on standard error.",
    "log_level": "The least level that is logged.",
    "api.listen": (
        "Address that the API listens on. The default is reachable from this host only; put a TLS proxy in front "
        "before you open it to a network."
    ),
    "api.port": "TCP port of the API. 8786 is Manila's.",
    "api.threads": "Requests handled at the same time.",
    "api.max_limit": "Most items on one page of a list. Upstream: `osapi_max_limit`.",
    "api.base_url": (
        "URL under which clients reach the API (`https://shares.example.org`), for links and the service catalogue. "
        "Empty: taken from each request."
    ),
    "api.enable_forwarded_headers": (
        "Believe `X-Forwarded-Proto`, `-Host` and `-Prefix`. Only behind a proxy that sets them itself. Upstream: "
        "`enable_proxy_headers_parsing`."
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
    "database.pool_size": "Database connections that one process keeps.",
    "worker.threads": "Operations that one worker process runs at the same time.",
    "worker.lease_seconds": (
        "A worker that has not renewed its claim for so long has lost it, and any other worker continues its "
        "operations."
    ),
    "worker.poll_seconds": "How often a worker looks for operations that another process has queued.",
    "worker.reconcile_seconds": "How often desired and actual state of the share servers are compared.",
    "worker.sweep_seconds": "How often cloud objects of ours without an owner are looked for and removed.",
    "worker.stats_seconds": "How often each backend reports its capacity to the scheduler.",
    "worker.operation_seconds": "Deadline of an operation, counted from its request.",
    "worker.retention_days": "Days that finished operations and user messages are kept. Upstream: `message_ttl`.",
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
        "service network."
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
    "backends.NAME.cloud": (
        "What supplies virtual machines, volumes and networks. `simulated` stores no data: for tests and for authors "
        "of clients."
    ),
    "backends.NAME.availability_zone": (
        "Zone that the backend's pools and share servers are in. Upstream: `backend_availability_zone`."
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
        "Volume type of all shares, where the cloud has such. Upstream: `cinder_volume_type`."
    ),
    "backends.NAME.volume_seconds": (
        "A volume must be created or deleted within this time. Upstream: `max_time_to_create_volume`, "
        "`max_time_to_extend_volume`."
    ),
    "backends.NAME.attach_seconds": (
        "A volume must be attached or detached within this time. Upstream: `max_time_to_attach`."
    ),
    "backends.NAME.filesystem": "File system of new shares. Upstream: `share_volume_fstype`.",
    "backends.NAME.reserved_share_percentage": (
        "Part of the capacity that new shares may not use. Upstream: the same name."
    ),
    "backends.NAME.max_over_subscription_ratio": (
        "How far the sizes promised may exceed the capacity. Upstream: the same name."
    ),
    "backends.NAME.max_shares_per_share_server": ("Most shares on one server; -1: no limit. Upstream: the same name."),
    "backends.NAME.max_share_server_size": "Most GiB on one server; -1: no limit. Upstream: the same name.",
}


def field_types(section: type[Section]) -> dict[str, Any]:
    """Each field's type with its limits, in order of declaration."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.__struct_fields__}


def expectation(kind: Any) -> str:
    """What a field's type accepts, in words: "a whole number, 1 to 65535"."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.LiteralType):
        return " or ".join(json.dumps(value) for value in info.values)
    if isinstance(info, msgspec.inspect.BoolType):
        return "true or false"
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        noun = "a whole number" if isinstance(info, msgspec.inspect.IntType) else "a number"
        if info.ge is not None and info.le is not None:
            return f"{noun}, {info.ge} to {info.le}"
        limits = {">": info.gt, "≥": info.ge, "<": info.lt, "≤": info.le}
        return " ".join([noun, *(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None)])
    if isinstance(info, msgspec.inspect.StrType):
        return "a string of letters, digits, '_', '.', '-'" if info.pattern else "a string"
    if isinstance(info, msgspec.inspect.VarTupleType):
        return "a list of strings"
    return "a table"


def parse(data: dict[str, Any], *, source: str = "configuration") -> Settings:
    """Settings from parsed TOML. Raises ConfigurationError that lists every mistake."""
    problems = _problems(Settings, data, "")
    if problems:
        raise ConfigurationError(f"{source}: {'; '.join(problems)}.", hint="docs/configuration.md explains every key.")
    try:
        return msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:  # for what a later field type may add and _problems does not know
        raise ConfigurationError(f"{source}: {error}.", hint="docs/configuration.md explains every key.") from error


def load(path: Path) -> Settings:
    """Settings from a file. Raises ConfigurationError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no configuration file {path}.", hint="Name one with --config.") from error
    except PermissionError as error:
        raise ConfigurationError(f"{path} may not be read by this user.", hint="Run as root, or chmod it.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"{path} is not a readable TOML file: {error}.", hint="See https://toml.io."
        ) from error
    return parse(data, source=str(path))


def _problems(section: type[Section], data: Any, prefix: str) -> list[str]:
    """Every mistake in one table and the tables below it, as "key = value: what was expected"."""
    if not isinstance(data, dict):
        return [f"{prefix.rstrip('.')} = {_shown(data)}: expected a table ([{prefix.rstrip('.')}])"]
    types = field_types(section)
    problems = []
    for key, value in data.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            problems.append(
                f"{prefix}{key}: there is no such key" + (f"; did you mean {prefix}{near[0]}?" if near else "")
            )
        elif isinstance(types[key], type) and issubclass(types[key], Section):
            problems += _problems(types[key], value, f"{prefix}{key}.")
        elif get_origin(types[key]) is dict:
            problems += _backend_problems(value, f"{prefix}{key}")
        else:
            try:
                msgspec.convert(value, types[key])
            except msgspec.ValidationError:
                problems.append(f"{prefix}{key} = {_shown(value, key)}: expected {expectation(types[key])}")
    if not problems:
        try:
            msgspec.convert(data, section)
        except msgspec.ValidationError as error:
            name, _, text = (
                str(error).rpartition(" - at `")[0].partition(": ")
                if " - at `" in str(error)
                else (str(error).partition(": "))
            )
            shown = f" = {_shown(data[name], name)}" if name in data else ""
            problems.append(f"{prefix}{name}{shown}: {text}")
    return problems


def _backend_problems(value: Any, key: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{key} = {_shown(value)}: expected tables such as [{key}.main]"]
    problems = []
    for name, table in value.items():
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            problems.append(f"{key}.{_shown(name)}: a backend's name consists of letters, digits, '_', '.' and '-'")
        problems += _problems(Backend, table, f"{key}.{name}.")
    return problems


def _shown(value: Any, key: str = "") -> str:
    text = without_secrets(json.dumps(redact({key: value})[key], default=str, ensure_ascii=False))
    return text if len(text) <= 80 else text[:77] + "…"
