"""How many shares a project has is kept by triggers, whatever writes the shares (migration 0028)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, delete, func, select, text, update

from databases import BACKENDS, PostgresCluster, postgres_binaries
from sharewright.identifiers import new_id
from sharewright.store.database import Store
from sharewright.store.migrations import configuration, migrate
from sharewright.store.tables import share_counts, shares

TYPE = new_id()
Numbers = dict[tuple[str, bool], int]


def row(project: str, *, in_bin: bool = False) -> dict[str, Any]:
    return {
        "id": new_id(), "project_id": project, "user_id": "u", "size": 1, "protocol": "NFS", "is_public": False,
        "share_type_id": TYPE, "status": "available", "access_rules_status": "active", "is_soft_deleted": in_bin,
        "snapshot_support": False, "create_share_from_snapshot_support": False, "revert_to_snapshot_support": False,
        "mount_snapshot_support": False, "created_at": "2026-01-01 00:00:00",
    }  # fmt: skip


COLUMNS = list(row(""))
# In words: the tables of 0027 have no columns that came later.
INSERT = text(f"INSERT INTO shares ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})")


def add(tx: Connection, project: str, number: int = 1, *, in_bin: bool = False) -> list[str]:
    rows = [row(project, in_bin=in_bin) for _ in range(number)]
    tx.execute(INSERT, rows)
    return [each["id"] for each in rows]


def add_type(store: Store) -> None:
    with store.begin() as tx:
        values = {"id": TYPE, "created_at": "2026-01-01 00:00:00"}
        tx.execute(
            text("INSERT INTO share_types (id, name, is_public, created_at) VALUES (:id, 't', true, :created_at)"),
            values,
        )


def kept(tx: Connection) -> Numbers:
    """What there is of each kind, as it is kept, which must be what there is."""
    where = share_counts.c.project_id, share_counts.c.is_soft_deleted
    found = {(a, b): int(n) for a, b, n in tx.execute(select(*where, func.sum(share_counts.c.number)).group_by(*where))}
    where = shares.c.project_id, shares.c.is_soft_deleted
    counted = {(a, b): n for a, b, n in tx.execute(select(*where, func.count()).group_by(*where))}
    assert {key: number for key, number in found.items() if number} == counted
    return counted


@pytest.fixture
def typed(store: Store) -> Store:
    add_type(store)
    return store


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    with closing(Store(postgresql_url)) as store:
        add_type(store)
        yield store


def test_shares_that_come_and_go(typed: Store) -> None:
    with typed.begin() as tx:
        assert kept(tx) == {}
        first, *_ = add(tx, "a", 3)
        add(tx, "b", 2)
        add(tx, "b", in_bin=True)
        assert kept(tx) == {("a", False): 3, ("b", False): 2, ("b", True): 1}
    with typed.begin() as tx:
        tx.execute(delete(shares).where(shares.c.id == first))
        tx.execute(delete(shares).where(shares.c.id == "none"))
        assert kept(tx) == {("a", False): 2, ("b", False): 2, ("b", True): 1}
    with typed.begin() as tx:
        tx.execute(delete(shares))
        assert kept(tx) == {}


def test_shares_that_change(typed: Store) -> None:
    with typed.begin() as tx:
        share, other = add(tx, "a", 2)

    def change(identifier: str, **values: Any) -> Numbers:
        with typed.begin() as tx:
            tx.execute(update(shares).where(shares.c.id == identifier).values(**values))
        with typed.read() as tx:
            return kept(tx)

    assert change(share, is_soft_deleted=True) == {("a", False): 1, ("a", True): 1}
    assert change(share, is_soft_deleted=True, status="error") == {("a", False): 1, ("a", True): 1}
    assert change(other, project_id="b") == {("b", False): 1, ("a", True): 1}
    assert change(share, project_id="b", is_soft_deleted=False) == {("b", False): 2}
    assert change(share, project_id="b", is_soft_deleted=False, size=2) == {("b", False): 2}
    with typed.begin() as tx:
        tx.execute(update(shares).values(project_id="c", is_soft_deleted=True))
        assert kept(tx) == {("c", True): 2}


def test_one_statement_may_write_many(typed: Store) -> None:
    with typed.begin() as tx:
        add(tx, "a", 2)
        add(tx, "a", in_bin=True)
        add(tx, "b")
        names = ", ".join(COLUMNS[1:])
        tx.execute(text(f"INSERT INTO shares (id, {names}) SELECT substr(id, 2), {names} FROM shares"))
        assert kept(tx) == {("a", False): 4, ("a", True): 2, ("b", False): 2}
        tx.execute(delete(shares).where(shares.c.project_id == "a"))
        assert kept(tx) == {("b", False): 2}


def test_what_is_rolled_back_is_not_counted(typed: Store) -> None:
    def break_off() -> None:
        with typed.begin() as tx:
            add(tx, "a", 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    with typed.begin() as tx:
        add(tx, "a")
        part = tx.begin_nested()
        add(tx, "a")
        add(tx, "b")
        part.rollback()
        add(tx, "a")
    with typed.read() as tx:
        assert kept(tx) == {("a", False): 2}


def test_other_changes_of_a_share_do_not_touch_the_numbers(postgresql: Store) -> None:
    versions = text("SELECT xmin::text FROM share_counts")
    with postgresql.begin() as tx:
        (share,) = add(tx, "a")
    with postgresql.begin() as tx:
        before = tx.scalars(versions).all()
        same = {"status": "error", "project_id": "a", "is_soft_deleted": False}
        tx.execute(update(shares).where(shares.c.id == share).values(**same))
        assert tx.scalars(versions).all() == before


def test_many_at_once_are_counted_exactly(typed: Store) -> None:
    threads, each = 6, 25
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        choose, mine = Random(number), list[str]()
        start.wait()
        for _ in range(each):
            with typed.begin() as tx:
                mine += add(tx, "a", choose.randint(1, 3))
                add(tx, "b")
                changed = choose.choice(mine)
                values = {"is_soft_deleted": choose.random() < 0.5, "project_id": choose.choice("abc")}
                tx.execute(update(shares).where(shares.c.id == changed).values(**values))
                mine.remove(gone := choose.choice(mine))
                tx.execute(delete(shares).where(shares.c.id == gone))

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    with typed.read() as tx:
        numbers = kept(tx)
        where = share_counts.c.project_id, share_counts.c.is_soft_deleted
        slots = tx.scalars(select(func.count(share_counts.c.slot)).group_by(*where))
        assert max(slots) <= (1 if typed.is_sqlite else threads * 5)  # at most: of what is changed at the same time
    assert sum(numbers.values()) > threads * each


def test_no_transaction_waits_for_another_ones_count(postgresql: Store) -> None:
    """In whatever order they count, and lock other rows in between, there is no circle."""
    with closing(Store(postgresql.url)) as other, postgresql.begin() as one:
        add(one, "a")
        add(one, "b")
        with other.begin() as two:
            two.execute(text("SET LOCAL lock_timeout = 100"))
            (share,) = add(two, "b")
            add(two, "a")
            two.execute(update(shares).where(shares.c.id == share).values(project_id="a"))
        add(one, "a")
        assert kept(one) == {("a", False): 4, ("b", False): 1}


def test_rows_that_are_copied_are_counted(postgresql: Store) -> None:
    rows = [row(project) for project in "aab"]
    with postgresql.begin() as tx, tx.connection.cursor() as cursor:
        with cursor.copy(f"COPY shares ({', '.join(COLUMNS)}) FROM STDIN") as stream:
            for each in rows:
                stream.write_row(list(each.values()))
        assert kept(tx) == {("a", False): 2, ("b", False): 1}


# ---- migration -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A database as it was before, with shares."""
    url, cluster = f"sqlite:///{tmp_path / 'former.db'}", None
    if request.param == "postgresql":
        cluster = request.getfixturevalue("postgres")
        url = cluster.create_database(migrated=False)
    with closing(Store(url)) as store:
        with store.begin() as tx:
            command.upgrade(configuration(tx), "0027")
        add_type(store)
        with store.begin() as tx:
            add(tx, "a", 3)
            add(tx, "a", 2, in_bin=True)
            add(tx, "b")
        yield store
    if cluster is not None:
        cluster.drop_database(url)


