"""What is found out once in a transaction, and what is written at its end."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, bindparam, select

from sharewright.errors import LeaseLost
from sharewright.identifiers import utcnow
from sharewright.operations.queue import enqueue
from sharewright.store.database import Store
from sharewright.store.kept import add_row, change_row
from sharewright.store.statements import statements
from sharewright.store.tables import leases, operations
from sharewright.store.transaction import act_at_end, add_row_at_end, change_row_at_end, once, write_at_end, write_now

_HOLDER = leases.update().where(leases.c.name == bindparam("named"))


def names(tx: Connection) -> dict[str, str]:
    rows = tx.execute(select(leases.c.name, leases.c.holder))
    return {row.name: row.holder for row in rows}


def held(store: Store) -> dict[str, str]:
    with store.read() as tx:
        return names(tx)


def lease(name: str, holder: str = "one") -> dict[str, object]:
    return {"name": name, "holder": holder, "expires": utcnow()}


def test_once_asks_once_in_each_transaction(store: Store) -> None:
    asked: list[int] = []

    def find() -> int:
        asked.append(1)
        return len(asked)

    with store.begin() as tx:
        assert [once(tx, "key", find) for _ in range(3)] == [1, 1, 1]
        assert once(tx, "another", find) == 2
    with store.begin() as tx:
        assert once(tx, "key", find) == 3


def test_rows_of_one_kind_are_one_statement_at_the_end(store: Store) -> None:
    with store.begin() as tx:
        before = statements.count
        for name in ("a", "b", "c"):
            add_row_at_end(tx, leases, **lease(name))
        assert statements.count == before
    assert statements.count == before + 1
    assert held(store) == {"a": "one", "b": "one", "c": "one"}
    before = statements.count
    with store.begin():  # nothing is left of them for the next
        pass
    assert statements.count == before


def test_what_is_rolled_back_is_not_written_later(store: Store) -> None:
    def break_off() -> None:
        with store.begin() as tx:
            add_row_at_end(tx, leases, **lease("a"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    with store.begin() as tx:
        add_row(tx, leases, **lease("b"))
    assert list(held(store)) == ["b"]


def test_the_last_word_on_a_row_holds(store: Store) -> None:
    with store.begin() as tx:
        row = enqueue(tx, "work", resource_type="thing", resource_id="one")
        change_row_at_end(tx, operations, row, error="first")
        change_row_at_end(tx, operations, row, error="second")
        change_row(tx, operations, row, error="at once")
        assert tx.scalar(select(operations.c.error)) == "at once"
    with store.read() as tx:
        assert tx.scalar(select(operations.c.error)) == "second"


def test_rows_may_be_wanted_before_the_end(store: Store) -> None:
    acts: list[str] = []
    with store.begin() as tx:
        act_at_end(tx, lambda: acts.append("at the end"))
        add_row_at_end(tx, leases, **lease("a"))
        write_now(tx)
        assert names(tx) == {"a": "one"}
        assert not acts
        add_row_at_end(tx, leases, **lease("b"))
    assert held(store) == {"a": "one", "b": "one"}
    assert acts == ["at the end"]


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_where_a_row_is_missing_nothing_is_written(store: Store, missing: str) -> None:
    with store.begin() as tx:
        for name in {"a", "b", "c"} - {missing}:
            add_row(tx, leases, **lease(name))

    def write(*wanted: str) -> None:
        with store.begin() as tx:
            for name in wanted:
                values = {"named": name, "holder": "two"}
                write_at_end(tx, _HOLDER, values, otherwise=lambda: LeaseLost("lost"))

    with pytest.raises(LeaseLost):
        write("a", "b", "c")
    assert set(held(store).values()) == {"one"}
    write(*({"a", "b", "c"} - {missing}))
    assert set(held(store).values()) == {"two"}


def test_what_is_done_at_the_end_finds_the_rows_written(store: Store) -> None:
    found: list[dict[str, str]] = []

    def look(tx: Connection) -> None:
        found.append(names(tx))

    with store.begin() as tx:
        act_at_end(tx, lambda: look(tx))
        add_row_at_end(tx, leases, **lease("a"))
        assert not found
    assert found == [{"a": "one"}]
    with store.begin():
        pass
    assert len(found) == 1
