"""A large deployment for tests and the scale study: its rows, written with COPY as its own stories would have left
them, with their history; and the driver and the stories that work on them, with the twin of a cloud.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from sqlalchemy import JSON, Table

from sharewright.drivers.generic.driver import GENERIC, GenericDriver
from sharewright.guest.document import Firewall
from sharewright.identifiers import utcnow
from sharewright.operations.assembly import service_instance_settings
from sharewright.operations.contract import Story
from sharewright.operations.stories import make_stories
from sharewright.service_instance.convergence import Convergence
from sharewright.service_instance.instances import CloudServiceInstances
from sharewright.service_instance.keys import new_key_pair
from sharewright.settings import Api, Backend, Identity, Quotas, Settings
from sharewright.settings import Worker as WorkerSettings
from sharewright.store.database import Store
from sharewright.store.secrets import SecretBox
from sharewright.store.tables import (
    operation_steps,
    operations,
    pools,
    quota_usages,
    secrets,
    service_instances,
    share_access_rules,
    share_export_locations,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
    shares,
)
from twin_cloud import TwinCloud, TwinGuests

BACKEND = "scale"
NODE = "scale"
HOST = f"{NODE}@{BACKEND}#{BACKEND}"
USER = "scale-user"
SERVERS_PER_PROJECT = 10
HISTORY = timedelta(days=30)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Server:
    """What the study needs to know of a server that was loaded."""

    id: str
    project_id: str
    network_id: str
    instance_id: str
    share_ids: tuple[str, ...]
    share_instance_ids: tuple[str, ...]


def make_settings(project: str = "project-00000") -> Settings:
    """As configured by default, but for what would begin by itself in the middle of a measurement."""
    return Settings(
        node=NODE,
        deployment="scale",
        api=Api(threads=8),
        identity=Identity(project=project, user="scale-user"),
        worker=WorkerSettings(stats_seconds=86400.0, gather_quiet_seconds=0.0),
        quotas=Quotas(shares=-1, gigabytes=-1),
        backends={BACKEND: Backend(cloud="simulated")},
    )


def make_driver(store: Store, key_file: Path, cloud: TwinCloud, guest_seconds: float) -> GenericDriver:
    settings = make_settings()
    backend = settings.backends[BACKEND]
    instances = CloudServiceInstances(
        store,
        cloud,
        TwinGuests(guest_seconds),
        SecretBox(key_file),
        service_instance_settings(settings, BACKEND, backend, client_ports=GENERIC.client_ports),
    )
    return GenericDriver(
        BACKEND, backend, store=store, cloud=cloud, instances=instances, convergence=Convergence(instances.apply),
        open_key=str,
    )  # fmt: skip


def make_stories_of(store: Store, driver: GenericDriver) -> dict[str, Story]:
    return make_stories(store, {BACKEND: driver}, make_settings())


def plan(servers: int, shares_in_all: int) -> list[Server]:
    """Servers, ten to a project, with their parts of the shares; the same every time."""
    choose = random.Random(1)

    def identifier() -> str:
        return str(uuid.UUID(int=choose.getrandbits(128), version=4))

    planned = []
    for number in range(servers):
        count = shares_in_all // servers + (number < shares_in_all % servers)
        planned.append(
            Server(
                id=identifier(),
                project_id=f"project-{number // SERVERS_PER_PROJECT:05}",
                network_id=identifier(),
                instance_id=identifier(),
                share_ids=tuple(identifier() for _ in range(count)),
                share_instance_ids=tuple(identifier() for _ in range(count)),
            )
        )
    return planned


def load(url: str, servers: Sequence[Server], share_type_id: str, box: SecretBox) -> None:
    """Write everything, then let the database's statistics be current, as its autovacuum would."""
    with psycopg.connect(url) as connection:
        copy(connection, share_networks, _networks(servers))
        copy(connection, share_network_subnets, _subnets(servers))
        copy(connection, share_servers, _servers(servers))
        copy(connection, service_instances, _service_instances(servers))
        copy(connection, secrets, _secrets(servers, box))
        copy(connection, shares, _shares(servers, share_type_id))
        copy(connection, share_instances, _instances(servers))
        copy(connection, share_export_locations, _locations(servers))
        copy(connection, share_access_rules, _rules(servers))
        copy(connection, quota_usages, _usages(servers, share_type_id))
        copy(connection, operations, _history(servers))
        copy(connection, operation_steps, _steps(servers))
        copy(connection, pools, _pools())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def copy(connection: psycopg.Connection[Any], table: Table, rows: Iterator[Row]) -> None:
    first = next(rows)
    columns = list(first)
    texts = {column.name for column in table.columns if isinstance(column.type, JSON)}
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN".encode()) as stream:
        for row in (first, *rows):
            stream.write_row([json.dumps(row[name]) if name in texts else row[name] for name in columns])


