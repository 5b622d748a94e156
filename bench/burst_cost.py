"""What shares, rules and deletions at once cost in one process: processor time, SQL statements, transactions.

    .venv/bin/python bench/burst_cost.py [--against OTHER_CHECKOUT] [--rounds 3] [--number 50] [--database postgresql]

The application (without a HTTP server) and a worker with its threads, on the simulated cloud, with a server that is
there already. Of each request all is counted from its sending to its object's final state. Processor time, PostgreSQL's
included, and taking
turns make the ratios ones that other work on the machine changes little; api.py measures what that is in seconds.
``--profile``: what the processor time went into, of this checkout.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from falcon.testing import create_environ
from processor_time import processor_seconds
from sqlalchemy import func, select

from databases import running_postgres
from sharewright import logging
from sharewright.api.app import create_app
from sharewright.configuration_file import parse
from sharewright.instruments import REGISTRY
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.services.bootstrap import ensure_defaults
from sharewright.store.database import Store
from sharewright.store.migrations import migrate
from sharewright.store.tables import operations

HEADERS = {"X-OpenStack-Manila-API-Version": "2.70", "Host": "127.0.0.1", "Content-Type": "application/json"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
RULE = {"access_type": "ip", "access_to": "10.88.0.1", "access_level": "rw"}


class Site:
    """An application and a worker on one store."""

    def __init__(self, store: Store, directory: str) -> None:
        migrate(store)
        settings = parse(
            {
                "state_dir": directory,
                "quotas": {"shares": -1, "gigabytes": -1},
                "worker": {"reconcile_seconds": 600.0},
                "simulated": {"any_network": True, "capacity": 1e7},
                "backends": {"bench": {"cloud": "simulated"}},
            }
        )
        ensure_defaults(store, settings)
        self.store, self._settings = store, settings
        self._app = create_app(store, settings, wake=store.bell.ring)
        self._assembly = assemble(settings, store)

    @contextmanager
    def working(self) -> Iterator[None]:
        parts = self._assembly
        with closing(parts), Worker(
            self.store, parts.stories, self._settings, drivers=parts.drivers, clouds=parts.clouds
        ):  # fmt: skip
            yield

    def ask(self, method: str, path: str, body: Any = None, query: str = "") -> Any:
        content = "" if body is None else json.dumps(body)
        environ = create_environ(path=path, query_string=query, method=method, headers=HEADERS, body=content)
        answered: list[str] = []
        answer = b"".join(self._app(environ, lambda status, *_: answered.append(status)))  # type: ignore[arg-type]
        assert answered[0].startswith("2"), (answered, answer)
        return json.loads(answer) if answer else None

    def settle(self) -> None:
        """Wait until no operation is left."""
        end = time.monotonic() + 300
        query = select(func.count()).where(operations.c.state.in_(("queued", "running")))
        while self._number(query):
            assert time.monotonic() < end, "The burst did not come to an end."
            time.sleep(0.05)

    def _number(self, query: Any) -> int:
        with self.store.read() as tx:
            return int(tx.execute(query).scalar_one())


def measure(number: int, store: Store, directory: str, profile: bool) -> dict[str, dict[str, float]]:
    """Each figure: of one object."""
    logging.configure(form="text", level="warning")
    sent: Counter[str] = Counter()
    commit = store.engine.dialect.do_commit

    def count_commit(connection: Any) -> None:
        sent["transactions"] += 1
        commit(connection)

    # Not by SQLAlchemy's events, with which every statement takes longer.
    store.engine.dialect.do_commit = count_commit  # type: ignore[method-assign]
    site = Site(store, directory)
    with site.working():
        subnet = {"neutron_net_id": "b" * 32, "neutron_subnet_id": "c" * 32}
        network = site.ask("POST", "/v2/share-networks", {"share_network": subnet})
        wanted = {"share_proto": "NFS", "size": 1, "share_network_id": network["share_network"]["id"]}
        site.ask("POST", "/v2/shares", {"share": {**wanted, "name": "first"}})
        site.settle()
        made: list[str] = []

        def burst(name: str, send: Callable[[int], None]) -> dict[str, float]:
            sent.clear()
            statements = _statements()
            begun, used, here = time.perf_counter(), processor_seconds(), time.process_time()
            with _profiled(name) if profile else ExitStack():
                for each in range(number):
                    send(each)
                accepted = processor_seconds() - used
                site.settle()
            seconds, used = time.perf_counter() - begun, processor_seconds() - used
            here = time.process_time() - here
            sent["SQL statements"] = _statements() - statements
            figures = {
                "processor ms": 1000 * used,
                "until it was accepted, ms": 1000 * accepted,
                **dict(sent),
            }
            if not store.is_sqlite:
                figures["of the database, ms"] = 1000 * max(0.0, used - here)
            return {key: value / number for key, value in figures.items()} | {"seconds": seconds}

        def create(each: int) -> None:
            made.append(site.ask("POST", "/v2/shares", {"share": {**wanted, "name": f"share-{each}"}})["share"]["id"])

        figures = {
            "create": burst("create", create),
            "rule": burst("rule", lambda n: site.ask("POST", f"/v2/shares/{made[n]}/action", {"allow_access": RULE})),
        }
        states = {share["status"] for share in site.ask("GET", "/v2/shares/detail")["shares"]}
        assert states == {"available"}, states
        figures["delete"] = burst("delete", lambda n: site.ask("DELETE", f"/v2/shares/{made[n]}"))
        assert len(site.ask("GET", "/v2/shares")["shares"]) == 1
    return figures


def _statements() -> int:
    """SQL statements that this process has sent."""
    return int(REGISTRY.get_sample_value("sharewright_database_statements_total") or 0)


@contextmanager
def _profiled(name: str) -> Iterator[None]:
    """Every thread that begins meanwhile, and this one."""
    profiles: list[cProfile.Profile] = []

    def begin(*_: Any) -> None:
        profile = cProfile.Profile(time.thread_time)
        profiles.append(profile)
        sys.setprofile(None)
        profile.enable()

    threading.setprofile(begin)
    own = cProfile.Profile(time.thread_time)
    own.enable()
    try:
        yield
    finally:
        own.disable()
        threading.setprofile(None)
    found = pstats.Stats(own)
    for profile in profiles:
        profile.create_stats()
        if profile.stats:  # type: ignore[attr-defined]
            found.add(profile)
    print(f"==== {name}")
    found.sort_stats("tottime").print_stats(45)
    found.sort_stats("cumtime").print_stats(90)


def measure_here(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
        url = f"sqlite:///{directory}/store.db"
        if arguments.database == "postgresql":
            url = stack.enter_context(running_postgres(DURABLE)).url("postgres")
        store = stack.enter_context(closing(Store(url)))
        return measure(arguments.number, store, directory, arguments.profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--number", type=int, default=50, help="objects at once")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.once or arguments.profile:
        print(json.dumps(measure_here(arguments)))
        return
    sources = [Path(__file__).parents[1], *([arguments.against] if arguments.against else [])]
    rounds: list[list[dict[str, dict[str, float]]]] = [[] for _ in sources]
    for _ in range(arguments.rounds):
        for source, found in zip(sources, rounds, strict=True):
            command = [sys.executable, __file__, "--once", "--number", str(arguments.number)]
            command += ["--database", arguments.database]
            environment = {**os.environ, "PYTHONPATH": str(source / "src")}
            answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(answer.stdout.splitlines()[-1]))
    print(f"{arguments.database}, load average {os.getloadavg()[0]:.1f}, medians of {arguments.rounds} rounds:\n")
    print("| one of them | | this checkout | the other | ratio |\n|---|---|---|---|---|")
    for kind, figures in rounds[0][0].items():
        for name in figures:
            medians = [statistics.median(each[kind].get(name, 0.0) for each in found) for found in rounds]
            shown = [f"{each:.2f}" for each in medians] + [f"{each / medians[0]:.2f}" for each in medians[1:]]
            print(f"| {kind} | {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
