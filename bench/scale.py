"""Scale-out, measured: a database with many servers and shares, one to four worker processes, and the API.

    .venv/bin/python bench/scale.py [--servers 10000] [--shares 100000] [--quick] [--output FILE.json]

PostgreSQL is a cluster of its own on a Unix socket, with the durability it has by default. The cloud and the guests are
the twin of tests/twin_cloud.py, which answers at once or after a fixed time; so the figures are what Sharewright and
its database cost, and nothing of a cloud. "Sequential scans" are those that PostgreSQL itself counted on the large
tables in that phase, which tells a missing index better than a plan looked at once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psycopg
from scale_tables import show
from sqlalchemy import func, select, update

from databases import running_postgres
from large_deployment import BACKEND, USER, Server, load, make_driver, make_settings, plan
from sharewright.clouds.contract import TAG_DEPLOYMENT, TAG_OWNER, Instance, Volume
from sharewright.clouds.simulated.state import SimulatedState
from sharewright.context import RequestContext
from sharewright.identifiers import derived_id, utcnow
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.reconciler import reconcile
from sharewright.operations.sweeper import Sweeper
from sharewright.services import access_rules, new_shares
from sharewright.services.bootstrap import ensure_defaults
from sharewright.services.deployment import Deployment
from sharewright.states import OperationState
from sharewright.store.database import Store
from sharewright.store.migrations import migrate
from sharewright.store.secrets import SecretBox
from sharewright.store.statements import statements
from sharewright.store.tables import operations
from twin_cloud import TwinCloud

WORKERS = (1, 2, 4)
SLOWER = 5  # so much less is asked of workers whose guests take their time
PARTS = ("maintenance", "api", "workers")
LARGE = ("operations", "operation_steps", "shares", "share_instances", "share_servers", "share_access_rules",
         "share_export_locations", "service_instances", "share_networks", "secrets")  # fmt: skip
POSTGRES = {"shared_buffers": "1GB", "max_connections": "200"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

Figures = dict[str, Any]


class Study:
    def __init__(self, url: str, key_file: Path, servers: Sequence[Server], arguments: argparse.Namespace) -> None:
        self.url = url
        self.key_file = key_file
        self.servers = servers
        self.arguments = arguments
        self.store = Store(url)
        self.settings = make_settings()
        self.deployment = Deployment(store=self.store, settings=self.settings)
        self._address = 0
        self._choose = random.Random(2)

    # ---- requests, as the API makes them ----

    def context(self, server: Server) -> RequestContext:
        return RequestContext(project_id=server.project_id, user_id=USER, roles=("member", "reader"))

    def allow(self, server: Server, share_id: str) -> None:
        """One more rule of a share, to an address that is new each time."""
        self._address += 1
        address = f"172.{16 + (self._address >> 16)}.{self._address >> 8 & 255}.{self._address & 255}"
        values = {"access_type": "ip", "access_to": address, "access_level": "rw"}
        access_rules.allow(self.deployment, self.context(server), share_id, values)

    def create(self, server: Server) -> None:
        values = {"size": 1, "protocol": "NFS", "share_network_id": server.network_id, "name": "new"}
        new_shares.create(self.deployment, self.context(server), values)

    def request_rules(self, count: int) -> float:
        return timed(lambda: [self.allow(each, each.share_ids[0]) for each in self._some(count)])

    def request_shares(self, count: int) -> float:
        return timed(lambda: [self.create(each) for each in self._some(count)])

    def request_heals(self, count: int) -> float:
        """Looks at servers, through the reconciler itself, as many rounds as it takes."""
        begun = time.monotonic()
        enqueued = 0
        while enqueued < count:
            made = reconcile(self.store, self.settings, backends=[BACKEND]).get("heal_server", 0)
            if not made:
                break
            enqueued += made
        return time.monotonic() - begun

    def _some(self, count: int) -> list[Server]:
        return self._choose.sample(list(self.servers), min(count, len(self.servers)))

    # ---- looking at operations ----

    def open(self) -> int:
        with self.store.read() as tx:
            wanted = operations.c.state.in_(OperationState.OPEN)
            return int(tx.scalar(select(func.count()).select_from(operations).where(wanted)) or 0)

    def finished_since(self, sequence: int) -> list[Any]:
        with self.store.read() as tx:
            return list(tx.execute(select(operations).where(operations.c.sequence > sequence)).all())

    def last_sequence(self) -> int:
        with self.store.read() as tx:
            return int(tx.scalar(select(func.max(operations.c.sequence))) or 0)

    # ---- workers ----

    @contextmanager
    def workers(self, number: int, guest_seconds: float) -> Iterator[Callable[[], None]]:
        """Worker processes that are ready and wait for the call that lets them begin."""
        command = [
            sys.executable, str(Path(__file__).parent / "scale_process.py"), "worker", "--url", self.url,
            "--key-file", str(self.key_file), "--guest-seconds", str(guest_seconds),
        ]  # fmt: skip
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
        ]

        def begin() -> None:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()

        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            yield begin
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)

    def throughput(self, number: int, guest_seconds: float, count: int, rate: float) -> Figures:
        return {
            "rule change": self.drain(number, self.request_rules, count, guest_seconds),
            "share create": self.drain(number, self.request_shares, count, guest_seconds),
            "look at a server": self.drain(number, self.request_heals, count, guest_seconds),
            "latency": self.latency(
                number, per_second=rate, seconds=self.arguments.seconds, guest_seconds=guest_seconds
            ),
        }

    def drain(self, number: int, request: Callable[[int], float], count: int, guest_seconds: float) -> Figures:
        """Queue ``count`` operations, then let workers work them off. ``request_seconds`` is what asking took."""
        before = self.last_sequence()
        request_seconds = request(count)
        self.analyze()
        with self.scans() as scanned, self.workers(number, guest_seconds) as begin:
            begun = time.monotonic()
            started = utcnow()
            begin()
            while self.open():
                time.sleep(0.1)
            seconds = time.monotonic() - begun
        rows = self.finished_since(before)
        wrong = [row for row in rows if row.state != "succeeded"]
        assert not wrong, wrong[0]
        last = max(row.finished_at for row in rows)
        return {
            "operations": len(rows),
            "requests per second": round(len(rows) / request_seconds, 1),
            "operations per second": round(len(rows) / (last - started).total_seconds(), 1),
            "seconds": round(seconds, 1),
            "SQL statements per operation": round(statistics.mean(row.sql_statements for row in rows), 1),
            "cloud calls per operation": round(statistics.mean(row.cloud_calls for row in rows), 1),
            "guest round trips per operation": round(statistics.mean(row.guest_round_trips for row in rows), 1),
            "sequential scans": scanned,
        }

    def latency(self, number: int, *, per_second: float, seconds: float, guest_seconds: float) -> Figures:
        """Rule changes that arrive at a steady rate: queued → running, and request → done, in milliseconds."""
        before = self.last_sequence()
        with self.workers(number, guest_seconds) as begin:
            begin()
            time.sleep(2)
            begun = time.monotonic()
            for position, server in enumerate(self._some(int(per_second * seconds))):
                time.sleep(max(0.0, begun + position / per_second - time.monotonic()))
                self.allow(server, server.share_ids[-1])
            while self.open():
                time.sleep(0.1)
        rows = self.finished_since(before)
        done = [(row.finished_at - row.created_at).total_seconds() for row in rows]
        claimed = [whole - row.seconds for whole, row in zip(done, rows, strict=True)]
        return {"rate": per_second, "claim": percentiles(claimed), "done": percentiles(done)}

    # ---- what PostgreSQL says ----

    def analyze(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ANALYZE operations")

    @contextmanager
    def scans(self) -> Iterator[dict[str, int]]:
        """Table → sequential scans while the block ran, where there were any on a large table."""
        found: dict[str, int] = {}
        before = self._scans()
        yield found
        for table, count in self._scans().items():
            if count > before[table]:
                found[table] = count - before[table]

    def _scans(self) -> dict[str, int]:
        self.store.hang_up()  # sessions tell all they know when they end
        time.sleep(0.5)
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = connection.execute("SELECT relname, seq_scan FROM pg_stat_user_tables").fetchall()
        return {name: count for name, count in rows if name in LARGE}

    # ---- maintenance ----

    def maintenance(self) -> Figures:
        cloud = self._full_cloud()
        driver = make_driver(self.store, self.key_file, TwinCloud("scale"), 0.0)
        keeper = Maintenance(self.store, self.settings, drivers={BACKEND: driver}, clouds={}, holder="study")
        sweeper = Sweeper(self.store, {BACKEND: cloud})
        return {
            "reconciler round": self._cost(lambda: reconcile(self.store, self.settings, backends=[BACKEND])),
            "reconciler round, just after": self._cost(
                lambda: reconcile(self.store, self.settings, backends=[BACKEND])
            ),
            "sweep": self._cost(sweeper.sweep),
            "purge": self._cost(keeper.purge),
            "report": self._cost(keeper.report),
        }

    def _full_cloud(self) -> Any:
        """The twin with all instances and volumes, and some that have no owner any more."""

        def tags(owner: str) -> dict[str, str]:
            return {TAG_DEPLOYMENT: "scale", TAG_OWNER: owner}

        instances = [
            Instance(id=each.instance_id, name=each.id, running=True, tags=tags(f"share_server:{each.id}"))
            for each in self.servers
        ]
        volumes = [
            Volume(
                id=one, name=one, size=1, serial=one, tags=tags(f"share_instance:{one}"), instance_id=each.instance_id
            )
            for each in self.servers
            for one in each.share_instance_ids
        ]
        lost = [
            Volume(id=one, name=one, size=1, serial=one, tags=tags(f"share_instance:{one}"))
            for one in (derived_id("lost", str(number)) for number in range(100))
        ]
        return TwinCloud("scale", instances=instances, volumes=[*volumes, *lost])

    def _cost(self, action: Callable[[], Any]) -> Figures:
        with self.scans() as scanned:
            before = statements.count
            result: Any = None

            def act() -> None:
                nonlocal result
                result = action()

            seconds = timed(act)
            sent = statements.count - before
        made = result if isinstance(result, dict) else {}
        return {"seconds": round(seconds, 3), "SQL statements": sent, "enqueued": made, "sequential scans": scanned}

    def forget_open(self) -> None:
        """End what a measurement left in the queue."""
        with self.store.begin() as tx:
            tx.execute(
                update(operations)
                .where(operations.c.state == OperationState.QUEUED)
                .values(state=OperationState.SUCCEEDED, finished_at=utcnow())
            )

    # ---- the API ----

    def api(self, samples: int) -> Figures:
        middle = self.servers[len(self.servers) // 2]
        old = self.servers[len(self.servers) // 10].share_ids[0]
        new = {"share": {"share_proto": "NFS", "size": 1, "share_network_id": middle.network_id}}
        rule = {"allow_access": {"access_type": "ip", "access_to": "10.1.2.3", "access_level": "rw"}}
        share = f"/shares/{middle.share_ids[0]}"
        asked: dict[str, tuple[str, str, Any]] = {
            "one share": ("GET", share, None),
            "own shares, detail": ("GET", "/shares/detail", None),
            "all shares, 100 with detail": ("GET", "/shares/detail?all_tenants=1&limit=100", None),
            "all shares, 100 after a marker far behind": (
                "GET", f"/shares/detail?all_tenants=1&limit=100&marker={old}", None,
            ),
            "all shares, 1000": ("GET", "/shares?all_tenants=1&limit=1000", None),
            "all shares of one server": ("GET", f"/shares?all_tenants=1&share_server_id={middle.id}", None),
            "all share servers, 100": ("GET", "/share-servers?limit=100", None),
            "rules of a share": ("GET", f"/share-access-rules?share_id={middle.share_ids[0]}", None),
            "quota with usage": ("GET", f"/quota-sets/{middle.project_id}/detail", None),
            "create a share": ("POST", "/shares", new),
            "allow access": ("POST", f"{share}/action", rule),
        }  # fmt: skip
        figures: Figures = {}
        command = [
            sys.executable, str(Path(__file__).parent / "scale_process.py"), "api", "--url", self.url,
            "--project", middle.project_id,
        ]  # fmt: skip
        for name, (method, path, body) in asked.items():
            with self.scans() as scanned:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                try:
                    assert process.stdout is not None
                    connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=60)
                    times = [self._ask(connection, method, path, body, number) for number in range(samples + 10)][10:]
                finally:
                    process.terminate()
                    process.wait(30)
            figures[name] = {**percentiles(times), "sequential scans": scanned}
        return figures

    @staticmethod
    def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any, number: int) -> float:
        if body is not None and "allow_access" in body:
            body = {"allow_access": {**body["allow_access"], "access_to": f"10.2.{number >> 8}.{number & 255}"}}
        headers = {"X-OpenStack-Manila-API-Version": "2.51", "Content-Type": "application/json"}
        begun = time.monotonic()
        connection.request(method, f"/v2{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, (method, path, answer.status, text[:300])
        return time.monotonic() - begun


def timed(action: Callable[[], Any]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def percentiles(seconds: Sequence[float]) -> Figures:
    """Milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50": round(1000 * ordered[len(ordered) // 2], 1),
        "p99": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
    }


