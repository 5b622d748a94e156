"""A small world for tests of drivers and stories: a store, a simulated cloud with one tenant network, and the rows and
operations that the API writes.

``World.run`` tells the stories with the engine's own claim and runner in this thread, and lets parked time pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Table, select, update

from operators_machine import make_machine, named_server
from sharewright.clouds.contract import TAG_OWNER
from sharewright.clouds.open import simulated_path
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.clouds.simulated.guest import SimulatedGuests
from sharewright.context import RequestContext
from sharewright.drivers.contract import TidyDriver
from sharewright.identifiers import new_id, utcnow
from sharewright.operations import leases
from sharewright.operations.assembly import Assembly, assemble
from sharewright.operations.journal import Journal, clock
from sharewright.operations.queue import enqueue
from sharewright.operations.runner import Runner
from sharewright.operations.type_specs import instance_columns
from sharewright.operations.worker import Worker
from sharewright.settings import Backend, Settings
from sharewright.settings import Worker as WorkerSettings
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.quotas import read_usage, reserve
from sharewright.store.tables import (
    messages,
    operation_steps,
    operations,
    retired_volumes,
    share_access_rules,
    share_backups,
    share_export_locations,
    share_group_share_types,
    share_group_snapshots,
    share_group_types,
    share_groups,
    share_instances,
    share_network_subnets,
    share_networks,
    share_servers,
    share_snapshot_access_rules,
    share_snapshot_instances,
    share_snapshot_mounts,
    share_snapshots,
    share_type_extra_specs,
    share_types,
    shares,
)

PROJECT = "11111111-1111-4111-8111-111111111111"
USER = "22222222-2222-4222-8222-222222222222"
BACKEND = "alpha"
SECOND_BACKEND = "beta"


def make_settings(state_dir: Path, *, lease_seconds: float = 3.0, replicas: bool = False, **backend: Any) -> Settings:
    """Short times, one simulated backend; with ``replicas`` two, in other zones, that keep those of each other."""
    options: dict[str, Any] = {"cloud": "simulated", "guest_seconds": 2.0, "boot_seconds": 5.0} | backend
    backends = {BACKEND: Backend(**options)}
    if replicas:
        options = {"driver": "sharewright.drivers.simulated.replicating:REPLICATING"} | options
        backends = {name: Backend(**options, availability_zone=f"zone-{name}") for name in (BACKEND, SECOND_BACKEND)}
    return Settings(
        state_dir=str(state_dir),
        worker=WorkerSettings(threads=8, lease_seconds=lease_seconds, poll_seconds=0.05, operation_seconds=60.0),
        backends=backends,
    )


@dataclass
class World:
    store: Store
    settings: Settings
    assembly: Assembly
    share_type_id: str
    share_network_id: str
    subnet_id: str

    @property
    def cloud(self) -> SimulatedCloud:
        cloud = self.assembly.clouds[BACKEND].unmeasured
        assert isinstance(cloud, SimulatedCloud)
        return cloud

    @property
    def guests(self) -> SimulatedGuests:
        guests = self.assembly.channels[BACKEND].unmeasured
        assert isinstance(guests, SimulatedGuests)
        return guests

    # ---- what the API does ----

    def context(self) -> RequestContext:
        return RequestContext(project_id=PROJECT, user_id=USER)

    def administrator(self) -> RequestContext:
        return RequestContext(project_id=PROJECT, user_id=USER, roles=frozenset({"admin"}))

    def add_share_type(self, name: str, **extra_specs: str) -> str:
        identifier = new_id()
        with self.store.begin() as tx:
            tx.execute(share_types.insert().values(id=identifier, name=name, created_at=utcnow()))
            for key, value in ({"driver_handles_share_servers": "True"} | extra_specs).items():
                tx.execute(
                    share_type_extra_specs.insert().values(
                        share_type_id=identifier, key=key.replace("__", ":"), value=value
                    )
                )
        return identifier

    def add_share_network(self, *, cidr: str = "10.20.0.0/24", exists: bool = True, zone: str | None = None) -> str:
        """A share network with one subnet on a new tenant network (or on one that the cloud does not have)."""
        if exists:
            network = self.cloud.networks.create_network(f"tenant-{new_id()[:8]}", ip_network(cidr))
            net_id, subnet_id = network.id, network.subnets[0].id
        else:
            net_id, subnet_id = new_id(), new_id()
        identifier = new_id()
        with self.store.begin() as tx:
            tx.execute(
                share_networks.insert().values(id=identifier, project_id=PROJECT, user_id=USER, created_at=utcnow())
            )
            tx.execute(
                share_network_subnets.insert().values(
                    id=new_id(),
                    share_network_id=identifier,
                    availability_zone=zone,
                    neutron_net_id=net_id,
                    neutron_subnet_id=subnet_id,
                    created_at=utcnow(),
                )
            )
        return identifier

    def request_share(self, size: int = 1, *, hints: dict[str, Any] | None = None, **values: Any) -> str:
        """Rows, quota and operation of an accepted POST /shares. Returns the share's id."""
        share_id = new_id()
        now = utcnow()
        row: dict[str, Any] = {
            "protocol": "NFS",
            "share_type_id": self.share_type_id,
            "share_network_id": self.share_network_id or None,
            "availability_zone": None,
        } | values
        with self.store.begin() as tx:
            reserve(
                tx,
                self.settings.quotas,
                project_id=PROJECT,
                user_id=USER,
                amounts={"shares": 1, "gigabytes": size},
                share_type_id=row["share_type_id"],
            )
            tx.execute(
                shares.insert().values(
                    id=share_id, project_id=PROJECT, user_id=USER, size=size, status="creating", created_at=now, **row
                )
            )
            tx.execute(
                share_instances.insert().values(
                    id=new_id(),
                    share_id=share_id,
                    status="creating",
                    share_network_id=row["share_network_id"],
                    availability_zone=row["availability_zone"],
                    size=size,
                    created_at=now,
                    **instance_columns(self._extra_specs(tx, row["share_type_id"])),
                )
            )
            self._enqueue(tx, "create_share", share_id, {"scheduler_hints": hints} if hints else None)
        return share_id

    @staticmethod
    def _extra_specs(tx: Any, share_type_id: str) -> dict[str, str]:
        columns = share_type_extra_specs.c
        query = select(columns.key, columns.value).where(columns.share_type_id == share_type_id)
        return {spec.key: spec.value for spec in tx.execute(query)}

    def request_clone(self, snapshot_id: str, size: int | None = None, **values: Any) -> str:
        """An accepted POST /shares with a snapshot_id."""
        snapshot = self.snapshot(snapshot_id)
        parent = self.share(snapshot.share_id)
        copied = {name: getattr(parent, name) for name in ("share_type_id", "share_network_id", "availability_zone")}
        hints = {"only_host": parent.host}
        return self.request_share(size or snapshot.size, snapshot_id=snapshot_id, hints=hints, **copied, **values)

    def request_rule(self, share_id: str, access_to: str, level: str = "rw") -> str:
        """An accepted allow_access."""
        rule_id = new_id()
        with self.store.begin() as tx:
            tx.execute(
                share_access_rules.insert().values(
                    id=rule_id,
                    share_id=share_id,
                    access_type="ip",
                    access_to=access_to,
                    access_level=level,
                    state="queued_to_apply",
                    created_at=utcnow(),
                )
            )
            self._request_update(tx, share_id)
        return rule_id

    def request_deny(self, share_id: str, rule_id: str) -> None:
        """An accepted deny_access."""
        with self.store.begin() as tx:
            tx.execute(
                update(share_access_rules).where(share_access_rules.c.id == rule_id).values(state="queued_to_deny")
            )
            self._request_update(tx, share_id)

    def request_delete(self, share_id: str, *, force: bool = False) -> None:
        """An accepted DELETE, or a force_delete."""
        with self.store.begin() as tx:
            for table, column in ((shares, shares.c.id), (share_instances, share_instances.c.share_id)):
                tx.execute(table.update().where(column == share_id).values(status="deleting"))
            self._enqueue(tx, "delete_share", share_id, payload={"force": force})

    def request_extend(self, share_id: str, size: int, *, force: bool = False) -> None:
        """An accepted extend."""
        share = self.share(share_id)
        with self.store.begin() as tx:
            reserve(
                tx,
                self.settings.quotas,
                project_id=PROJECT,
                user_id=USER,
                amounts={"gigabytes": size - share.size},
                share_type_id=share.share_type_id,
            )
            for table, column in ((shares, shares.c.id), (share_instances, share_instances.c.share_id)):
                tx.execute(table.update().where(column == share_id).values(status="extending"))
            payload = {"size": size, "reserved": size - share.size, "force": force, "status": share.status}
            self._enqueue(tx, "extend_share", share_id, payload)

    def request_snapshot(
        self,
        share_id: str,
        *,
        kind: str = "create_snapshot",
        payload: dict[str, Any] | None = None,
        status: str = "creating",
    ) -> str:
        """An accepted POST /snapshots. Returns the snapshot's id."""
        snapshot_id, now = new_id(), utcnow()
        share = self.share(share_id)
        with self.store.begin() as tx:
            reserve(
                tx,
                self.settings.quotas,
                project_id=PROJECT,
                user_id=USER,
                amounts={"snapshots": 1, "snapshot_gigabytes": share.size},
                share_type_id=share.share_type_id,
            )
            tx.execute(
                share_snapshots.insert().values(
                    id=snapshot_id, share_id=share_id, project_id=PROJECT, user_id=USER, size=share.size,
                    protocol=share.protocol, status=status, created_at=now,
                )
            )  # fmt: skip
            tx.execute(
                share_snapshot_instances.insert().values(
                    id=new_id(), snapshot_id=snapshot_id, share_instance_id=self.instance(share_id).id,
                    status=status, taken_over=status != "manage_starting", created_at=now,
                )
            )  # fmt: skip
            self._enqueue(tx, kind, snapshot_id, payload, resource_type="share_snapshot")
        return snapshot_id

    def request_snapshot_rule(self, snapshot_id: str, access_to: str, kind: str = "ip", key: str | None = None) -> str:
        """An accepted allow_access of a snapshot."""
        rule_id = new_id()
        with self.store.begin() as tx:
            tx.execute(
                share_snapshot_access_rules.insert().values(
                    id=rule_id, snapshot_id=snapshot_id, access_type=kind, access_to=access_to, access_key=key,
                    state="queued_to_apply", created_at=utcnow(),
                )
            )  # fmt: skip
            self._request_update(tx, snapshot_id, "update_snapshot_access", "share_snapshot")
        return rule_id

    def request_snapshot_deny(self, rule_id: str) -> None:
        """An accepted deny_access of a snapshot."""
        columns = share_snapshot_access_rules.c
        (rule,) = self.rows(share_snapshot_access_rules, id=rule_id)
        with self.store.begin() as tx:
            tx.execute(update(share_snapshot_access_rules).where(columns.id == rule_id).values(state="queued_to_deny"))
            self._request_update(tx, rule.snapshot_id, "update_snapshot_access", "share_snapshot")

    def request_manage_snapshot(self, share_id: str, reference: str) -> str:
        """An accepted POST /snapshots/manage."""
        payload = {"reference": reference}
        return self.request_snapshot(share_id, kind="manage_snapshot", payload=payload, status="manage_starting")

    def request_unmanage_snapshot(self, snapshot_id: str) -> None:
        """An accepted unmanage."""
        payload = {"status": "manage_error"} if self.snapshot(snapshot_id).status == "manage_error" else None
        self._write_snapshot_status(snapshot_id, "unmanage_starting")
        with self.store.begin() as tx:
            self._enqueue(tx, "unmanage_snapshot", snapshot_id, payload, resource_type="share_snapshot")

    def _write_snapshot_status(self, snapshot_id: str, status: str) -> None:
        columns = share_snapshot_instances.c
        with self.store.begin() as tx:
            tx.execute(share_snapshots.update().where(share_snapshots.c.id == snapshot_id).values(status=status))
            mine = columns.snapshot_id == snapshot_id
            tx.execute(share_snapshot_instances.update().where(mine).values(status=status))

    def request_manage(self, server_id: str, export_path: str = "", **options: str) -> str:
        """An accepted POST /shares/manage; on an operator's machine, users name no server. Returns the share's id."""
        share_id, now = new_id(), utcnow()
        (server,) = self.rows(share_servers, id=server_id)
        host = f"{server.host}#{BACKEND}"
        named = None if server.named else server_id
        with self.store.begin() as tx:
            tx.execute(
                shares.insert().values(
                    id=share_id, project_id=PROJECT, user_id=USER, size=1, protocol="NFS", status="manage_starting",
                    share_type_id=self.share_type_id, share_network_id=server.share_network_id,
                    share_server_id=named, host=host, snapshot_support=True, created_at=now,
                )
            )  # fmt: skip
            tx.execute(
                share_instances.insert().values(
                    id=new_id(), share_id=share_id, status="manage_starting", backend=server.backend, host=host,
                    share_network_id=server.share_network_id, share_server_id=named, size=1, taken_over=False,
                    created_at=now,
                )
            )  # fmt: skip
            tx.execute(share_servers.update().where(share_servers.c.id == server_id).values(unused_since=None))
            self._enqueue(tx, "manage_share", share_id, {"export_path": export_path, "options": options})
        return share_id

    def request_unmanage(self, share_id: str) -> None:
        """An accepted unmanage."""
        payload = {"status": "manage_error"} if self.share(share_id).status == "manage_error" else None
        with self.store.begin() as tx:
            for table, column in ((shares, shares.c.id), (share_instances, share_instances.c.share_id)):
                tx.execute(table.update().where(column == share_id).values(status="unmanage_starting"))
            self._enqueue(tx, "unmanage_share", share_id, payload)

    def request_unmanage_server(self, server_id: str) -> None:
        """An accepted unmanage of a share server."""
        (server,) = self.rows(share_servers, id=server_id)
        payload = {"status": "manage_error"} if server.status == "manage_error" else None
        with self.store.begin() as tx:
            tx.execute(share_servers.update().where(share_servers.c.id == server_id).values(status="unmanage_starting"))
            self._enqueue(tx, "unmanage_share_server", server_id, payload, resource_type="share_server")

    def request_manage_server(self, server_id: str, share_network_id: str = "") -> None:
        """An accepted POST /share-servers/manage of one that was unmanaged."""
        network = share_network_id or self.share_network_id
        (subnet,) = self.rows(share_network_subnets, share_network_id=network)
        with self.store.begin() as tx:
            tx.execute(
                share_servers.update()
                .where(share_servers.c.id == server_id)
                .values(
                    status="manage_starting", share_network_id=network, share_network_subnet_id=subnet.id,
                    is_auto_deletable=False, taken_over=False,
                )
            )  # fmt: skip
            payload = {"identifier": server_id}
            self._enqueue(tx, "manage_share_server", server_id, payload, resource_type="share_server")

    def request_server_delete(self, server_id: str) -> None:
        """An accepted DELETE of a share server."""
        with self.store.begin() as tx:
            tx.execute(share_servers.update().where(share_servers.c.id == server_id).values(status="deleting"))
        self.request_server_operation("delete_share_server", server_id)

    def request_revert(self, share_id: str, snapshot_id: str) -> None:
        """An accepted revert."""
        share, snapshot = self.share(share_id), self.snapshot(snapshot_id)
        growth = max(0, snapshot.size - share.size)
        with self.store.begin() as tx:
            reserve(
                tx,
                self.settings.quotas,
                project_id=PROJECT,
                user_id=USER,
                amounts={"gigabytes": growth} if growth else {},
                share_type_id=share.share_type_id,
            )
            for table, column in ((shares, shares.c.id), (share_instances, share_instances.c.share_id)):
                tx.execute(table.update().where(column == share_id).values(status="reverting"))
            instances = share_snapshot_instances.c
            for table, column in (
                (share_snapshots, share_snapshots.c.id),
                (share_snapshot_instances, instances.snapshot_id),
            ):
                tx.execute(table.update().where(column == snapshot_id).values(status="restoring"))
            payload = {"snapshot_id": snapshot_id, "size": snapshot.size, "reserved": growth, "status": share.status}
            self._enqueue(tx, "revert_to_snapshot", share_id, payload)

    def request_snapshot_delete(self, snapshot_id: str) -> None:
        """An accepted DELETE of a snapshot, or a force_delete."""
        columns = share_snapshot_instances.c
        with self.store.begin() as tx:
            for table, column in (
                (share_snapshots, share_snapshots.c.id),
                (share_snapshot_instances, columns.snapshot_id),
            ):
                tx.execute(table.update().where(column == snapshot_id).values(status="deleting"))
            self._enqueue(tx, "delete_snapshot", snapshot_id, resource_type="share_snapshot")

    def request_group(self, count: int = 2, size: int = 1, **values: Any) -> tuple[str, list[str]]:
        """An accepted POST /share-groups, and one POST /shares for each of its shares. Returns their ids."""
        group_id = new_id()
        with self.store.begin() as tx:
            type_id = new_id()
            tx.execute(share_group_types.insert().values(id=type_id, name=type_id, created_at=utcnow()))
            tx.execute(
                share_groups.insert().values(
                    id=group_id, project_id=PROJECT, user_id=USER, status="available", share_group_type_id=type_id,
                    share_network_id=self.share_network_id or None, created_at=utcnow(), **values,
                )
            )  # fmt: skip
        return group_id, [self.request_share(size, share_group_id=group_id) for _ in range(count)]

    def request_new_group(self, *, share_type_ids: Sequence[str] = ()) -> str:
        """An accepted POST /share-groups, where shares are on share servers."""
        group_id, type_id = new_id(), new_id()
        with self.store.begin() as tx:
            tx.execute(share_group_types.insert().values(id=type_id, name=type_id, created_at=utcnow()))
            tx.execute(
                share_groups.insert().values(
                    id=group_id, project_id=PROJECT, user_id=USER, status="creating", share_group_type_id=type_id,
                    share_network_id=self.share_network_id, created_at=utcnow(),
                )
            )  # fmt: skip
            for each in share_type_ids or (self.share_type_id,):
                tx.execute(share_group_share_types.insert().values(share_group_id=group_id, share_type_id=each))
            self._enqueue(tx, "create_share_group", group_id, {"server": True}, resource_type="share_group")
        return group_id

    def request_group_snapshot(self, group_id: str) -> str:
        """An accepted POST /share-group-snapshots."""
        snapshot_id, now = new_id(), utcnow()
        with self.store.begin() as tx:
            amounts = {"share_group_snapshots": 1}
            reserve(tx, self.settings.quotas, project_id=PROJECT, user_id=USER, amounts=amounts)
            tx.execute(
                share_group_snapshots.insert().values(
                    id=snapshot_id, share_group_id=group_id, project_id=PROJECT, user_id=USER, status="creating",
                    created_at=now,
                )
            )  # fmt: skip
            for share in tx.execute(select(shares).where(shares.c.share_group_id == group_id)).all():
                tx.execute(
                    share_snapshot_instances.insert().values(
                        id=new_id(), share_group_snapshot_id=snapshot_id, size=share.size,
                        share_instance_id=select(share_instances.c.id)
                        .where(share_instances.c.share_id == share.id)
                        .scalar_subquery(),
                        status="creating", created_at=now,
                    )
                )  # fmt: skip
            self._enqueue(tx, "create_group_snapshot", snapshot_id, resource_type="share_group_snapshot")
        return snapshot_id

    def request_group_snapshot_delete(self, snapshot_id: str) -> None:
        """An accepted DELETE of a share group snapshot, or a force_delete."""
        members = share_snapshot_instances.c.share_group_snapshot_id
        with self.store.begin() as tx:
            for table, column in (
                (share_group_snapshots, share_group_snapshots.c.id),
                (share_snapshot_instances, members),
            ):
                tx.execute(table.update().where(column == snapshot_id).values(status="deleting"))
            self._enqueue(tx, "delete_group_snapshot", snapshot_id, resource_type="share_group_snapshot")

    def request_group_from(self, snapshot_id: str) -> str:
        """An accepted POST /share-groups with a source_share_group_snapshot_id."""
        parent_id = self.group_snapshot(snapshot_id).share_group_id
        (parent,) = self.rows(share_groups, id=parent_id)
        group_id, members = new_id(), self.members(snapshot_id)
        with self.store.begin() as tx:
            tx.execute(
                share_groups.insert().values(
                    id=group_id, project_id=PROJECT, user_id=USER, status="creating",
                    share_group_type_id=parent.share_group_type_id, share_network_id=self.share_network_id or None,
                    share_server_id=parent.share_server_id, source_share_group_snapshot_id=snapshot_id,
                    created_at=utcnow(),
                )
            )  # fmt: skip
        for member in members:
            self.request_share(member.size, share_group_id=group_id, source_share_group_snapshot_member_id=member.id)
        with self.store.begin() as tx:
            payload = {"shares": len(members)}
            self._enqueue(tx, "create_share_group", group_id, payload, resource_type="share_group")
        return group_id

    def request_shrink(self, share_id: str, size: int) -> None:
        """An accepted shrink."""
        share = self.share(share_id)
        with self.store.begin() as tx:
            for table, column in ((shares, shares.c.id), (share_instances, share_instances.c.share_id)):
                tx.execute(table.update().where(column == share_id).values(status="shrinking"))
            self._enqueue(tx, "shrink_share", share_id, {"size": size, "status": share.status})

    def request_server_operation(self, kind: str, server_id: str) -> str:
        with self.store.begin() as tx:
            return enqueue(tx, kind, resource_type="share_server", resource_id=server_id, seconds=60.0)

    def _request_update(
        self, tx: Any, resource_id: str, kind: str = "update_access", resource_type: str = "share"
    ) -> None:
        queued = tx.execute(
            select(operations.c.id).where(
                operations.c.resource_id == resource_id,
                operations.c.kind == kind,
                operations.c.state == OperationState.QUEUED,
            )
        ).first()
        if queued is None:
            self._enqueue(tx, kind, resource_id, resource_type=resource_type)

    def _enqueue(
        self,
        tx: Any,
        kind: str,
        resource_id: str,
        payload: dict[str, Any] | None = None,
        *,
        resource_type: str = "share",
    ) -> None:
        enqueue(
            tx,
            kind,
            resource_type=resource_type,
            resource_id=resource_id,
            context=self.context(),
            payload=payload,
            seconds=self.settings.worker.operation_seconds,
        )

    # ---- time ----

    def run(self, *, limit: int = 500) -> None:
        """Run every open operation to its end, letting parked time pass at once."""
        for _ in range(limit):
            if not self.run_one(*self.assembly.stories) and not self._let_time_pass():
                return
        raise AssertionError(f"operations do not come to an end: {self.rows(operations)}")

    def run_worker(self, seconds: float = 60.0) -> None:
        """Run the real worker, on all its threads, until no operation is open."""
        end = time.monotonic() + seconds
        with Worker(self.store, self.assembly.stories, self.settings):
            while True:
                open_ones = [row for row in self.rows(operations) if row.state in ("queued", "running")]
                if not open_ones:
                    return
                assert time.monotonic() < end, f"still open: {[(row.kind, row.error) for row in open_ones]}"
                time.sleep(0.05)

    def run_one(self, *kinds: str) -> bool:
        """One attempt at the next operation of these kinds that may run now; False: there is none."""
        claim = leases.claim(self.store, "test", lease_seconds=600.0, kinds=kinds)
        if claim is None:
            return False
        journal = Journal(self.store, claim.operation, valid_until=clock() + 600.0, steps=claim.steps)
        Runner(self.store, self.assembly.stories).run(claim, journal)
        return True

    def _let_time_pass(self) -> bool:
        """Move the soonest parked operation (and with it the deadlines of all) to now. False: none is open."""
        now = utcnow()
        with self.store.begin() as tx:
            rows = tx.execute(
                select(operations.c.id, operations.c.not_before, operations.c.deadline).where(
                    operations.c.state == OperationState.QUEUED
                )
            ).all()
            if not rows:
                return False
            passed = min((row.not_before for row in rows if row.not_before > now), default=now) - now
            for row in rows:
                tx.execute(
                    update(operations)
                    .where(operations.c.id == row.id)
                    .values(not_before=row.not_before - passed, deadline=row.deadline - passed)
                )
        self.guests.let_time_pass(passed.total_seconds())
        return True

    def tidy(self) -> None:
        """What maintenance does from time to time."""
        for driver in self.assembly.drivers.values():
            assert isinstance(driver, TidyDriver)
            driver.tidy()

    def mend(self) -> None:
        """End all failures that were injected."""
        with self.cloud.state.transaction() as tx:
            tx.execute("DELETE FROM failures")

    # ---- looking ----

    def rows(self, table: Table, **where: Any) -> list[Any]:
        query = select(table)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        with self.store.read() as tx:
            return list(tx.execute(query).all())

    def share(self, share_id: str) -> Any:
        (row,) = self.rows(shares, id=share_id)
        return row

    def instance(self, share_id: str) -> Any:
        (row,) = self.rows(share_instances, share_id=share_id)
        return row

    def snapshot(self, snapshot_id: str) -> Any:
        (row,) = self.rows(share_snapshots, id=snapshot_id)
        return row

    def group(self, group_id: str) -> Any:
        (row,) = self.rows(share_groups, id=group_id)
        return row

    def group_snapshot(self, snapshot_id: str) -> Any:
        (row,) = self.rows(share_group_snapshots, id=snapshot_id)
        return row

    def members(self, snapshot_id: str) -> list[Any]:
        return self.rows(share_snapshot_instances, share_group_snapshot_id=snapshot_id)

    def snapshot_instance(self, snapshot_id: str) -> Any:
        (row,) = self.rows(share_snapshot_instances, snapshot_id=snapshot_id)
        return row

    def rules(self, share_id: str) -> dict[str, str]:
        """access_to → state."""
        return {row.access_to: row.state for row in self.rows(share_access_rules, share_id=share_id)}

    def snapshot_rules(self, snapshot_id: str) -> dict[str, str]:
        """access_to → state."""
        rows = self.rows(share_snapshot_access_rules, snapshot_id=snapshot_id)
        return {row.access_to: row.state for row in rows}

    def messages(self, share_id: str) -> list[Any]:
        return self.rows(messages, resource_id=share_id)

    def locations(self, share_id: str) -> list[str]:
        instance = self.instance(share_id)
        return [row.path for row in self.rows(share_export_locations, share_instance_id=instance.id)]

    def steps(self, kind: str) -> list[str]:
        with self.store.read() as tx:
            query = select(operation_steps.c.name).join(operations).where(operations.c.kind == kind)
            return list(tx.execute(query.order_by(operation_steps.c.position)).scalars())

    def usage(self) -> tuple[int, int]:
        """(shares, gigabytes) in use by the project."""
        with self.store.read() as tx:
            usage = read_usage(tx, PROJECT)
        return usage["shares"], usage["gigabytes"]

    def snapshot_usage(self) -> tuple[int, int]:
        """(snapshots, snapshot_gigabytes) in use by the project."""
        with self.store.read() as tx:
            usage = read_usage(tx, PROJECT)
        return usage["snapshots"], usage["snapshot_gigabytes"]

    def exports(self, share_id: str) -> list[list[str]] | None:
        """What clients may mount of a share now; None: it is not exported."""
        return self.instance_exports(self.instance(share_id).id)

    def snapshot_exports(self, snapshot_id: str) -> list[list[str]] | None:
        """The same of a snapshot."""
        return self.instance_exports(self.snapshot_instance(snapshot_id).id)

    def instance_exports(self, instance_id: str) -> list[list[str]] | None:
        """The same of one instance of a share or a snapshot."""
        machine = self.settings.backends[BACKEND].server.instance
        named = self.cloud.compute.find_named_instance(machine) if machine else None
        for server in [*self.cloud.compute.list_instances(), *([named] if named else [])]:
            exports = self.guests.exports(server.id)
            if instance_id in exports:
                return exports[instance_id]
        return None

    # ---- nothing lost, nothing left over ----

    def check_consistent(self) -> None:
        """The cloud holds what the rows say, once, and nothing else; the quota is what the rows say."""
        cloud_volumes = self.cloud.volumes.list_volumes()
        instances = {row.id: row for row in self.rows(share_instances)}
        # The volume that a share had before it shrank or was reverted is kept for its snapshots.
        held = {row.volume_id for row in self.rows(retired_volumes)}
        used = {row.volume_id for row in instances.values()}
        assert not held & used, "a volume in use is to be deleted"
        former = {row.volume_id for row in self.rows(share_snapshot_instances)} - used - {None}
        assert former <= held, "a former volume is forgotten"
        stuck = {row.volume_id for row in self.rows(retired_volumes) if row.reason}
        assert all(volume.instance_id is None for volume in cloud_volumes if volume.id in held - stuck)
        cloud_volumes = [volume for volume in cloud_volumes if volume.id not in held]
        owners = [volume.tags[TAG_OWNER] for volume in cloud_volumes]
        assert len(owners) == len(set(owners)), "a share instance has two volumes"
        known = {f"share_instance:{row.id}": row.volume_id for row in instances.values() if row.volume_id}
        mounts = self.rows(share_snapshot_mounts)
        known |= {f"share_snapshot_mount:{row.id}": row.volume_id for row in mounts if row.volume_id}
        known |= {f"share_backup:{row.id}": row.volume_id for row in self.rows(share_backups) if row.volume_id}
        found = {volume.tags[TAG_OWNER]: volume.id for volume in cloud_volumes}
        assert found.items() <= known.items(), "a volume is left over"
        # A deletion that stopped half-way may have lost the answer to its last call.
        leaving = {f"share_instance:{row.id}" for row in instances.values() if not row.wanted}
        leaving |= {f"share_snapshot_mount:{row.id}" for row in mounts if not row.wanted}
        assert not known.keys() - found.keys() - leaving, "a volume is lost"
        servers = {row.id: row for row in self.rows(share_servers) if not row.named}
        server_owners = [instance.tags[TAG_OWNER] for instance in self.cloud.compute.list_instances()]
        assert sorted(server_owners) == sorted(f"share_server:{server}" for server in servers)
        for port in self.cloud.networks.list_ports():
            assert port.tags[TAG_OWNER].removeprefix("share_server:") in servers, f"port {port.name} is left over"
        networks = {(row.share_network_subnet_id, row.backend) for row in servers.values()}
        if not self.settings.backends[BACKEND].has_service_network:
            networks = set()
        assert len(self.cloud.networks.list_service_subnets()) == len(networks), "a service subnet is left over"
        attached = {volume.id: volume.instance_id for volume in cloud_volumes}
        for row in instances.values():
            if row.volume_attached and row.wanted:
                assert attached[row.volume_id] is not None
        ruled = {row.snapshot_id for row in self.rows(share_snapshot_access_rules) if row.state == "active"}
        mounted = {row.id for row in mounts if row.wanted and attached[row.volume_id] is not None}
        for row in self.rows(share_snapshot_instances):
            assert row.snapshot_id not in ruled or row.id in mounted, "a snapshot with a rule in force is not mounted"
        self.check_snapshots()
        foreign = {row.share_id for row in instances.values() if not row.taken_over}
        sizes = [row.size for row in self.rows(shares) if row.id not in foreign]
        assert self.usage() == (len(sizes), sum(sizes))

    def check_snapshots(self) -> None:
        """As check_consistent, of snapshots; and one that is to be had was taken of a share that stood still."""
        cloud_snapshots = {each.tags[TAG_OWNER]: each for each in self.cloud.volumes.list_snapshots()}
        rows = self.rows(share_snapshot_instances)
        known = {f"share_snapshot_instance:{row.id}": row for row in rows if row.provider_location}
        places = {owner: row.provider_location for owner, row in known.items()}
        places |= {f"share_backup:{row.id}": row.snapshot_id for row in self.rows(share_backups) if row.snapshot_id}
        taken = {owner: each.id for owner, each in cloud_snapshots.items()}
        assert taken.items() <= places.items(), "a snapshot is left over"
        for row in rows:
            if row.status == "available":
                found = cloud_snapshots[f"share_snapshot_instance:{row.id}"]
                assert (found.id, found.volume_id, found.ready) == (row.provider_location, row.volume_id, True)
                assert self.cloud.volumes.frozen_at(found.id), "a snapshot was taken of a share in motion"
        sizes = [row.size for row in self.rows(share_snapshots)]
        assert self.snapshot_usage() == (len(sizes), sum(sizes))
        of_groups = self.rows(share_group_snapshots)
        for group_snapshot in of_groups:
            members = self.members(group_snapshot.id)
            assert {member.status for member in members} <= {group_snapshot.status}
            if group_snapshot.status == "available":
                taken = [member.provider_location for member in members]
                assert self.cloud.volumes.are_of_one_moment(taken), "a group snapshot is not of one moment"
        with self.store.read() as tx:
            assert read_usage(tx, PROJECT)["share_group_snapshots"] == len(of_groups)

    def check_empty(self) -> None:
        """Nothing but the tenant's own network is in the cloud."""
        assert list(self.cloud.volumes.list_snapshots()) == []
        assert list(self.cloud.volumes.list_volumes()) == []
        assert list(self.cloud.compute.list_instances()) == []
        assert list(self.cloud.networks.list_ports()) == []
        assert list(self.cloud.networks.list_service_subnets()) == []


