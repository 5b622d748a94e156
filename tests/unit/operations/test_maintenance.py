"""Level-triggered repair and the other periodic work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from engine_help import Told, add, change, read, run_one
from sqlalchemy import func, select

from sharewright.configuration_file import parse
from sharewright.drivers.contract import PoolStats
from sharewright.errors import CloudUnavailable, NoValidBackend
from sharewright.identifiers import new_id, utcnow
from sharewright.operations import reconciler
from sharewright.operations.contract import Operation
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.messages import Action, Detail, user_message, write_message
from sharewright.settings import Settings
from sharewright.store.database import Store
from sharewright.store.tables import (
    messages,
    operation_steps,
    operations,
    pools,
    share_access_rules,
    share_instances,
    share_servers,
    share_types,
    shares,
)

SETTINGS: Settings = parse(
    {
        "node": "n1",
        "worker": {"reconcile_seconds": 30, "unused_server_seconds": 600},
        "backends": {"alpha": {"cloud": "simulated"}},
    }
)


class Rows:
    """Rows with as little in them as the tables allow."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def share(self, status: str, *, rule: str = "", server: str | None = None) -> str:
        share = new_id()
        now = utcnow()
        with self.store.begin() as tx:
            kind = tx.scalar(select(share_types.c.id)) or new_id()
            if tx.scalar(select(func.count()).select_from(share_types)) == 0:
                tx.execute(share_types.insert().values(id=kind, name="default", created_at=now))
            tx.execute(
                shares.insert().values(
                    id=share, project_id="p", user_id="u", size=1, protocol="NFS", share_type_id=kind, status=status,
                    created_at=now,
                )
            )  # fmt: skip
            tx.execute(
                share_instances.insert().values(
                    id=new_id(), share_id=share, status=status, size=1, share_server_id=server, created_at=now
                )
            )
            if rule:
                tx.execute(
                    share_access_rules.insert().values(
                        id=new_id(), share_id=share, access_type="ip", access_to="10.0.0.1", access_level="rw",
                        state=rule, created_at=now,
                    )
                )  # fmt: skip
        return share

    def server(self, status: str = "active", **values: Any) -> str:
        server = new_id()
        values = {"unused_since": None, "created_at": utcnow() - timedelta(hours=1), **values}
        with self.store.begin() as tx:
            tx.execute(
                share_servers.insert().values(
                    id=server, project_id="p", backend="alpha", host="n1@alpha", status=status, **values
                )
            )
        return server


@pytest.fixture
def rows(store: Store) -> Rows:
    return Rows(store)


def reconcile(store: Store) -> dict[str, int]:
    return reconciler.reconcile(store, SETTINGS, backends=["alpha"])


def open_operations(store: Store) -> list[tuple[str, str]]:
    with store.read() as tx:
        return [
            (row.kind, row.resource_id)
            for row in tx.execute(select(operations).where(operations.c.state == "queued").order_by(operations.c.kind))
        ]


# ---- reconciling ----


@pytest.mark.parametrize("state", ["queued_to_apply", "applying", "queued_to_deny", "denying"])
def test_rules_that_nobody_works_on_are_worked_on_once(store: Store, rows: Rows, state: str) -> None:
    share = rows.share("available", rule=state)
    assert reconcile(store) == {"update_access": 1}
    assert reconcile(store) == {}
    assert open_operations(store) == [("update_access", share)]


@pytest.mark.parametrize(("status", "rule"), [("available", "active"), ("available", "error"), ("error", "applying")])
def test_other_rules_are_left(store: Store, rows: Rows, status: str, rule: str) -> None:
    rows.share(status, rule=rule)
    assert reconcile(store) == {}


def test_a_repair_carries_its_owner(store: Store, rows: Rows) -> None:
    rows.share("available", rule="applying")
    reconcile(store)
    with store.read() as tx:
        row = tx.execute(select(operations)).one()
    assert (row.project_id, row.user_id, row.key) == ("p", "u", f"share:{row.resource_id}")
    assert row.request_id.startswith("req-")


@pytest.mark.parametrize(("status", "kind"), [("creating", "create_share"), ("deleting", "delete_share")])
def test_a_share_whose_operation_ended_without_a_word_goes_on(store: Store, rows: Rows, status: str, kind: str) -> None:
    share = rows.share(status)
    identifier = add(store, kind, resource=share, payload={"force": True})

    def broken(*_: object) -> Any:
        raise NoValidBackend("No.")

    while read(store, identifier).state == "queued":  # a story that fails, and cannot even write that
        run_one(store, Told(broken, fail=broken, kind=kind))
        change(store, identifier, not_before=utcnow() - timedelta(seconds=1))
    assert read(store, identifier).state == "failed"
    assert reconcile(store) == {}, "not at once: a defect must not spin"
    change(store, identifier, finished_at=utcnow() - timedelta(seconds=60))
    assert reconcile(store) == {kind: 1}
    assert reconcile(store) == {}
    with store.read() as tx:
        again = tx.execute(select(operations).where(operations.c.state == "queued")).one()
    assert again.payload == {"force": True}


