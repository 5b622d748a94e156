"""Connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from databases import PostgresCluster
from sharewright.store.database import Store


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    with closing(Store(postgresql_url)) as store:
        yield store


def test_columns_are_described_when_somebody_looks(postgresql: Store) -> None:
    with postgresql.read() as tx, tx.connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one, 'x'::text AS two")
        columns = cursor.description
        assert [column[0] for column in columns] == ["one", "two"]
        assert len(columns) == 2
        assert columns[1][0] == "two"
        cursor.execute("SET application_name = 'nothing to describe'")
        assert cursor.description is None


def test_a_read_begins_no_transaction_and_a_write_does(postgresql: Store) -> None:
    moments = text("SELECT now() FROM pg_sleep(0.01)")  # of the transaction's begin
    with postgresql.read() as tx:
        assert tx.scalar(moments) != tx.scalar(moments)
    with postgresql.begin() as tx:
        assert tx.scalar(moments) == tx.scalar(moments)


def test_connections_that_broke_while_nobody_used_them_are_replaced(
    postgresql: Store, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharewright.store.postgresql.IDLE_SECONDS", 0.0)
    for _ in range(2):
        with postgresql.read() as reading, postgresql.begin() as writing:
            assert reading.scalar(text("SELECT 1")) == writing.scalar(text("SELECT 1")) == 1
        postgres.disconnect_all(postgresql.url)