def simulated_rate(processes: int, seconds: float) -> float:
    """Calls per second that the simulated cloud's file bears, for comparison with the twin's."""
    code = (
        "import sys, time; from pathlib import Path; from sharewright.clouds.simulated.state import SimulatedState\n"
        "state, end, count = SimulatedState(Path(sys.argv[1])), time.monotonic() + float(sys.argv[2]), 0\n"
        "while time.monotonic() < end:\n"
        "    with state.call('x'), state.transaction() as tx: tx.execute('DELETE FROM violations')\n"
        "    count += 1\n"
        "print(count)"
    )
    with tempfile.TemporaryDirectory(prefix="sharewright-scale-") as directory:
        file = Path(directory) / "cloud.db"
        SimulatedState(file).close()
        running = [
            subprocess.Popen([sys.executable, "-c", code, file, str(seconds)], stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        return round(sum(int(process.communicate()[0]) for process in running) / seconds, 0)


# ---- the whole -------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> Figures:
    figures: Figures = {
        "servers": arguments.servers,
        "shares": arguments.shares,
        "processors": os.cpu_count(),
        "load average": round(os.getloadavg()[0], 1),
    }
    with (
        tempfile.TemporaryDirectory(prefix="sharewright-scale-") as directory,
        running_postgres({**POSTGRES, **DURABLE}) as cluster,
    ):
        url = cluster.create_database(migrated=False)
        key_file = Path(directory) / "master.key"
        store = Store(url)
        migrate(store)
        ensure_defaults(store, make_settings())
        store.close()
        servers = plan(arguments.servers, arguments.shares)
        tell(f"Loading {arguments.servers} servers and {arguments.shares} shares")
        figures["loading seconds"] = round(
            timed(lambda: load(url, servers, derived_id("share_type", "default"), SecretBox(key_file))), 1
        )
        study = Study(url, key_file, servers, arguments)
        figures["simulated cloud, calls per second"] = {str(n): simulated_rate(n, 2.0) for n in WORKERS}
        if "maintenance" in arguments.parts:
            tell("Maintenance")
            figures["maintenance"] = study.maintenance()
            study.forget_open()
        if "api" in arguments.parts:
            tell("API")
            figures["api"] = study.api(arguments.samples)
            study.forget_open()
        if "workers" in arguments.parts:
            for guest_seconds, part in ((0.0, 1), (arguments.guest_seconds, SLOWER)):
                for number in WORKERS:
                    tell(f"{number} workers, guests answer in {guest_seconds:g} s")
                    figures[f"{number} workers, {guest_seconds:g} s"] = study.throughput(
                        number, guest_seconds, arguments.operations // part, arguments.rate / part
                    )
        study.store.close()
    return figures


def tell(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=10_000)
    parser.add_argument("--shares", type=int, default=100_000)
    parser.add_argument("--operations", type=int, default=1000, help="in each measurement of throughput")
    parser.add_argument("--guest-seconds", type=float, default=1.0, help="of a guest call, in the second half")
    parser.add_argument("--rate", type=float, default=20.0, help="rule changes per second when latency is measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which they arrive")
    parser.add_argument("--samples", type=int, default=100, help="requests of each kind to the API")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything, for a try")
    parser.add_argument("--output", type=Path, help="all figures, as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.servers, arguments.shares = arguments.servers // 100, arguments.shares // 100
        arguments.operations, arguments.samples, arguments.seconds = 50, 10, 3.0
    figures = run(arguments)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
    show(figures, WORKERS, arguments.guest_seconds)


if __name__ == "__main__":
    main()
