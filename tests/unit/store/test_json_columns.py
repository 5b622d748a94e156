"""JSON columns give back what was written, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from sharewright.operations.queue import enqueue
from sharewright.store.database import Store
from sharewright.store.tables import operations


@pytest.mark.parametrize(
    "payload",
    [{}, {"text": 'a "quoted" \\ line\n', "umlaut": "ü", "emoji": "\U0001f4be"}, {"half": "\ud83d"}, {"number": 1.5}],
    ids=["nothing", "text", "half a pair of surrogates", "number"],
)
def test_what_is_written_is_read(store: Store, payload: dict[str, Any]) -> None:
    with store.begin() as tx:
        enqueue(tx, "work", resource_type="thing", resource_id="r", payload=payload)
    with store.read() as tx:
        assert tx.scalar(select(operations.c.payload)) == payload
