"""Real worker processes, killed and frozen at random, on both databases.

However they die: every operation ends exactly once and as its story says, operations of one key never overlap and end
in order, and no write of a worker that lost its lease is ever seen.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_worker import STEPS, traces
from sqlalchemy import Row, func, select

from sharewright.operations.queue import enqueue
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.tables import operations

pytestmark = pytest.mark.chaos

LEASE_SECONDS = 1.0
PROCESSES = 3
KEYS = 5
PER_KEY = 10
PATIENCE = 240.0
WAYS = ("succeed", "succeed", "fault", "later", "fail")


class Workers:
    """Worker processes that can be killed, frozen and replaced."""

    def __init__(self, url: str, log: Path) -> None:
        self._url = url
        self._log = log.open("ab")
        self._count = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.frozen: list[tuple[float, subprocess.Popen[bytes]]] = []

    def spawn(self) -> None:
        self._count += 1
        self.processes.append(
            subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "engine_worker.py"), self._url,
                 f"node{self._count}", str(LEASE_SECONDS)],
                stdin=subprocess.PIPE, stdout=self._log, stderr=self._log,
            )
        )  # fmt: skip

    def kill(self, chance: random.Random) -> None:
        process = chance.choice(self.processes)
        self.processes.remove(process)
        self.frozen = [(until, frozen) for until, frozen in self.frozen if frozen is not process]
        process.kill()
        process.wait()
        self.spawn()

    def freeze(self, chance: random.Random) -> None:
        """Stop a process for longer than its lease; when it wakes it does not know that time has passed."""
        process = chance.choice(self.processes)
        if all(frozen is not process for _, frozen in self.frozen):
            process.send_signal(signal.SIGSTOP)
            self.frozen.append((time.monotonic() + chance.uniform(1.2, 2.5) * LEASE_SECONDS, process))

    def thaw(self, *, all_of_them: bool = False) -> None:
        for until, process in list(self.frozen):
            if all_of_them or time.monotonic() >= until:
                process.send_signal(signal.SIGCONT)
                self.frozen.remove((until, process))

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._log.close()

    def stop(self) -> list[int]:
        """Ask all to stop in good order; their exit codes."""
        self.thaw(all_of_them=True)
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return [process.wait(60) for process in self.processes]


@pytest.fixture
def workers(database_url: str, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(database_url, tmp_path / "workers.log")
    yield workers
    workers.close()


def add_operations(store: Store, chance: random.Random) -> dict[str, dict[str, Any]]:
    """Operation id → its plan, in order; some wait for one of another key that was added before."""
    plans: dict[str, dict[str, Any]] = {}
    for _ in range(PER_KEY):
        for key in range(KEYS):
            plan: dict[str, Any] = {"way": chance.choice(WAYS), "key": f"key{key}"}
            others = [identifier for identifier, other in plans.items() if other["key"] != plan["key"]]
            if others and chance.random() < 0.15:
                plan["waits_for"] = chance.choice(others)
            with store.begin() as tx:
                identifier = enqueue(
                    tx, "trace", resource_type="thing", resource_id=f"r{key}", key=plan["key"], payload=plan,
                    priority=chance.choice((-1, 0, 1)),
                )  # fmt: skip
            plans[identifier] = plan
    return plans


def count_open(store: Store) -> int:
    with store.read() as tx:
        return (
            tx.scalar(select(func.count()).select_from(operations).where(operations.c.state.in_(OperationState.OPEN)))
            or 0
        )


def read_traces(store: Store) -> Sequence[Row[Any]]:
    with store.read() as tx:
        return tx.execute(select(traces).order_by(traces.c.serial)).all()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_and_freezes_at_random(store: Store, workers: Workers, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    traces.metadata.create_all(store.engine)
    plans = add_operations(store, chance)
    for _ in range(PROCESSES):
        workers.spawn()
    kills = freezes = 0
    end = time.monotonic() + PATIENCE
    while not read_traces(store):
        assert time.monotonic() < end, (tmp_path / "workers.log").read_text()[-5000:]
        time.sleep(0.05)
    while count_open(store):
        assert time.monotonic() < end, (tmp_path / "workers.log").read_text()[-5000:]
        if kills + freezes < 40:  # then let them finish
            if kills < freezes:
                workers.kill(chance)
                kills += 1
            else:
                workers.freeze(chance)
                freezes += 1
        for _ in range(chance.randrange(2, 12)):
            time.sleep(0.1)
            workers.thaw()
    assert workers.stop() == [0] * PROCESSES
    with store.read() as tx:
        rows = {row.id: row for row in tx.execute(select(operations))}
    seen = read_traces(store)
    print(f"kills {kills}, freezes {freezes}, take-overs {sum(row.crashes for row in rows.values())}")
    assert min(kills, freezes) >= 3
    assert sum(row.crashes for row in rows.values()) >= 3, "the test did not interrupt anything"
    check_ends(plans, rows, seen)
    check_keys(plans, seen)
    check_fences(seen)


def check_ends(plans: dict[str, dict[str, Any]], rows: dict[str, Any], seen: Sequence[Row[Any]]) -> None:
    """Every operation ended once, as its story says; every step happened, and what failed was undone."""
    of: dict[str, list[str]] = defaultdict(list)
    for trace in seen:
        of[trace.operation_id].append(trace.what)
    for identifier, plan in plans.items():
        failed = plan["way"] == "fail"
        assert rows[identifier].state == (OperationState.FAILED if failed else OperationState.SUCCEEDED)
        ends = [what for what in of[identifier] if not what.startswith(("step", "undo"))]
        assert ends == ["failed" if failed else "succeeded"], (plan, of[identifier])
        assert of[identifier][-1] == ends[0], "nothing happens after the end"
        assert {f"step {number}" for number in range(STEPS)} <= set(of[identifier])
        undone = {what for what in of[identifier] if what.startswith("undo")}
        assert undone == ({f"undo {number}" for number in range(STEPS)} if failed else set())


def check_keys(plans: dict[str, dict[str, Any]], seen: Sequence[Row[Any]]) -> None:
    """The traces of one key are those of its operations one after the other, in the order they were enqueued."""
    for key in {plan["key"] for plan in plans.values()}:
        order: list[str] = []
        for trace in seen:
            if trace.key == key and (not order or order[-1] != trace.operation_id):
                order.append(trace.operation_id)
        assert order == [identifier for identifier, plan in plans.items() if plan["key"] == key]


def check_fences(seen: Sequence[Row[Any]]) -> None:
    """Once a later claim has written, no earlier one ever does again."""
    newest: dict[str, int] = {}
    for trace in seen:
        assert trace.epoch >= newest.get(trace.operation_id, 0), "a stale worker wrote"
        newest[trace.operation_id] = trace.epoch
