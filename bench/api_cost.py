"""What a request costs in the application: processor time, without a server, for this checkout and another in turn.

    .venv/bin/python bench/api_cost.py [--against OTHER_CHECKOUT] [--rounds 5] [--seconds 2]

SQLite with 1,000 shares, so the database's work is in it. Processor time and taking turns make the ratio one that other
work on the machine changes little; what it would be in requests per second, api.py measures on a machine at rest.
Also: one claim of an operation from a queue of forty, and its end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from api_rows import PROJECT, fill
from falcon.testing import create_environ

from sharewright.api.app import create_app
from sharewright.configuration_file import parse
from sharewright.context import RequestContext
from sharewright.operations import leases
from sharewright.operations.queue import enqueue
from sharewright.services.bootstrap import ensure_defaults
from sharewright.store.database import Store
from sharewright.store.migrations import migrate
from sharewright.store.tables import share_export_locations, share_instances, shares

LISTED = 1000
QUEUED = 40
HEADERS = {"X-OpenStack-Manila-API-Version": "2.70", "Host": "127.0.0.1"}


def measure(seconds: float) -> dict[str, float]:
    """Milliseconds of processor time, each."""
    with tempfile.TemporaryDirectory() as directory, closing(Store(f"sqlite:///{directory}/store.db")) as store:
        migrate(store)
        backends = {"bench": {"cloud": "simulated"}}
        settings = parse({"state_dir": directory, "identity": {"project": PROJECT}, "backends": backends})
        ensure_defaults(store, settings)
        app = create_app(store, settings)

        def ask(method: str, path: str, body: Any = None, query: str = "") -> bytes:
            content = "" if body is None else json.dumps(body)
            headers = HEADERS if body is None else {**HEADERS, "Content-Type": "application/json"}
            environ = create_environ(path=path, query_string=query, method=method, headers=headers, body=content)
            answered: list[str] = []
            answer = b"".join(app(environ, lambda status, *_: answered.append(status)))  # type: ignore[arg-type]
            assert answered[0].startswith("2"), (answered, answer)
            return answer

        network = {"neutron_net_id": "b" * 32, "neutron_subnet_id": "c" * 32}
        made = json.loads(ask("POST", "/v2/share-networks", {"share_network": network}))["share_network"]["id"]
        wanted = {"share": {"share_proto": "NFS", "size": 1, "share_network_id": made}}
        share = json.loads(ask("POST", "/v2/shares", wanted))["share"]["id"]
        _serve(store, share)
        fill(store.url, share, LISTED - 1)
        figures = {
            "list of 1,000, detail": _each(lambda: ask("GET", "/v2/shares/detail"), seconds),
            "page of 50, detail": _each(lambda: ask("GET", "/v2/shares/detail", query="limit=50"), seconds),
            "page of 50 with count": _each(lambda: ask("GET", "/v2/shares", query="limit=50&with_count=1"), seconds),
            "one share": _each(lambda: ask("GET", f"/v2/shares/{share}"), seconds),
        }
    with tempfile.TemporaryDirectory() as directory, closing(Store(f"sqlite:///{directory}/store.db")) as store:
        migrate(store)
        context = RequestContext(project_id=PROJECT, user_id="bench", roles=("member",))
        with store.begin() as tx:
            for number in range(QUEUED):
                enqueue(
                    tx, "bench", resource_type="share", resource_id=str(number), context=context, seconds=600
                )  # fmt: skip
        begun = time.process_time()
        while claimed := leases.claim(store, "bench", lease_seconds=600, kinds=["bench", "other"]):
            with store.begin() as tx:
                leases.fenced(tx, claimed.operation)
                leases.finish(tx, claimed.operation, leases.Usage())
        figures["claim and end of an operation"] = 1000 * (time.process_time() - begun) / QUEUED
    return figures


def _serve(store: Store, share_id: str) -> None:
    """As its operation would leave it: fill() copies it."""
    with store.begin() as tx:
        tx.execute(shares.update().values(status="available"))
        tx.execute(share_instances.update().values(status="available"))
        instance = tx.execute(share_instances.select().where(share_instances.c.share_id == share_id)).mappings().one()
        tx.execute(
            share_export_locations.insert().values(
                id=share_id,
                share_instance_id=instance["id"],
                path="192.0.2.1:/share",
                created_at=instance["created_at"],
            )
        )


def _each(act: Callable[[], object], seconds: float) -> float:
    for _ in range(3):
        act()
    number, begun = 0, time.process_time()
    while time.process_time() < begun + seconds:
        act()
        number += 1
    return 1000 * (time.process_time() - begun) / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of processor time for each figure")
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.seconds)))
        return
    sources = [Path(__file__).parents[1], *([arguments.against] if arguments.against else [])]
    rounds: list[list[dict[str, float]]] = [[] for _ in sources]
    for _ in range(arguments.rounds):
        for source, found in zip(sources, rounds, strict=True):
            command = [sys.executable, __file__, "--once", "--seconds", str(arguments.seconds)]
            environment = {**os.environ, "PYTHONPATH": str(source / "src")}
            answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(answer.stdout.splitlines()[-1]))
    print(f"Load average {os.getloadavg()[0]:.1f}. Medians of {arguments.rounds} rounds, ms of processor time each:\n")
    print("| | this checkout | the other | ratio |\n|---|---|---|---|")
    for name in rounds[0][0]:
        medians = [statistics.median(figures[name] for figures in found) for found in rounds]
        ratios = [
            statistics.median(other[name] / own[name] for own, other in zip(rounds[0], found, strict=True))
            for found in rounds[1:]
        ]
        shown = [*(f"{each:.2f}" for each in medians), *(f"{each:.2f}" for each in ratios)]
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