@pytest.mark.parametrize("status", ["creating", "deleting"])
def test_a_status_that_an_administrator_set_makes_nothing_happen(store: Store, rows: Rows, status: str) -> None:
    share = rows.share(status)
    assert reconcile(store) == {}
    identifier = add(store, "create_share", resource=share)
    run_one(store, Told(kind="create_share"))
    change(store, identifier, finished_at=utcnow() - timedelta(hours=1))
    assert reconcile(store) == {}, "its creation succeeded"


LONG_AGO = timedelta(hours=2)


def test_unused_servers_are_deleted_after_their_time(store: Store, rows: Rows) -> None:
    old = rows.server(unused_since=utcnow() - timedelta(seconds=601))
    rows.server(unused_since=utcnow() - timedelta(seconds=500))
    rows.server(unused_since=utcnow() - LONG_AGO, is_auto_deletable=False)
    used = rows.server()
    rows.share("available", server=used)
    failed = rows.server("error")
    left = rows.server("deleting")
    reconcile(store)
    found = [resource for kind, resource in open_operations(store) if kind == "delete_share_server"]
    assert sorted(found) == sorted([old, failed, left])
    assert "delete_share_server" not in reconcile(store)


def test_servers_that_are_worked_on_or_of_other_backends_are_left(store: Store, rows: Rows) -> None:
    busy = rows.server("creating")
    add(store, "create_share_server", resource=busy)
    foreign = rows.server(unused_since=utcnow() - LONG_AGO)
    with store.begin() as tx:
        tx.execute(share_servers.update().where(share_servers.c.id == foreign).values(backend="beta"))
    assert reconcile(store) == {}


def test_servers_in_service_are_looked_at_once_a_round(store: Store, rows: Rows) -> None:
    used, troubled = rows.server(), rows.server("error")
    rows.share("available", server=used)
    rows.share("available", server=troubled)
    rows.server("deleting", is_auto_deletable=False)
    assert reconcile(store)["heal_server"] == 2
    assert "heal_server" not in reconcile(store)
    while run_one(store, Told(kind="heal_server")):
        pass
    assert "heal_server" not in reconcile(store), "looked at a moment ago"
    let_pass(store, seconds=31)
    assert reconcile(store)["heal_server"] == 2


def let_pass(store: Store, *, seconds: float) -> None:
    """As if the last look at each server had been so long ago."""
    with store.begin() as tx:
        for row in tx.execute(select(share_servers.c.id, share_servers.c.looked_at)).all():
            earlier = row.looked_at - timedelta(seconds=seconds)
            tx.execute(share_servers.update().where(share_servers.c.id == row.id).values(looked_at=earlier))


FEW_LOOKS = msgspec.structs.replace(
    SETTINGS, worker=msgspec.structs.replace(SETTINGS.worker, looks_per_second=0.2)
)  # six in a round of 30 s


def looked_at(store: Store) -> set[str]:
    """The servers that a round wants looked at; they are, at once, and time passes."""
    reconciler.reconcile(store, FEW_LOOKS, backends=["alpha"])
    found = {resource for kind, resource in open_operations(store) if kind == "heal_server"}
    while run_one(store, Told(kind="heal_server")):
        pass
    let_pass(store, seconds=31)
    return found


def test_many_servers_take_turns(store: Store, rows: Rows) -> None:
    servers = {rows.server() for _ in range(15)}
    rounds = [looked_at(store) for _ in range(3)]
    assert [len(found) for found in rounds] == [6, 6, 6]
    assert set.union(*rounds) == servers


def test_servers_in_trouble_come_first_and_leave_the_others_their_turn(store: Store, rows: Rows) -> None:
    sound = {rows.server(healthy=True) for _ in range(6)}
    looked_at(store)
    dead = {rows.server(healthy=False) for _ in range(20)}
    rounds = [looked_at(store) for _ in range(2)]
    assert all(len(found & dead) >= 3 for found in rounds)
    assert len(set.union(*(looked_at(store) for _ in range(8))) & sound) == 6


def test_the_queue_holds_no_more_than_one_round_of_looks(store: Store, rows: Rows) -> None:
    for _ in range(15):
        rows.server()
    for _ in range(3):
        reconciler.reconcile(store, FEW_LOOKS, backends=["alpha"])
        let_pass(store, seconds=31)
    assert len(open_operations(store)) == 6


# ---- reports and purging ----


