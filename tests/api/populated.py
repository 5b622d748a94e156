"""A deployment with one or more of everything, for tests that ask every operation something about it."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from site_for_tests import Site, make_settings, running_site, write_people
from sqlalchemy import insert, select, update

from sharewright.identifiers import new_id, utcnow
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.migrations import migrate
from sharewright.store.tables import messages, metadata, share_backups, shares

PATIENCE = 300.0  # seconds for what takes less than one, on a machine that has other things to do
SPECS = {
    "driver_handles_share_servers": "True",
    "snapshot_support": "True",
    "create_share_from_snapshot_support": "True",
    "revert_to_snapshot_support": "True",
    "mount_snapshot_support": "True",
}


@dataclass(frozen=True)
class Populated:
    """A database and what is in it. ``ids``: name of a path parameter → ids of blue's things, and another project's."""

    database: Path
    settings: Settings
    ids: Mapping[str, tuple[str, ...]]

    @contextmanager
    def copy(self, directory: Path) -> Iterator[Store]:
        """A copy that may be changed."""
        target = directory / f"{uuid.uuid4().hex}.db"
        shutil.copy(self.database, target)
        with closing(Store(f"sqlite:///{target}", pool_size=2)) as store:
            yield store
        for leftover in directory.glob(f"{target.name}*"):
            leftover.unlink()


def populate(directory: Path) -> Populated:
    """Make everything through the API, with a worker on the simulated cloud; then stop the worker."""
    database = directory / "populated.db"
    identity = {"mode": "http_basic", "user_file": str(write_people(directory / "users.json"))}
    settings = make_settings(
        directory,
        identity=identity,
        simulated={"any_network": True},
        worker={
            "poll_seconds": 0.2,
            "lease_seconds": 600.0,
            "gather_quiet_seconds": 0.01,
            "unused_server_seconds": 0.0,
        },
    )
    with closing(Store(f"sqlite:///{database}")) as store:
        migrate(store)
        with closing(assemble(settings, store)) as assembly:
            worker = Worker(store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
            with worker, running_site(store, settings, wake=store.bell.ring) as site:
                _await_pools(site)
                _make_everything(site)
        ids = _ids(store)
    assert not database.with_name(f"{database.name}-wal").exists()  # the file is all that there is
    return Populated(database, settings, ids)


def _await_pools(site: Site) -> None:
    end = time.monotonic() + PATIENCE
    while not site.expect(200, "GET", "/v2/scheduler-stats/pools", user="root")["pools"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def _make_everything(site: Site) -> None:
    kind = {"share_type": {"name": "able", "extra_specs": SPECS}}
    able = site.expect(200, "POST", "/v2/types", kind, user="root")["share_type"]["id"]
    hidden = {"share_type": {"name": "hidden", "share_type_access:is_public": False, "extra_specs": SPECS}}
    private = site.expect(200, "POST", "/v2/types", hidden, user="root")["share_type"]["id"]
    access = {"addProjectAccess": {"project": "blue"}}
    site.expect(202, "POST", f"/v2/types/{private}/action", access, user="root")
    group_type = site.expect(
        200,
        "POST",
        "/v2/share-group-types",
        {"share_group_type": {"name": "trio", "share_types": [able], "group_specs": {"a": "b"}}},
        user="root",
    )["share_group_type"]["id"]
    qos = {"qos_type": {"name": "fast", "description": "d", "specs": {"iops": "5"}}}
    site.expect(200, "POST", "/v2/qos-types", qos, user="root")
    for user in ("alice", "bob"):
        _make_things_of(site, user, able, group_type)
    quota = {"quota_set": {"shares": 49}}
    site.expect(200, "PUT", "/v2/quota-sets/blue", quota, user="root")


def _make_things_of(site: Site, user: str, share_type: str, group_type: str) -> None:
    def act(path: str, action: str, body: Any, status: int = 202) -> Any:
        return site.expect(status, "POST", f"/v2/{path}/action", {action: body}, user=user)

    network = site.network(user, name="net")["id"]
    service = site.expect(
        200,
        "POST",
        "/v2/security-services",
        {"security_service": {"type": "ldap", "name": "people", "dns_ip": "192.0.2.1"}},
        user=user,
    )["security_service"]["id"]
    spare = site.network(user, name="spare")["id"]
    act(f"share-networks/{spare}", "add_security_service", {"security_service_id": service}, 200)
    made = {
        name: site.share(user, network=network, name=name, share_type=share_type, metadata={"a": "b"}, **values)["id"]
        for name, values in {
            "plain": {"description": "d"},
            "public": {},
            "smb": {"share_proto": "CIFS"},
            "kept": {},
            "given": {},
        }.items()
    }
    for share in made.values():
        site.wait(f"/v2/shares/{share}", "share", "status", "available", user=user, seconds=PATIENCE)
    site.expect(200, "PUT", f"/v2/shares/{made['public']}", {"share": {"is_public": True}}, user="root")
    plain = made["plain"]
    for level, to in (("rw", "10.0.0.7"), ("ro", "10.1.0.0/16")):
        rule = {"access_type": "ip", "access_to": to, "access_level": level, "metadata": {"a": "b"}}
        act(f"shares/{plain}", "allow_access", rule, 200)
    act(f"shares/{made['smb']}", "allow_access", {"access_type": "user", "access_to": "somebody"}, 200)
    for share in (plain, made["public"]):
        body = {"snapshot": {"share_id": share, "name": "then", "metadata": {"a": "b"}}}
        snapshot = site.expect(202, "POST", "/v2/snapshots", body, user=user)["snapshot"]["id"]
        site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available", user=user, seconds=PATIENCE)
        act(f"snapshots/{snapshot}", "allow_access", {"access_type": "ip", "access_to": "10.0.0.9"})
    act(f"shares/{made['kept']}", "soft_delete", None)
    lock = {"resource_lock": {"resource_id": plain, "resource_type": "share", "lock_reason": "r"}}
    site.expect(200, "POST", "/v2/resource-locks", lock, user=user)
    _make_group(site, user, group_type, share_type, network)
    with site.store.begin() as tx:  # one that is on no share network, as only those can be given away
        tx.execute(
            update(shares).where(shares.c.id == made["given"]).values(share_network_id=None, share_server_id=None)
        )
        project = tx.execute(select(shares.c.project_id).where(shares.c.id == plain)).scalar_one()
        tx.execute(insert(messages).values(**_message(project, plain)))
        tx.execute(insert(share_backups).values(**_backup(project, made["smb"])))
    offer = {"transfer": {"share_id": made["given"], "name": "gift"}}
    site.expect(202, "POST", "/v2/share-transfers", offer, user=user)


def _make_group(site: Site, user: str, group_type: str, share_type: str, network: str) -> None:
    wanted = {"share_group_type_id": group_type, "share_types": [share_type], "share_network_id": network}
    body = {"share_group": {"name": "three", **wanted}}
    group = site.expect(202, "POST", "/v2/share-groups", body, user=user)["share_group"]["id"]
    path = f"/v2/share-groups/{group}"
    site.wait(path, "share_group", "status", "available", user=user, seconds=PATIENCE)
    share = site.share(user, network=network, name="member", share_type=share_type, share_group_id=group)["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available", user=user, seconds=PATIENCE)
    taken = {"share_group_snapshot": {"share_group_id": group, "name": "moment"}}
    snapshot = site.expect(202, "POST", "/v2/share-group-snapshots", taken, user=user)["share_group_snapshot"]["id"]
    path = f"/v2/share-group-snapshots/{snapshot}"
    site.wait(path, "share_group_snapshot", "status", "available", user=user, seconds=PATIENCE)


def _backup(project: str, share: str) -> dict[str, Any]:
    """The backend makes none, so it is only a row."""
    return {
        "id": new_id(),
        "share_id": share,
        "project_id": project,
        "user_id": "somebody",
        "name": "copy",
        "size": 1,
        "status": "available",
        "progress": "100",
        "restore_progress": "0",
        "availability_zone": "zone-1",
        "host": "node1@one",
        "backend": "one",
        "backup_type": "dummy",
        "options": {},
        "consistent": True,
        "created_at": utcnow(),
    }


def _message(project: str, share: str) -> dict[str, Any]:
    now = utcnow()
    return {
        "id": new_id(),
        "project_id": project,
        "action_id": "001",
        "detail_id": "002",
        "message_level": "ERROR",
        "request_id": f"req-{new_id()}",
        "resource_type": "SHARE",
        "resource_id": share,
        "created_at": now,
        "expires_at": now.replace(year=now.year + 1),
    }


# Path parameter → table. What is called otherwise in bodies is named as its path parameter where it means the same.
TABLES = {
    "share_id": "shares",
    "share_instance_id": "share_instances",
    "share_network_id": "share_networks",
    "subnet_id": "share_network_subnets",
    "share_server_id": "share_servers",
    "share_type_id": "share_types",
    "share_group_type_id": "share_group_types",
    "share_group_id": "share_groups",
    "share_group_snapshot_id": "share_group_snapshots",
    "snapshot_id": "share_snapshots",
    "snapshot_instance_id": "share_snapshot_instances",
    "security_service_id": "security_services",
    "qos_type_id": "qos_types",
    "message_id": "messages",
    "resource_lock_id": "resource_locks",
    "share_backup_id": "share_backups",
    "share_transfer_id": "share_transfers",
    "export_location_id": "share_export_locations",
    "access_id": "share_access_rules",
    "snapshot_access_id": "share_snapshot_access_rules",
    "snapshot_location_id": "share_snapshot_export_locations",
}


def _ids(store: Store) -> dict[str, tuple[str, ...]]:
    with store.read() as tx:
        return {
            name: tuple(tx.scalars(select(metadata.tables[table].c.id).order_by(metadata.tables[table].c.id)).all())
            for name, table in TABLES.items()
        }
