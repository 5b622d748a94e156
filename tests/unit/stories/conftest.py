"""The worlds in which stories are told: the real engine on the simulated cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sharewright.store.database import Store
from story_world import World, make_world


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[World]:
    """On SQLite and on PostgreSQL."""
    with make_world(store, tmp_path / "state") as world:
        yield world


@pytest.fixture
def sqlite_world(sqlite_store: Store, tmp_path: Path) -> Iterator[World]:
    with make_world(sqlite_store, tmp_path / "state") as world:
        yield world
