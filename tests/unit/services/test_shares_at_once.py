"""Requests for shares that come at once: on PostgreSQL one transaction accepts them, and each has its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, func, select, text

from sharewright.context import RequestContext
from sharewright.errors import NotFound, OverQuota
from sharewright.services import new_shares as service
from sharewright.services.deployment import Deployment
from sharewright.store.database import Store
from sharewright.store.kept import new_row, whole_row
from sharewright.store.quotas import read_usage
from sharewright.store.tables import operations, share_instances, share_types, shares
from story_world import PROJECT, World, make_world

ADMIN = RequestContext(project_id=PROJECT, user_id="admin", roles=frozenset({"admin", "member", "reader"}))
MEMBER = RequestContext(project_id=PROJECT, user_id="user", roles=frozenset({"member", "reader"}))


@pytest.fixture
def world(postgresql_url: str, tmp_path: Path) -> Iterator[World]:
    with closing(Store(postgresql_url)) as store, make_world(store, tmp_path / "state") as world:
        yield world


def create_together(
    world: World, wanted: list[tuple[RequestContext, Mapping[str, Any]]], **quotas: int
) -> list[Future[Any]]:
    """What becomes of requests that wait while another one is accepted."""
    limits = msgspec.structs.replace(world.settings.quotas, **quotas)
    deployment = Deployment(store=world.store, settings=msgspec.structs.replace(world.settings, quotas=limits))
    group, begun, go = ("create_share", PROJECT), threading.Event(), threading.Event()
    plain = {"protocol": "NFS", "size": 1, "share_network_id": world.share_network_id}

    def lead(tx: Connection) -> None:
        begun.set()
        assert go.wait(30)

    with ThreadPoolExecutor(len(wanted) + 1) as threads:
        leader = threads.submit(world.store.together, group, lead)
        assert begun.wait(30)
        futures = []
        for context, values in wanted:
            futures.append(threads.submit(service.create, deployment, context, {**plain, **values}))
            waiting = world.store._together._waiting[group]  # type: ignore[union-attr]
            end = time.monotonic() + 30
            while len(waiting) < len(futures) and not futures[-1].done():
                assert time.monotonic() < end
                time.sleep(0.005)
        go.set()
        leader.result(30)
    return futures


def number_of(world: World) -> int:
    with world.store.read() as tx:
        numbers = {tx.scalar(select(func.count()).select_from(each)) for each in (shares, share_instances, operations)}
    (number,) = numbers  # one of each for every share
    return int(number or 0)


def test_each_gets_its_share_and_the_quota_counts_all(world: World) -> None:
    futures = create_together(world, [(MEMBER, {"name": f"share-{n}", "size": n + 1}) for n in range(5)])
    records = [future.result(30) for future in futures]
    assert [record["name"] for record in records] == [f"share-{n}" for n in range(5)]
    with world.store.read() as tx:
        assert read_usage(tx, PROJECT)["gigabytes"] == read_usage(tx, PROJECT, user_id="user")["gigabytes"] == 15
        rows = {row.id: dict(row._mapping) for row in tx.execute(select(shares))}
        (_,) = set(tx.scalars(text("SELECT xmin::text FROM shares")))  # one transaction has written all
    for record in records:
        row = rows[record["id"]]
        assert {name: record[name] for name in row} == row
    assert number_of(world) == 5


def test_those_for_whom_no_quota_is_left_are_refused_and_no_others(world: World) -> None:
    futures = create_together(world, [(MEMBER, {"name": f"share-{n}"}) for n in range(6)], shares=4)
    refused = [future.exception(30) for future in futures]
    assert all(isinstance(error, OverQuota) for error in refused if error is not None)
    assert refused.count(None) == number_of(world) == 4
    with world.store.read() as tx:
        assert read_usage(tx, PROJECT)["shares"] == read_usage(tx, PROJECT, user_id="user")["shares"] == 4


@pytest.mark.parametrize("first", [ADMIN, MEMBER])
def test_what_one_may_use_is_not_lent_to_another(world: World, first: RequestContext) -> None:
    private = world.add_share_type("private")
    with world.store.begin() as tx:
        tx.execute(share_types.update().where(share_types.c.id == private).values(is_public=False))
    second = MEMBER if first is ADMIN else ADMIN
    futures = create_together(world, [(first, {"share_type": "private"}), (second, {"share_type": "private"})])
    found = {context.user_id: future for context, future in zip((first, second), futures, strict=True)}
    assert found["admin"].result(30)["share_type_id"] == private
    with pytest.raises(NotFound):
        found["user"].result(30)
    assert number_of(world) == 1


def test_a_row_is_what_the_database_would_have_made_of_it(store: Store, tmp_path: Path) -> None:
    with make_world(store, tmp_path / "state") as world:
        with world.store.read() as tx:
            share_id = world.request_share()
            made = dict(tx.execute(select(shares).where(shares.c.id == share_id)).one()._mapping)
        names = ("id", "project_id", "user_id", "size", "protocol", "share_type_id", "status", "created_at")
        values = {name: made[name] for name in names} | {"id": "another"}
        with world.store.begin() as tx:
            assert whole_row(shares, values) == new_row(tx, shares, **values)
