"""What metrics cost: a scrape of the deployment with many shares, and one count.

Usage: python bench/metrics.py [--shares 1000,10000] [--directory /var/tmp]. No root; on SQLite.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import timeit
import tracemalloc
from contextlib import closing
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from sharewright.identifiers import new_id, utcnow
from sharewright.instruments import (
    cloud_call_duration,
    cloud_call_errors,
    database_statements,
    http_request_duration,
    http_requests,
    measured,
)
from sharewright.metrics.deployment import DeploymentCollector
from sharewright.store.database import Store
from sharewright.store.migrations import migrate
from sharewright.store.statements import statements
from sharewright.store.tables import share_instances, share_servers, share_types, shares

SHARES_PER_SERVER = 10
USAGE = {
    "nfs_clients": 3, "nfs_calls": 12345, "nfs_bytes_read": 10**9, "nfs_bytes_written": 10**9, "smb_sessions": None,
    "nfs_operations": {f"operation-{number}": 10**6 for number in range(15)},
}  # fmt: skip


def fill(store: Store, number: int) -> None:
    now = utcnow()
    common = {"created_at": now, "status": "available"}
    type_id = new_id()
    servers = [new_id() for _ in range(max(1, number // SHARES_PER_SERVER))]
    ids = [(new_id(), servers[position % len(servers)]) for position in range(number)]
    with store.begin() as tx:
        tx.execute(share_types.insert().values(id=type_id, name="default", created_at=now))
        tx.execute(
            share_servers.insert(),
            [
                {
                    "id": server, "project_id": new_id(), "backend": "standard", "host": "node@standard",
                    "status": "active", "healthy": True, "last_seen": now, "usage": USAGE, "usage_at": now,
                    "created_at": now,
                }
                for server in servers
            ],
        )  # fmt: skip
        tx.execute(
            shares.insert(),
            [
                {
                    **common, "id": share, "project_id": new_id(), "user_id": "u", "size": 10, "protocol": "NFS",
                    "share_type_id": type_id,
                }
                for share, _ in ids
            ],
        )  # fmt: skip
        tx.execute(
            share_instances.insert(),
            [
                {
                    **common, "id": new_id(), "share_id": share, "share_server_id": server, "backend": "standard",
                    "size": 10, "bytes_total": 10**10, "bytes_used": 10**9, "inodes_total": 10**6,
                    "inodes_used": 10**4, "bytes_read": 10**9, "bytes_written": 10**9,
                }
                for share, server in ids
            ],
        )  # fmt: skip


def scrapes(directory: Path, number: int) -> None:
    with closing(Store(f"sqlite:///{directory / f'{number}.db'}")) as store:
        migrate(store)
        fill(store, number)
        for detailed in (True, False):
            registry = CollectorRegistry()
            registry.register(DeploymentCollector(store, most_detailed_shares=number if detailed else 0))
            generate_latest(registry)
            before, started = statements.count, time.perf_counter()
            text = generate_latest(registry)
            seconds, sent = time.perf_counter() - started, statements.count - before
            series = sum(not line.startswith(b"#") for line in text.splitlines())
            size = len(text) / 2**20
            del text
            tracemalloc.start()
            generate_latest(registry)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            print(
                f"{number:>7} shares, series per share {detailed!s:5}: {seconds:6.2f} s, {sent} statements, "
                f"{series} series, {size:.1f} MiB of text, {peak:.0f} MiB of memory at most"
            )


def counts() -> None:
    def request() -> None:
        http_requests.labels("GET", "/v2/shares", 200).inc()
        http_request_duration.labels("GET", "/v2/shares").observe(0.01)

    def call() -> None:
        with measured(cloud_call_duration, cloud_call_errors, "simulated", "volumes", "bench"):
            pass

    times = 100_000
    for what, action in (("an SQL statement", database_statements.inc), ("a request", request), ("a cloud call", call)):
        seconds = min(timeit.repeat(action, number=times, repeat=3)) / times
        print(f"to count {what}: {seconds * 1e6:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", default="1000,10000")
    parser.add_argument("--directory", default=None)
    arguments = parser.parse_args()
    counts()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for number in arguments.shares.split(","):
            scrapes(Path(directory), int(number))


if __name__ == "__main__":
    main()
