"""The spine's times on real virtual machines: first share, next share, one rule and many, delete; and what each costs.

    sudo .venv/bin/python bench/spine.py [--runs 3] [--output FILE.json]

Prints Markdown tables of medians. A time is: API request sent → state seen (polled every 50 ms). Parts come from the
operation journal. Compare the ratios and the counts; seconds depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from sqlalchemy import select

from deployment import Deployment
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.image.build import build_image
from sharewright.store.database import Store
from sharewright.store.tables import operation_steps, operations

IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_IMAGE", "/var/lib/sharewright/images/service"))
CLOUD_STEPS = ("volume", "attach")  # of a next share: what the cloud itself takes
COUNTS = ("seconds", "cloud_calls", "guest_round_trips", "sql_statements")
SENDERS = 10


@contextmanager
def installed(more: str = "", *, backend: str = f'image = "{IMAGE}"') -> Iterator[Deployment]:
    """A deployment of its own; ``more``: of its configuration; ``backend``: what its only backend is."""
    directory = Path("/var/tmp") / f"sharewright-bench-{os.getpid()}"
    directory.mkdir(mode=0o711)
    configuration = (
        f"[worker]\nreconcile_seconds = 600\nunused_server_seconds = 36000\n{more}[backends.bench]\n{backend}\n"
    )
    users = {"admin": ("admin", "admin member reader"), "tenant": ("tenant", "member reader")}
    deployment = Deployment(directory, configuration, name="swbench", users=users)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.purge()
        shutil.rmtree(directory)


class Bench:
    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.api = deployment.sdk("tenant").shared_file_system
        self.store = Store(deployment.database_url)

    def until(self, reached: Callable[[], bool], *, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.05)

    def create(self, network: str) -> tuple[str, float]:
        begun = time.monotonic()
        share = self.api.create_share(share_protocol="NFS", size=1, share_network_id=network)

        def available() -> bool:
            status = self.api.get_share(share.id).status
            assert status != "error", [message.user_message for message in self.api.user_messages()]
            return bool(status == "available")

        self.until(available)
        return str(share.id), time.monotonic() - begun

    def allow(self, share: str, address: str) -> float:
        begun = time.monotonic()
        rule = self.api.create_access_rule(share, access_type="ip", access_to=address, access_level="rw")
        self.until(lambda: bool(self.api.get_access_rule(rule.id).state == "active"))
        return time.monotonic() - begun

    def allow_many(self, share: str, count: int, *, first: int) -> dict[str, Any]:
        """So many rules at once, from SENDERS senders: the 10.88.0.0/16 addresses from number ``first`` on."""

        def send(number: int) -> str:
            address = f"10.88.{number // 250}.{number % 250 + 1}"
            rule = self.api.create_access_rule(share, access_type="ip", access_to=address, access_level="rw")
            return str(rule.id)

        before = {row.id for row in self.updates(share)}
        begun = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            made = set(senders.map(send, range(first, first + count)))
        accepted = time.monotonic() - begun

        def active() -> bool:
            rules = self.api.access_rules(self.api.get_share(share))
            return made <= {rule.id for rule in rules if rule.state == "active"}

        self.until(active)
        total = time.monotonic() - begun
        rows = [row for row in self.updates(share) if row.id not in before]
        # One that began after another had taken its rules along has no step.
        last = self.operation("update_access", share)["steps"].get("guest", 0.0)
        return {
            "total": total,
            "accepted": accepted,
            **{key: sum(getattr(row, key) for row in rows) for key in COUNTS},
            "steps": {"accepted by the API": accepted, "last guest call": last},
        }

    def updates(self, share: str) -> list[Any]:
        query = select(operations).where(operations.c.kind == "update_access", operations.c.resource_id == share)
        with self.store.read() as tx:
            return list(tx.execute(query).all())

    def delete(self, share: str) -> float:
        begun = time.monotonic()
        self.api.delete_share(share)
        self.until(lambda: self.api.find_share(share, ignore_missing=True) is None)
        return time.monotonic() - begun

    def operation(self, kind: str, resource_id: str | None = None) -> dict[str, Any]:
        """The newest operation of that kind, with the seconds of its steps."""
        query = select(operations).where(operations.c.kind == kind).order_by(operations.c.sequence.desc()).limit(1)
        if resource_id:
            query = query.where(operations.c.resource_id == resource_id)
        with self.store.read() as tx:
            row = tx.execute(query).one()
            steps = tx.execute(
                select(operation_steps.c.name, operation_steps.c.seconds).where(
                    operation_steps.c.operation_id == row.id
                )
            ).all()
        return {
            "cloud_calls": row.cloud_calls,
            "guest_round_trips": row.guest_round_trips,
            "sql_statements": row.sql_statements,
            "seconds": row.seconds,
            "steps": {name: seconds for name, seconds in steps if seconds is not None},
        }


def measure(bench: Bench, runs: int) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in ("first share", "its server", "next share", "one rule", "100 rules at once", "900 more", "delete")
    }
    settings = load(bench.deployment.config)
    cloud = open_cloud(settings, settings.backends["bench"])
    for run in range(runs):
        network_id = bench.deployment.command(
            "network", "create", f"bench{run}", f"10.79.{run}.0/24", "--id-only"
        ).strip()
        subnet = cloud.networks.find_subnet(network_id, None)
        assert subnet is not None
        network = bench.api.create_share_network(neutron_net_id=network_id, neutron_subnet_id=subnet.id).id
        first, seconds = bench.create(network)
        results["first share"].append({"total": seconds, **bench.operation("create_share", first)})
        results["its server"].append(bench.operation("create_share_server"))
        share, seconds = bench.create(network)
        results["next share"].append({"total": seconds, **bench.operation("create_share", share)})
        seconds = bench.allow(share, f"10.79.{run}.9")
        results["one rule"].append({"total": seconds, **bench.operation("update_access", share)})
        results["100 rules at once"].append(bench.allow_many(share, 100, first=0))
        results["900 more"].append(bench.allow_many(share, 900, first=100))
        seconds = bench.delete(share)
        results["delete"].append({"total": seconds, **bench.operation("delete_share", share)})
        print(f"run {run + 1} of {runs} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    cloud.close()
    return results


def median(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    print("| operation | seconds | work | cloud calls | guest round trips | SQL statements | steps (s) |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in results.items():
        names = list(dict.fromkeys(step for row in rows for step in row["steps"]))
        steps = ", ".join(
            f"{step} {statistics.median([row['steps'].get(step, 0.0) for row in rows]):.2f}" for step in names
        )
        cells = [
            median(rows, key) for key in ("total", "seconds", "cloud_calls", "guest_round_trips", "sql_statements")
        ]
        print(f"| {name} | " + " | ".join("" if cell is None else f"{cell:.4g}" for cell in cells) + f" | {steps} |")
    ratios = []
    for row in results.get("next share", []):
        cloud = sum(row["steps"].get(step, 0.0) for step in CLOUD_STEPS)
        ratios.append(row["total"] / (cloud + row["steps"].get("guest", 0.0)))
    if ratios:
        print(
            f"\nnext share ÷ (its cloud calls + one guest round trip): {statistics.median(ratios):.2f} (target ≤ 1.5)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    with installed() as deployment:
        results = measure(Bench(deployment), arguments.runs)
    show(results)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
