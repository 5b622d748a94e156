"""What the generic driver tells the scheduler about its backend."""

from __future__ import annotations

from ipaddress import ip_address
from typing import get_args

import structlog

from sharewright import __version__
from sharewright.clouds.contract import Cloud
from sharewright.drivers.contract import PoolStats
from sharewright.errors import CloudError, CloudUnavailable
from sharewright.guest.document import FilesystemType, SmbEncryption, Squash
from sharewright.settings import Backend

log = structlog.get_logger()


def pool_stats(name: str, settings: Backend, cloud: Cloud) -> list[PoolStats]:
    """A pool for the backend's default volume type, named like the backend, and one for each further type, named like
    the type. A further type that the cloud does not have, or cannot use, is left out."""
    pools = [_pool(name, name, settings, cloud)]
    for volume_type in settings.volume_types:
        try:
            pools.append(_pool(volume_type, name, settings, cloud, volume_type=volume_type))
        except CloudUnavailable:
            raise
        except CloudError as error:
            log.warning("a volume type has no pool", backend=name, volume_type=volume_type, reason=error.message)
    return pools


def _pool(pool: str, name: str, settings: Backend, cloud: Cloud, *, volume_type: str | None = None) -> PoolStats:
    """``capabilities`` has the names that Manila's share types refer to. ``volume_type``: only shares that ask for this
    one go there."""
    used = volume_type or settings.volume_type
    capacity = cloud.volumes.capacity(used or None)
    reserved = settings.reserved_share_percentage
    further_subnets = settings.driver_handles_share_servers and settings.connect_share_server_to_tenant_network
    return PoolStats(
        pool=pool,
        total_capacity=capacity.total,
        free_capacity=capacity.free,
        provisioned_capacity=capacity.provisioned,
        reserved_percentage=reserved,
        capabilities={
            "share_backend_name": name,
            "pool_name": pool,
            "vendor_name": "Sharewright (simulated)" if cloud.name == "simulated" else "Sharewright",
            "driver_version": __version__,
            "storage_protocol": "NFS_CIFS",
            "driver_handles_share_servers": settings.driver_handles_share_servers,
            "snapshot_support": True,
            "create_share_from_snapshot_support": True,
            "revert_to_snapshot_support": True,
            "mount_snapshot_support": True,
            "replication_type": None,
            "volume_types": [used] if used else [],
            "volume_type_required": volume_type is not None,
            "server_flavors": _server_flavors(settings),
            "filesystems": list(get_args(FilesystemType)),
            "squash_modes": list(get_args(Squash)),
            "smb_encryption_modes": list(get_args(SmbEncryption)),
            "sec_flavors": ["sys"],
            "share_group_stats": {"consistent_snapshot_support": "host"},
            "ipv4_support": _has_family(settings, 4),
            "ipv6_support": _has_family(settings, 6),
            "thin_provisioning": True,
            "max_over_subscription_ratio": settings.max_over_subscription_ratio,
            "free_quota_gb": capacity.quota,
            "reserved_percentage": reserved,
            "reserved_snapshot_percentage": settings.reserved_share_from_snapshot_percentage or reserved,
            "reserved_share_extend_percentage": settings.reserved_share_extend_percentage or reserved,
            "max_shares_per_share_server": settings.max_shares_per_share_server,
            "max_share_server_size": settings.max_share_server_size,
            "qos": False,
            "dedupe": False,
            "compression": False,
            "security_service_update_support": False,
            "network_allocation_update_support": further_subnets,
            "share_server_multiple_subnet_support": further_subnets,
            "mount_point_name_support": False,
        },
    )


def _server_flavors(settings: Backend) -> list[str] | None:
    """Those that a share type may ask for; None: the cloud knows them. A named server is what it is."""
    if not settings.driver_handles_share_servers:
        return []
    return None if settings.cloud == "openstack" else list(settings.flavors)


def _has_family(settings: Backend, version: int) -> bool:
    """Whether shares can have export locations with addresses of that IP version."""
    if settings.driver_handles_share_servers:
        return version == 4 or settings.connect_share_server_to_tenant_network
    names = settings.server.export_addresses or (settings.server.management_address,)
    return any(_family(name) in (None, version) for name in names)


def _family(name: str) -> int | None:
    """None: the name of a network, where the machine may have addresses of both."""
    try:
        return ip_address(name).version
    except ValueError:
        return None