def test_shares_that_there_are_are_counted(former: Store) -> None:
    migrate(former)
    before = {("a", False): 3, ("a", True): 2, ("b", False): 1}
    with former.begin() as tx:
        assert kept(tx) == before
        add(tx, "b")
        tx.execute(update(shares).where(shares.c.is_soft_deleted).values(is_soft_deleted=False))
    with former.read() as tx:
        assert kept(tx) == {("a", False): 5, ("b", False): 2}


@pytest.mark.parametrize("former", ["postgresql"], indirect=True)
def test_shares_that_others_write_meanwhile_are_counted(former: Store) -> None:
    def waits(store: Store) -> bool:
        with store.read() as tx:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%TRIGGER%'"
            return bool(tx.scalar(text(query)))

    with closing(Store(former.url)) as another, ThreadPoolExecutor(1) as threads:
        with another.begin() as tx:
            add(tx, "c", 2)
            migrating = threads.submit(migrate, former)
            end = time.monotonic() + 30
            while not waits(another):
                assert time.monotonic() < end
                time.sleep(0.01)
            add(tx, "c")
        migrating.result(30)
        with another.read() as tx:
            assert kept(tx)["c", False] == 3


# ---- copies of the database ------------------------------------------------------------------------------------------


def test_a_dump_has_the_numbers_once_and_goes_on(postgresql: Store, postgres: PostgresCluster) -> None:
    with postgresql.begin() as tx:
        add(tx, "a", 3)
    url = postgres.create_database(migrated=False)
    tools, environment = postgres_binaries(), {**os.environ, "LC_ALL": "C.UTF-8"}
    dump = subprocess.run([tools / "pg_dump", postgresql.url], check=True, capture_output=True, env=environment)
    restore = [tools / "psql", "--quiet", "--set=ON_ERROR_STOP=1", url]
    subprocess.run(restore, input=dump.stdout, check=True, capture_output=True, env=environment)
    with closing(Store(url)) as restored, restored.begin() as tx:
        assert kept(tx) == {("a", False): 3}
        add(tx, "a")
        assert kept(tx) == {("a", False): 4}
    postgres.drop_database(url)


def test_a_dump_of_sqlite_has_the_numbers_once_and_goes_on(sqlite_store: Store, tmp_path: Path) -> None:
    add_type(sqlite_store)
    with sqlite_store.begin() as tx:
        add(tx, "a", 3)
    path = tmp_path / "restored.db"
    with closing(sqlite3.connect(str(sqlite_store.engine.url.database))) as from_, closing(sqlite3.connect(path)) as to:
        to.executescript("".join(from_.iterdump()))
    with closing(Store(f"sqlite:///{path}")) as restored, restored.begin() as tx:
        assert kept(tx) == {("a", False): 3}
        add(tx, "a")
        assert kept(tx) == {("a", False): 4}