def _ago(position: float, span: timedelta = HISTORY) -> datetime:
    """``position`` from 0 (long ago) to 1 (just now)."""
    return utcnow() - span * (1 - position)


def _networks(servers: Sequence[Server]) -> Iterator[Row]:
    for server in servers:
        yield {
            "id": server.network_id, "project_id": server.project_id, "user_id": USER, "status": "active",
            "created_at": _ago(0),
        }  # fmt: skip


def _subnets(servers: Sequence[Server]) -> Iterator[Row]:
    for server in servers:
        yield {
            "id": subnet_id(server), "share_network_id": server.network_id, "neutron_net_id": server.network_id,
            "neutron_subnet_id": server.network_id, "metadata": {}, "created_at": _ago(0),
        }  # fmt: skip


def subnet_id(server: Server) -> str:
    return server.network_id  # another table: the same id does no harm


def _servers(servers: Sequence[Server]) -> Iterator[Row]:
    for server in servers:
        yield {
            "id": server.id, "project_id": server.project_id, "share_network_id": server.network_id,
            "share_network_subnet_id": subnet_id(server), "backend": BACKEND, "host": f"{NODE}@{BACKEND}",
            "status": "active", "is_auto_deletable": True, "generation": 1, "healthy": True, "last_seen": utcnow(),
            "created_at": _ago(0),
        }  # fmt: skip


def _service_instances(servers: Sequence[Server]) -> Iterator[Row]:
    host = new_key_pair()
    firewall = Firewall(
        management_macs=("fa:16:3e:00:00:01",), management_from=("10.254.0.1",), client_macs=("fa:16:3e:00:00:02",)
    )
    for number, server in enumerate(servers):
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        yield {
            "id": server.id, "backend": BACKEND, "layout": "tenant", "instance_id": server.instance_id, "ports": [],
            "management_address": address, "export_addresses": [address], "firewall": msgspec.to_builtins(firewall),
            "host_key": host.public, "private_key_secret": server.id, "host_key_secret": server.network_id,
            "heal_attempts": 0, "heal_reboots": 0, "created_at": _ago(0),
        }  # fmt: skip


def _secrets(servers: Sequence[Server], box: SecretBox) -> Iterator[Row]:
    sealed = box.seal(new_key_pair().private)  # one for all: their number matters here, not their content
    for server in servers:
        for identifier in (server.id, server.network_id):
            yield {
                "id": identifier, "owner": f"share_server:{server.id}", "ciphertext": sealed, "created_at": _ago(0),
            }  # fmt: skip


def _shares(servers: Sequence[Server], share_type_id: str) -> Iterator[Row]:
    for number, server in enumerate(servers):
        for identifier in server.share_ids:
            yield {
                "id": identifier, "project_id": server.project_id, "user_id": USER, "name": f"share {number}",
                "size": 1, "protocol": "NFS", "is_public": False, "share_type_id": share_type_id,
                "status": "available", "progress": "100%", "host": HOST, "availability_zone": "nova",
                "share_network_id": server.network_id, "share_server_id": server.id, "access_rules_status": "active",
                "snapshot_support": False, "create_share_from_snapshot_support": False,
                "revert_to_snapshot_support": False, "mount_snapshot_support": False,
                "created_at": _ago(number / len(servers)),
            }  # fmt: skip


