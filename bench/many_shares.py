"""What share number 1, 25 and 100 on one share server costs, on real virtual machines: it should be the same.

    sudo .venv/bin/python bench/many_shares.py [--shares 100] [--at-once 10] [--runs 3]

There are two servers. Each share that is measured is made alone, and gets one rule, when both VMs are at rest: number n
on one server, right after a first share on the other, which is what it is compared with; both are deleted again, all
this ``--runs`` times. Shares in between are asked for at once. Prints Markdown tables of medians. A time is: API call
sent → state seen. "Guest" is the step with the one guest round trip.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

from spine import IMAGE, Bench, installed

from deployment import Deployment
from domains import domain
from scrapes import Scrape, scrape
from sharewright.clouds.contract import Cloud
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.image.build import build_image
from sharewright.store.tables import share_servers

UNLIMITED = "[quotas]\nshares = -1\ngigabytes = -1\n"
MEASURED = (1, 25, 50, 100, 200, 300)
SETTLE_SECONDS, SETTLE_LOOKS, QUIET = 2.0, 60, 0.1  # a tenth of a processor
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


class Server:
    """A share server of its own, made and without a share."""

    def __init__(self, bench: Bench, cloud: Cloud, name: str, cidr: str) -> None:
        self.bench = bench
        network_id = bench.deployment.command("network", "create", name, cidr, "--id-only").strip()
        subnet = cloud.networks.find_subnet(network_id, None)
        assert subnet is not None
        self.network = bench.api.create_share_network(neutron_net_id=network_id, neutron_subnet_id=subnet.id).id
        self.client = str(ip_network(cidr)[9])
        before = self._all()
        bench.delete(bench.create(self.network)[0])
        (self.id,) = self._all() - before
        self.phases = Phases(bench.deployment, self.id)

    def _all(self) -> set[str]:
        with self.bench.store.read() as tx:
            return {row.id for row in tx.execute(share_servers.select())}

    def settle(self) -> None:
        """Wait until the VM does next to nothing: after many new shares its kernel goes on writing their inode tables
        (ext4's lazy initialisation), which is not what one more share costs."""
        with domain(self.id) as vm:
            for _ in range(SETTLE_LOOKS):
                before = vm.getCPUStats(True)[0]["cpu_time"]
                time.sleep(SETTLE_SECONDS)
                if vm.getCPUStats(True)[0]["cpu_time"] - before < QUIET * SETTLE_SECONDS * 1e9:
                    return
        print(f"the VM of {self.id} does not come to rest", file=sys.stderr)

    def measure(self) -> tuple[str, dict[str, Any]]:
        """One more share with one rule: its id, and what it cost."""
        self.phases.since()
        share, seconds = self.bench.create(self.network)
        inside = words(self.phases.since(), 1)
        made = self.bench.operation("create_share", share)
        return share, {**made, "total": seconds, "inside": inside, "rule": self.bench.allow(share, self.client)}


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
        small = Server(bench, cloud, "small", "10.79.0.0/24")
        large = Server(bench, cloud, "large", "10.80.0.0/24")
        shares: list[str] = []
        bursts = []
        print("| share | seconds | ÷ first | guest | ÷ first | rule | ÷ first |", end="")
        print(" cloud calls | round trips | SQL | load | in the guest, s |\n" + "|---" * 12 + "|")
        for number in [each for each in MEASURED if each <= arguments.shares]:
            fillers = number - 1 - len(shares)
            if fillers > 0:
                large.phases.since()
                begun = time.monotonic()
                shares += [share for share, _ in pool.map(lambda _: bench.create(large.network), range(fillers))]
                seconds = time.monotonic() - begun
                told = words(large.phases.since(), fillers)
                bursts.append((fillers, len(shares), seconds, told, os.getloadavg()[0]))
            rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
            for _ in range(arguments.runs):
                measured = []
                for server in (small, large):
                    server.settle()
                    share, row = server.measure()
                    bench.delete(share)
                    measured.append(row)
                rows.append((measured[0], measured[1]))
            last = rows[-1][1]
            counts = [f"{last[key]}" for key in ("cloud_calls", "guest_round_trips", "sql_statements")]
            compared = [text for key in ("total", "guest", "rule") for text in compare(key, rows)]
            cells = [str(number), *compared, *counts, f"{os.getloadavg()[0]:.1f}", last["inside"]]
            print(f"| {' | '.join(cells)} |", flush=True)
        print(f"\n{len(shares)} shares stay on the server\n")
        print(
            "| at once | then there | seconds | per share | load | in the guest, per share |\n|---|---|---|---|---|---|"
        )
        for fillers, there, seconds, told, busy in bursts:
            print(f"| {fillers} | {there} | {seconds:.1f} | {seconds / fillers:.2f} | {busy:.1f} | {told} |")
        if shares:
            begun = time.monotonic()
            large.phases.since()
            list(pool.map(bench.delete, shares))
            seconds = time.monotonic() - begun
            told = words(large.phases.since(), len(shares))
            each = seconds / len(shares)
            print(f"| deleted: {len(shares)} | 0 | {seconds:.1f} | {each:.2f} | {os.getloadavg()[0]:.1f} | {told} |")
        cloud.close()


def compare(key: str, rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[str, str]:
    """Median seconds of share n, and the median of its ratios to a first share made right before."""

    def of(row: dict[str, Any]) -> float:
        return float(row["steps"]["guest"] if key == "guest" else row[key])

    ratios = [of(large) / of(small) for small, large in rows]
    return f"{statistics.median(of(large) for _, large in rows):.2f}", f"{statistics.median(ratios):.2f}"


if __name__ == "__main__":
    main()
