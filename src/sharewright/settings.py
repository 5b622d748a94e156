"""The settings: frozen, typed, one class for each table of the configuration file.

configuration_file.py reads them. Each field's meaning is its entry in setting_descriptions.py (docs/configuration.md is
generated from both; a test compares them). A section's ``__post_init__`` checks what one field's type cannot say, and
raises ValueError with a text that begins with the field's name and a colon.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sharewright.identifiers import is_id
from sharewright.secret_files import check_secret_file

Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Percentage = Annotated[int, Meta(ge=0, le=100)]
Vcpus = Annotated[int, Meta(ge=1, le=64)]
MemoryMib = Annotated[int, Meta(ge=256)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]


CLOUDS_WITH_FILES = frozenset({"libvirt", "simulated"})  # they keep volumes or records in the state directory


def _check_path(name: str, value: str) -> None:
    """ValueError unless it is empty or an absolute path."""
    if value and not Path(value).is_absolute():
        raise ValueError(f"{name}: expected an absolute path")


def _check_address(listen: str) -> None:
    if not _is_address(listen):
        raise ValueError("listen: expected an IPv4 or IPv6 address of this host")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of the file."""


class Api(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    listen: str = "127.0.0.1"
    port: Port = 8786
    threads: Annotated[int, Meta(ge=1, le=256)] = 8
    processes: Annotated[int, Meta(ge=-1, le=64)] = 0
    max_limit: Annotated[int, Meta(ge=1, le=10000)] = 1000
    max_access_rules: Annotated[int, Meta(ge=1)] = 2000
    base_url: str = ""
    policy_file: str = ""
    enable_forwarded_headers: bool = False
    drain_seconds: Annotated[float, Meta(ge=0)] = 5.0

    def __post_init__(self) -> None:
        _check_address(self.listen)
        if self.base_url and not _is_url(self.base_url):
            raise ValueError("base_url: expected http://… or https://…")
        _check_path("policy_file", self.policy_file)


class Metrics(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    listen: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    most_detailed_shares: Annotated[int, Meta(ge=0)] = 20000

    def __post_init__(self) -> None:
        _check_address(self.listen)


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
        check_secret_file("password_file", self.password_file)
        _check_path("ca_file", self.ca_file)
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
    password_file: str = ""
    master_key_file: str = ""
    access_key_file: str = ""
    pool_size: Annotated[int, Meta(ge=1, le=100)] = 10

    def __post_init__(self) -> None:
        for name in ("password_file", "master_key_file", "access_key_file"):
            check_secret_file(name, getattr(self, name))
        if self.password_file and not self.url:
            raise ValueError("password_file: expected only together with url, whose password it holds")
        if self.url and urlsplit(self.url).scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise ValueError("url: expected sqlite:////path/to/file or postgresql://user:password@host/name")


class Worker(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    lease_seconds: Seconds = 15.0
    poll_seconds: Seconds = 1.0
    reconcile_seconds: Seconds = 30.0
    looks_per_second: Annotated[float, Meta(gt=0, le=1000)] = 5.0
    sweep_seconds: Seconds = 300.0
    soft_deleted_share_seconds: Seconds = 604800.0
    stats_seconds: Seconds = 60.0
    operation_seconds: Seconds = 900.0
    gather_quiet_seconds: Annotated[float, Meta(ge=0)] = 0.1
    gather_seconds: Annotated[float, Meta(ge=0)] = 2.0
    retention_days: Annotated[int, Meta(ge=1)] = 30
    replica_state_seconds: Annotated[float, Meta(gt=0)] = 300.0
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


class VolumeDirectory(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where libvirt keeps the volumes of one volume type."""

    directory: str = ""

    def __post_init__(self) -> None:
        if not Path(self.directory).is_absolute():
            raise ValueError("directory: expected an absolute path")


class Libvirt(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    uri: str = "qemu:///system"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    start_daemons: bool = True
    volume_format: Literal["raw", "qcow2"] = "raw"
    volume_types: dict[Name, VolumeDirectory] = {}


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
        if self.auth_url and not _is_url(self.auth_url):
            raise ValueError("auth_url: expected http://… or https://…, such as https://keystone.example.org/v3")
        for name in ("password_file", "application_credential_secret_file"):
            check_secret_file(name, getattr(self, name))
        _check_path("ca_file", self.ca_file)
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
    any_network: bool = False


class ServerFlavor(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A size of service VMs that share types may choose, where the cloud has no flavors of its own."""

    vcpus: Vcpus = 1
    memory_mib: MemoryMib = 512


class NamedServer(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The machine of an operator's that has all shares of a backend which makes no share servers of its own."""

    instance: str = ""
    management_address: str = ""
    export_addresses: tuple[str, ...] = ()
    ssh_user: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    ssh_port: Port = 22
    key_file: str = ""
    host_key: str = ""

    def __post_init__(self) -> None:
        check_secret_file("key_file", self.key_file)
        if self.host_key and not re.fullmatch(r"ssh-ed25519 [A-Za-z0-9+/]{68}( .*)?", self.host_key):
            raise ValueError("host_key: expected a line such as the machine's /etc/ssh/ssh_host_ed25519_key.pub")
        if "" in self.export_addresses:
            raise ValueError("export_addresses: expected addresses, or names of networks of the cloud")


class Backend(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One share driver on one cloud."""

    driver: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*(:[A-Za-z_][A-Za-z0-9_]*)?$")] = "generic"
    cloud: Literal["libvirt", "openstack", "simulated"] = "libvirt"
    availability_zone: str = "nova"
    driver_handles_share_servers: bool = True
    server: NamedServer = NamedServer()
    # service instance
    image: str = ""
    vcpus: Vcpus = 1
    memory_mib: MemoryMib = 512
    flavor: str = ""
    flavors: dict[Name, ServerFlavor] = {}
    boot_volume_size: Annotated[int, Meta(ge=0)] = 0
    boot_volume_type: str = ""
    server_group: Literal["none", "soft-anti-affinity", "anti-affinity"] = "none"
    connect_share_server_to_tenant_network: bool = True
    admin_network_id: str = ""
    admin_subnet_id: str = ""
    default_network_id: str = ""
    default_subnet_ids: tuple[str, ...] = ()
    service_network_cidr: str = "10.254.0.0/16"
    service_network_division_mask: Annotated[int, Meta(ge=16, le=29)] = 28
    boot_seconds: Seconds = 300.0
    guest_seconds: Seconds = 60.0
    # volumes and file systems
    volume_name_template: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.%-]+$")] = "manila-share-%s"
    volume_type: str = ""
    volume_types: tuple[str, ...] = ()
    volume_seconds: Seconds = 180.0
    volume_snapshot_name_template: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.%-]+$")] = "manila-snapshot-%s"
    snapshot_freeze_seconds: Annotated[float, Meta(gt=0, le=300)] = 20.0
    attach_seconds: Seconds = 120.0
    filesystem: Literal["ext4", "xfs"] = "ext4"
    shrink_stall_seconds: Annotated[float, Meta(gt=0, le=300)] = 30.0
    shrink_open_files_seconds: Annotated[float, Meta(ge=0)] = 60.0
    reserved_share_percentage: Percentage = 0
    reserved_share_from_snapshot_percentage: Percentage = 0
    reserved_share_extend_percentage: Percentage = 0
    max_over_subscription_ratio: Annotated[float, Meta(ge=1)] = 20.0
    max_shares_per_share_server: int = -1
    max_share_server_size: int = -1

    @property
    def has_service_network(self) -> bool:
        """Not where service VMs are on the tenant's network and the admin network (layout "tenant_admin"), nor where
        there are none."""
        return self.driver_handles_share_servers and not (
            self.connect_share_server_to_tenant_network and self.admin_network_id
        )

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
        for name, other in (
            ("admin_network_id", "admin_subnet_id"),
            ("admin_subnet_id", "admin_network_id"),
        ):
            if getattr(self, name) and not is_id(getattr(self, name)):
                raise ValueError(f"{name}: expected a UUID")
            if getattr(self, name) and not getattr(self, other):
                raise ValueError(f"{name}: expected only together with {other}")
        for name, what in (("volume_name_template", "share"), ("volume_snapshot_name_template", "snapshot")):
            if getattr(self, name).count("%s") != 1 or getattr(self, name).count("%") != 1:
                raise ValueError(f"{name}: expected exactly one %s, where the {what} instance's id goes")
        if self.default_network_id and not is_id(self.default_network_id):
            raise ValueError("default_network_id: expected a UUID")
        if bool(self.default_network_id) != bool(self.default_subnet_ids):
            raise ValueError("default_subnet_ids: expected together with default_network_id, or neither")
        if not all(is_id(each) for each in self.default_subnet_ids):
            raise ValueError("default_subnet_ids: expected UUIDs")
        if self.default_network_id and self.default_network_id == self.admin_network_id:
            raise ValueError("default_network_id: expected another network than admin_network_id, which is no tenant's")
        for name in ("max_shares_per_share_server", "max_share_server_size"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name}: expected a whole number ≥ 1, or -1 for no limit")
        if (
            "" in self.volume_types
            or self.volume_type in self.volume_types
            or len(set(self.volume_types)) < len(self.volume_types)
        ):
            raise ValueError("volume_types: expected different names, and none that is volume_type")
        self._check_server()
        if self.cloud == "openstack" and not self.flavor and self.driver_handles_share_servers:
            raise ValueError("flavor: expected the name or id of a Nova flavor")
        if self.cloud == "openstack" and self.flavors:
            raise ValueError("flavors: expected nothing here: share types name Nova's flavors themselves")
        if self.image and self.cloud != "openstack" and not Path(self.image).is_absolute():
            raise ValueError("image: expected an absolute path, or nothing for <state_dir>/images/service")

    def _check_server(self) -> None:
        if self.driver_handles_share_servers:
            if self.server != NamedServer():
                raise ValueError("server: expected only together with driver_handles_share_servers = false")
            return
        needed = ("instance", "management_address", "key_file", "host_key")
        missing = [name for name in needed if not getattr(self.server, name)]
        if missing:
            raise ValueError(
                "server: expected, with driver_handles_share_servers = false, the machine that has the shares; it lacks"
                f" {', '.join(missing)}"
            )
        for name in ("max_shares_per_share_server", "max_share_server_size"):
            if getattr(self, name) != -1:  # a share that does not fit goes to another share server; here is no other
                raise ValueError(f"{name}: expected only together with driver_handles_share_servers = true")
        for name in (self.server.management_address, *self.server.export_addresses):
            if self.cloud == "libvirt" and not _is_address(name):
                raise ValueError(
                    f"server: expected IP addresses, not {name!r}: libvirt does not know the addresses on a network"
                )


class Settings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    state_dir: str = "/var/lib/sharewright"
    deployment: Name = "sharewright"
    node: Name = "sharewright"
    default_share_type: str = "default"
    default_share_group_type: str = ""
    enabled_share_protocols: tuple[Annotated[str, Meta(pattern=r"^[A-Z0-9]{1,16}$")], ...] = ("NFS", "CIFS")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api: Api = Api()
    metrics: Metrics = Metrics()
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
        for name, backend in self.backends.items():
            for key, types in (("volume_type", (backend.volume_type,)), ("volume_types", backend.volume_types)):
                unknown = set(types) - {"", *self.libvirt.volume_types}
                if backend.cloud == "libvirt" and unknown:
                    raise ValueError(
                        f"backends.{name}.{key}: expected names that are in [libvirt.volume_types], not"
                        f" {', '.join(sorted(unknown))}"
                    )

        named: dict[tuple[str, str], str] = {}
        for name, backend in self.backends.items():
            if backend.driver_handles_share_servers:
                continue
            for what in (backend.server.instance, backend.server.management_address):
                other = named.setdefault((backend.cloud, what), name)
                if other != name:  # each would take the other's shares for leftovers
                    raise ValueError(f"backends.{name}.server: expected a machine of its own; {what} is {other}'s")

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL; SQLite in the state directory unless configured. Without what is in password_file."""
        return self.database.url or f"sqlite:///{self.state_path / 'sharewright.db'}"

    @property
    def worker_threads(self) -> int:
        """``worker.threads``, or what that means as 0: as many as upstream's services have (oslo.messaging's
        executor_thread_pool_size), unless it is this host that boots the machines that the threads wait for."""
        on_this_host = any(backend.cloud == "libvirt" for backend in self.backends.values())
        return self.worker.threads or (16 if on_this_host else 64)

    @property
    def has_service_networks(self) -> bool:
        """Whether any backend on OpenStack makes service networks, so that controllers need a way to them."""
        return any(each.has_service_network for each in self.backends.values() if each.cloud == "openstack")

    @property
    def keeps_files(self) -> bool:
        """Whether this deployment keeps anything on the host it runs on, in the state directory. False: a process needs
        no directory it can write to, and any number of hosts are alike."""
        return (
            urlsplit(self.database_url).scheme.partition("+")[0] == "sqlite"
            or not self.database.master_key_file
            or any(backend.cloud in CLOUDS_WITH_FILES for backend in self.backends.values())
        )