class Reporter:
    """The part of a driver that reports; ``answer`` may be an error."""

    backend = "alpha"

    def __init__(self, answer: Sequence[PoolStats] | Exception) -> None:
        self.answer = answer

    def pools(self) -> Sequence[PoolStats]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def maintenance(store: Store, reporter: Reporter, holder: str = "w1") -> Maintenance:
    drivers: Any = {"alpha": reporter}
    return Maintenance(store, SETTINGS, drivers=drivers, clouds={}, holder=holder)


def stats(free: float) -> list[PoolStats]:
    return [PoolStats(pool="alpha", total_capacity=100.0, free_capacity=free, provisioned_capacity=10.0)]


def test_reports_replace_each_other_and_a_silent_backend_keeps_its_last(store: Store) -> None:
    reporter = Reporter(stats(50))
    task = maintenance(store, reporter)
    task.report()
    reporter.answer = stats(40)
    task.report()
    reporter.answer = CloudUnavailable("Away.")
    task.report()
    with store.read() as tx:
        row = tx.execute(select(pools)).one()
    assert (row.host, row.free_capacity, row.availability_zone) == ("n1@alpha#alpha", 40, "nova")


def test_only_one_worker_does_maintenance(store: Store) -> None:
    first, second = Reporter(stats(1)), Reporter(stats(2))
    one, two = maintenance(store, first, "w1"), maintenance(store, second, "w2")
    assert one.tick() <= 30
    two.tick()
    with store.read() as tx:
        assert tx.execute(select(pools.c.free_capacity)).scalar_one() == 1
    one.release()
    two.tick()
    with store.read() as tx:
        assert tx.execute(select(pools.c.free_capacity)).scalar_one() == 2


def test_a_task_that_fails_does_not_stop_the_others(store: Store, rows: Rows) -> None:
    rows.share("available", rule="applying")
    maintenance(store, Reporter(RuntimeError("defect"))).tick()
    assert [kind for kind, _ in open_operations(store)] == ["update_access"]


def test_purging_keeps_what_is_open_or_recent(store: Store) -> None:
    old, recent, waiting = add(store, resource="a"), add(store, resource="b"), add(store, resource="c")
    routine = add(store, "heal_server", resource="d")
    failed = add(store, "heal_server", resource="e")
    long_ago, this_morning = utcnow() - timedelta(days=31), utcnow() - timedelta(hours=2)
    change(store, old, state="succeeded", finished_at=long_ago)
    change(store, recent, state="failed", finished_at=this_morning)
    change(store, waiting, created_at=long_ago)
    change(store, routine, state="succeeded", finished_at=this_morning)
    change(store, failed, state="failed", finished_at=this_morning)
    with store.begin() as tx:
        tx.execute(
            operation_steps.insert().values(operation_id=old, position=0, name="x", epoch=1, started_at=long_ago)
        )
        for _ in range(2):
            write_message(tx, None, project_id="p", resource_id="r", action=Action.CREATE)
        one = tx.scalar(select(messages.c.id).limit(1))
        tx.execute(messages.update().where(messages.c.id == one).values(expires_at=this_morning))
    maintenance(store, Reporter([])).purge()
    with store.read() as tx:
        assert set(tx.scalars(select(operations.c.id))) == {recent, waiting, failed}
        assert tx.scalar(select(func.count()).select_from(operation_steps)) == 0
        assert tx.scalar(select(func.count()).select_from(messages)) == 1


# ---- messages ----


def test_a_message_keeps_the_reason_and_the_request(store: Store) -> None:
    operation = Operation(
        id=new_id(), kind="create_share", resource_type="share", resource_id="s", key="share:s", epoch=1,
        worker_id="w", deadline=utcnow(), request_id="req-1",
    )  # fmt: skip
    with store.begin() as tx:
        write_message(
            tx, operation, project_id="p", resource_id="s", action=Action.ALLOCATE_HOST, detail=Detail.NO_VALID_HOST,
            error=NoValidBackend("alpha: too small.", hint="Ask for less."),
        )  # fmt: skip
    with store.read() as tx:
        row = tx.execute(select(messages)).one()
    assert (row.action_id, row.detail_id, row.resource_type, row.message_level) == ("001", "002", "SHARE", "ERROR")
    assert row.request_id == "req-1"
    assert timedelta(days=29) < row.expires_at - row.created_at <= timedelta(days=30)
    text = user_message(row.action_id, row.detail_id, row.detail)
    assert text.startswith("allocate host: No storage")
    assert text.endswith("alpha: too small. Ask for less.")


def test_every_number_has_a_text_and_unknown_ones_do_too() -> None:
    for action in Action:
        for detail in Detail:
            assert len(user_message(action, detail)) > 10
    assert user_message("002", "001", "The disk is full.") == "create: The disk is full."
    assert user_message("002", None) == "create: It failed."
    assert user_message("999", "999") == "unknown action: It failed."