def make_admin_network(settings: Settings, cidr: str) -> dict[str, str]:
    """A network in the simulated cloud, as the options of a backend that has it for its admin network."""
    cloud = SimulatedCloud(settings.simulated, deployment=settings.deployment, path=simulated_path(settings))
    network = cloud.networks.create_network("admin", ip_network(cidr))
    cloud.close()
    return {"admin_network_id": network.id, "admin_subnet_id": network.subnets[0].id}


@contextmanager
def make_world(
    store: Store, state_dir: Path, *, admin_network: str = "", named: bool = False, **backend: Any
) -> Iterator[World]:
    """A world with a default share type and one share network; ``admin_network`` (a CIDR) is its backend's. ``named``:
    its backend has a machine of an operator's, and its type asks for that."""
    settings = make_settings(state_dir, **backend)
    if admin_network:
        backend |= make_admin_network(settings, admin_network)
        settings = make_settings(state_dir, **backend)
    if named:
        machines = {BACKEND: named_server(settings)}
        for name in [name for name in settings.backends if name != BACKEND]:
            machines[name] = {**machines[BACKEND], "server": make_machine(settings, name=f"nas-{name}")[1]}
        changed = {name: msgspec.structs.replace(settings.backends[name], **machines[name]) for name in machines}
        settings = msgspec.structs.replace(settings, backends=changed)
    assembly = assemble(settings, store)
    world = World(store, settings, assembly, "", "", "")
    world.share_type_id = world.add_share_type("default", driver_handles_share_servers=str(not named))
    if not named:
        world.share_network_id = world.add_share_network()
        (subnet,) = world.rows(share_network_subnets, share_network_id=world.share_network_id)
        world.subnet_id = subnet.id
    try:
        yield world
    finally:
        assembly.close()


@contextmanager
def same_world(world: World, store: Store, state_dir: Path) -> Iterator[World]:
    """A world that goes on in another place, to which its store and its state directory were copied."""
    settings = msgspec.structs.replace(world.settings, state_dir=str(state_dir))
    assembly = assemble(settings, store)
    try:
        yield replace(world, store=store, settings=settings, assembly=assembly)
    finally:
        assembly.close()