def _instances(servers: Sequence[Server]) -> Iterator[Row]:
    for number, server in enumerate(servers):
        for share, identifier in zip(server.share_ids, server.share_instance_ids, strict=True):
            yield {
                "id": identifier, "share_id": share, "status": "available", "host": HOST, "backend": BACKEND,
                "availability_zone": "nova", "share_network_id": server.network_id, "share_server_id": server.id,
                "size": 1, "volume_id": identifier, "volume_serial": identifier, "volume_attached": True,
                "filesystem_type": "ext4", "filesystem_uuid": identifier, "filesystem_ready": True, "wanted": True,
                "created_at": _ago(number / len(servers)),
            }  # fmt: skip


def _locations(servers: Sequence[Server]) -> Iterator[Row]:
    for number, server in enumerate(servers):
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        for identifier in server.share_instance_ids:
            yield {
                "id": identifier, "share_instance_id": identifier, "path": f"{address}:/shares/share-{identifier}",
                "is_admin_only": False, "preferred": True, "metadata": {}, "created_at": _ago(0),
            }  # fmt: skip


def _rules(servers: Sequence[Server]) -> Iterator[Row]:
    for server in servers:
        for identifier in server.share_ids:
            yield {
                "id": identifier, "share_id": identifier, "access_type": "ip", "access_to": "10.99.0.5",
                "access_level": "rw", "state": "active", "created_at": _ago(0),
            }  # fmt: skip


def _usages(servers: Sequence[Server], share_type_id: str) -> Iterator[Row]:
    used: dict[str, int] = {}
    for server in servers:
        used[server.project_id] = used.get(server.project_id, 0) + len(server.share_ids)
    for project, count in used.items():
        for user, share_type in (("", ""), (USER, ""), ("", share_type_id)):
            for resource in ("shares", "gigabytes"):
                yield {
                    "project_id": project, "user_id": user, "share_type_id": share_type, "resource": resource,
                    "in_use": count,
                }  # fmt: skip


def _history(servers: Sequence[Server]) -> Iterator[Row]:
    """A creation and a rule change of every share, finished within the retention time."""
    sequence = 0
    for number, server in enumerate(servers):
        moment = _ago(number / len(servers))
        for share, instance in zip(server.share_ids, server.share_instance_ids, strict=True):
            for kind, identifier in (("create_share", share), ("update_access", instance)):
                sequence += 1
                yield {
                    "id": identifier, "kind": kind, "resource_type": "share", "resource_id": share,
                    "key": f"share:{share}", "sequence": sequence, "priority": 0, "state": "succeeded",
                    "not_before": moment, "deadline": moment, "attempts": 1, "retries": 0, "crashes": 0, "epoch": 1,
                    "worker_id": "w", "project_id": server.project_id, "user_id": USER, "request_id": None,
                    "payload": {}, "facts": {}, "created_at": moment, "updated_at": moment, "finished_at": moment,
                    "seconds": 1.0,
                }  # fmt: skip


def _steps(servers: Sequence[Server]) -> Iterator[Row]:
    for server in servers:
        for share, instance in zip(server.share_ids, server.share_instance_ids, strict=True):
            for operation, names in ((share, ("volume", "attach", "guest")), (instance, ("guest",))):
                for position, name in enumerate(names):
                    yield {
                        "operation_id": operation, "position": position, "name": name, "epoch": 1,
                        "started_at": _ago(0), "finished_at": _ago(0), "seconds": 0.1,
                    }  # fmt: skip


def _pools() -> Iterator[Row]:
    yield {
        "host": HOST, "backend": BACKEND, "availability_zone": "nova", "total_capacity": 1e9, "free_capacity": 9e8,
        "provisioned_capacity": 1e5, "reserved_percentage": 0,
        "capabilities": {
            "share_backend_name": BACKEND, "pool_name": BACKEND, "storage_protocol": "NFS",
            "driver_handles_share_servers": True, "thin_provisioning": True, "max_over_subscription_ratio": 20.0,
        },
        "reported_at": utcnow(),
    }  # fmt: skip
