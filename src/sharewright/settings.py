"""The configuration: one TOML file, read into frozen, typed settings.

A mistake is a ConfigurationError that names the key, the value and what was expected. Each field's meaning is its entry
in ``DESCRIPTIONS`` (docs/configuration.md is generated from both; a test compares them).
"""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sharewright.errors import ConfigurationError

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


class Identity(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mode: Literal["none", "http_basic", "builtin"] = "none"
    user_file: str = ""
    project: str = "demo"
    user: str = "demo"
    roles: tuple[str, ...] = ("admin", "member", "reader")
    token_seconds: Seconds = 3600.0


class Database(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: str = ""
    pool_size: Annotated[int, Meta(ge=1, le=100)] = 10


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


class Libvirt(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    uri: str = "qemu:///system"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    start_daemons: bool = True
    volume_format: Literal["raw", "qcow2"] = "raw"


class Simulated(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    capacity: float = 100000.0
    delay_seconds: Annotated[float, Meta(ge=0)] = 0.0


class Backend(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One generic driver on one cloud."""

    cloud: Literal["libvirt", "simulated"] = "libvirt"
    availability_zone: str = "nova"
    # service instance
    image: str = ""
    vcpus: Annotated[int, Meta(ge=1, le=64)] = 1
    memory_mib: Annotated[int, Meta(ge=256)] = 512
    connect_share_server_to_tenant_network: bool = True
    service_network_cidr: str = "10.254.0.0/16"
    service_network_division_mask: Annotated[int, Meta(ge=16, le=29)] = 28
    boot_seconds: Seconds = 300.0
    guest_seconds: Seconds = 60.0
    # volumes and file systems
    volume_name_template: str = "manila-share-%s"
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
            raise ValueError(f"service_network_cidr: {error}") from error
        if not isinstance(pool, IPv4Network) or pool.prefixlen > self.service_network_division_mask:
            raise ValueError("service_network_cidr must be an IPv4 network at least as large as the division mask")
        if self.volume_name_template.count("%s") != 1:
            raise ValueError("volume_name_template needs exactly one %s")


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
    simulated: Simulated = Simulated()
    backends: dict[Name, Backend] = {}

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL; SQLite in the state directory unless configured."""
        return self.database.url or f"sqlite:///{self.state_path / 'sharewright.db'}"


DESCRIPTIONS: dict[str, str] = {}


def parse(data: dict[str, Any], *, source: str = "configuration") -> Settings:
    """Settings from parsed TOML. Raises ConfigurationError."""
    try:
        return msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source}: {error}", hint="See docs/configuration.md.") from error


def load(path: Path) -> Settings:
    """Settings from a file. Raises ConfigurationError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no configuration file {path}.", hint="Name one with --config.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    return parse(data, source=str(path))
