"""The migrations make exactly the tables of tables.py, whoever runs them and however many at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError

from databases import BACKENDS, PostgresCluster
from sharewright.errors import ConfigurationError
from sharewright.identifiers import new_id, utcnow
from sharewright.store.database import Store
from sharewright.store.migrations import configuration, current_revision, migrate, newest_revision
from sharewright.store.tables import (
    metadata,
    share_access_rules,
    share_groups,
    share_instances,
    share_metadata,
    share_snapshot_instances,
)


@pytest.fixture(params=BACKENDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    url = cluster.create_database(migrated=False)
    yield url
    cluster.drop_database(url)


def test_the_models_and_the_migrations_agree(empty_url: str) -> None:
    store = Store(empty_url)
    migrate(store)
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
        indexes = {index["name"] for index in inspect(connection).get_indexes("operations")}
    store.close()
    assert differences == [], "run: python -m sharewright.store.migrations (see its docstring)"
    assert "uq_operations_running_key" in indexes


def test_the_partial_index_is_partial(empty_url: str) -> None:
    store = Store(empty_url)
    migrate(store)
    with store.engine.connect() as connection:
        index = next(
            index
            for index in inspect(connection).get_indexes("operations")
            if index["name"] == "uq_operations_running_key"
        )
    store.close()
    assert index["unique"]
    assert any("running" in str(value) for key, value in index["dialect_options"].items() if key.endswith("_where"))


def test_an_empty_database_has_no_revision_and_migrating_twice_is_harmless(empty_url: str) -> None:
    store = Store(empty_url)
    assert current_revision(store) is None
    assert migrate(store) == newest_revision()
    assert migrate(store) == newest_revision()
    assert current_revision(store) == newest_revision()
    store.close()


@pytest.mark.parametrize("revision", ["0012", "0018"])
def test_rows_survive_that_tables_are_made_anew(empty_url: str, revision: str) -> None:
    """SQLite changes most tables by making them again (0013, 0018, 0019), and rows refer to rows of these."""
    store, ids = Store(empty_url), [new_id() for _ in range(10)]
    share_type, share, rule, instance, snapshot, taken, other, server, group_type, group = ids
    with store.begin() as tx:
        command.upgrade(configuration(tx), revision)
        now = "2026-01-01 00:00:00"
        for table, values in (
            ("share_types", {"id": share_type, "name": "t", "is_public": True}),
            (
                "share_servers",
                {"id": server, "project_id": "p", "backend": "b", "host": "n@b", "status": "active",
                 "is_auto_deletable": True, "generation": 0},
            ),
            ("share_group_types", {"id": group_type, "name": "t", "is_public": True}),
            (
                "share_groups",
                {"id": group, "project_id": "p", "user_id": "u", "status": "available",
                 "share_group_type_id": group_type},
            ),
            (
                "shares",
                {"id": share, "share_group_id": group, "share_server_id": server,
                 "project_id": "p", "user_id": "u", "size": 1, "protocol": "NFS", "is_public": False,
                 "share_type_id": share_type, "status": "available", "access_rules_status": "active",
                 "snapshot_support": True, "create_share_from_snapshot_support": True,
                 "revert_to_snapshot_support": True, "mount_snapshot_support": False},
            ),
            ("share_metadata", {"share_id": share, "key": "color", "value": "red"}),
            (
                "share_access_rules",
                {"id": rule, "share_id": share, "access_type": "ip", "access_to": "10.0.0.1", "access_level": "rw",
                 "state": "active"},
            ),
            (
                "share_instances",
                {"id": instance, "share_id": share, "status": "available", "size": 1, "volume_attached": True,
                 "filesystem_ready": True, "wanted": True},
            ),
            (
                "share_snapshots",
                {"id": snapshot, "share_id": share, "project_id": "p", "user_id": "u", "size": 1, "protocol": "NFS",
                 "status": "available"},
            ),
            (
                "share_snapshot_instances",
                {"id": taken, "snapshot_id": snapshot, "share_instance_id": instance, "status": "available",
                 "consistent": True, "provider_location": "in the cloud"},
            ),
        ):  # fmt: skip
            row = values if table == "share_metadata" else {**values, "created_at": now}
            names = ", ".join(row)
            places = ", ".join(f":{name}" for name in row)
            tx.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), row)
    migrate(store)
    with store.read() as tx:
        (row,) = tx.execute(select(share_snapshot_instances)).all()
        assert tx.execute(select(share_metadata.c.key, share_metadata.c.value)).all() == [("color", "red")]
        assert tx.execute(select(share_access_rules.c.id)).scalars().all() == [rule]
        assert tx.execute(select(share_instances.c.id)).scalars().all() == [instance]
        # 0026
        assert tx.execute(select(share_groups.c.id, share_groups.c.share_server_id)).all() == [(group, server)]
        indexes = inspect(tx).get_indexes("share_snapshot_instances")
    assert (row.id, row.snapshot_id, row.provider_location, row.consistent) == (taken, snapshot, "in the cloud", True)
    (unsettled,) = [index for index in indexes if index["name"] == "ix_share_snapshot_instances_unsettled"]
    assert any("available" in str(value) for value in unsettled["dialect_options"].values())
    neither = {"id": other, "share_instance_id": instance, "status": "creating", "created_at": utcnow()}
    with pytest.raises(IntegrityError, match="of_one_thing"), store.begin() as tx:
        tx.execute(share_snapshot_instances.insert().values(**neither))
    store.close()


def test_rows_that_refer_to_nothing_are_not_upgraded(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'broken.db'}")
    with store.begin() as tx:
        command.upgrade(configuration(tx), "0018")
    with sqlite3.connect(tmp_path / "broken.db") as connection:  # enforces no references
        connection.execute("INSERT INTO share_metadata (share_id, key, value) VALUES ('none', 'a', 'b')")
    with pytest.raises(ConfigurationError, match="share_metadata to shares"):
        migrate(store)
    assert current_revision(store) == "0018"
    with pytest.raises(IntegrityError), store.begin() as tx:  # and they are enforced again
        tx.execute(text("INSERT INTO share_metadata (share_id, key, value) VALUES ('nobody', 'a', 'b')"))
    store.close()


def test_many_may_migrate_at_once(empty_url: str) -> None:
    stores = [Store(empty_url) for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    outcomes: list[object] = []

    def run(store: Store) -> None:
        barrier.wait()
        try:
            outcomes.append(migrate(store))
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert outcomes == [newest_revision()] * len(stores)


def test_a_failed_migration_leaves_nothing(empty_url: str) -> None:
    store = Store(empty_url)
    with store.begin() as tx:  # collides with the tables to be made, somewhere in the middle
        tx.execute(text("CREATE TABLE shares (id INTEGER)"))
    with pytest.raises(Exception, match=r"(?i)shares"):
        migrate(store)
    with store.engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["shares"]
    store.close()


def test_a_newer_database_is_refused(store: Store) -> None:
    with store.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=r"9999.*newer version"):
        migrate(store)


def test_a_database_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'missing' / 'file.db'}")
    with pytest.raises(ConfigurationError, match=r"missing/file\.db"):
        migrate(store)
    store.close()
