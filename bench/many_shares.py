"""What share number 1, 25 and 100 on one share server costs, on real virtual machines: it should be the same.

    sudo .venv/bin/python bench/many_shares.py [--shares 100] [--at-once 10] [--runs 3]

The server is there already, without a share. Each share that is measured is made alone, and gets one rule; those in
between are asked for at once. Every number is measured ``--runs`` times: the last share is deleted and made again.
Prints Markdown tables. A time is: API request sent → state seen. "Guest" is the step with the one guest round trip.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spine import IMAGE, Bench, installed

from deployment import Deployment
from domains import domain
from scrapes import Scrape, scrape
from sharewright.clouds.open import open_cloud
from sharewright.image.build import build_image
from sharewright.settings import load
from sharewright.store.tables import share_servers

UNLIMITED = "[quotas]\nshares = -1\ngigabytes = -1\n"
MEASURED = (1, 25, 50, 100, 200, 300)
PHASES = "sharewright_guest_phase_seconds_total"
CALLS = "sharewright_guest_call_duration_seconds_count"


class Phases:
    """Where the time inside of the guest went since the last look, and processor time of its whole VM, emulation
    included ("processor"), and calls into it ("calls")."""

    def __init__(self, deployment: Deployment, server_id: str) -> None:
        self._url = f"http://127.0.0.1:{deployment.metrics_ports['serve']}/metrics"
        self._server_id = server_id
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found: Scrape = scrape(self._url)
        with domain(self._server_id) as vm:
            processor = vm.getCPUStats(True)[0]["cpu_time"] / 1e9
        return {
            **{each.labels["phase"]: each.value for each in found.series(PHASES)},
            "calls": found.sum(CALLS, call="apply"),
            "processor": processor,
        }

    def since(self) -> dict[str, float]:
        before, self._before = self._before, self._read()
        return {name: value - before.get(name, 0.0) for name, value in self._before.items()}


def words(phases: dict[str, float], shares: int) -> str:
    """Seconds per share, the longest first."""
    largest = sorted(phases.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds / shares:.3f}" for name, seconds in largest if seconds / shares >= 0.0005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    with installed(UNLIMITED) as deployment, ThreadPoolExecutor(arguments.at_once) as pool:
        bench = Bench(deployment)
        settings = load(deployment.config)
        cloud = open_cloud(settings, settings.backends["bench"])
        network_id = deployment.command("network", "create", "bench", "10.79.0.0/24", "--id-only").strip()
        subnet = cloud.networks.find_subnet(network_id, None)
        assert subnet is not None
        network = bench.api.create_share_network(neutron_net_id=network_id, neutron_subnet_id=subnet.id).id
        bench.delete(bench.create(network)[0])  # makes the server
        with bench.store.read() as tx:
            server_id = tx.execute(share_servers.select()).one().id
        phases = Phases(deployment, server_id)
        shares: list[str] = []
        bursts = []
        print("| share | seconds | guest | one rule | cloud calls | round trips | SQL | load | in the guest, s |")
        print("|---|---|---|---|---|---|---|---|---|")
        medians: dict[int, float] = {}
        for number in [each for each in MEASURED if each <= arguments.shares]:
            fillers = number - 1 - len(shares)
            if fillers > 0:
                begun = time.monotonic()
                shares += [share for share, _ in pool.map(lambda _: bench.create(network), range(fillers))]
                seconds = time.monotonic() - begun
                bursts.append((fillers, len(shares), seconds, words(phases.since(), fillers), os.getloadavg()[0]))
            rows: list[dict[str, Any]] = []
            inside: list[str] = []
            for run in range(arguments.runs):
                if run:
                    bench.delete(shares.pop())
                phases.since()
                share, seconds = bench.create(network)
                inside.append(words(phases.since(), 1))
                shares.append(share)
                made = bench.operation("create_share", share)
                rows.append({**made, "total": seconds, "rule": bench.allow(share, "10.79.0.9")})
            medians[number] = statistics.median(row["total"] for row in rows)
            guest = statistics.median(row["steps"]["guest"] for row in rows)
            rule = statistics.median(row["rule"] for row in rows)
            last = rows[-1]
            print(
                f"| {number} | {medians[number]:.2f} | {guest:.2f} | {rule:.2f} | {last['cloud_calls']} |"
                f" {last['guest_round_trips']} | {last['sql_statements']} | {os.getloadavg()[0]:.1f} | {inside[-1]} |",
                flush=True,
            )
        first = medians[1]
        print("\n" + ", ".join(f"n = {number}: {value / first:.2f}" for number, value in medians.items()) + " of n = 1")
        with bench.store.read() as tx:
            servers = len(tx.execute(share_servers.select()).all())
        print(f"{len(shares)} shares on {servers} server\n")
        print(
            "| at once | then there | seconds | per share | load | in the guest, per share |\n|---|---|---|---|---|---|"
        )
        for fillers, there, seconds, told, busy in bursts:
            print(f"| {fillers} | {there} | {seconds:.1f} | {seconds / fillers:.2f} | {busy:.1f} | {told} |")
        begun = time.monotonic()
        phases.since()
        list(pool.map(bench.delete, shares))
        seconds = time.monotonic() - begun
        print(
            f"| deleted: {len(shares)} | 0 | {seconds:.1f} | {seconds / len(shares):.2f} | {os.getloadavg()[0]:.1f} |"
            f" {words(phases.since(), len(shares))} |"
        )
        cloud.close()


if __name__ == "__main__":
    main()
