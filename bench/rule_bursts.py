"""Access rules that come as a burst: one, a hundred, a thousand, from ten senders, with the simulated cloud.

    .venv/bin/python bench/rule_bursts.py [--runs 3]

Its guests answer at once, so what is measured is the API, the waiting for the end of a burst and the operation;
spine.py does the same on virtual machines. Prints a Markdown table of medians. No root, no virtual machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from ipaddress import ip_network
from typing import Any

from spine import Bench, installed, show

from sharewright.clouds.open import open_cloud
from sharewright.clouds.simulated.cloud import SimulatedCloud
from sharewright.configuration_file import load


def measure(bench: Bench, runs: int) -> dict[str, list[dict[str, Any]]]:
    """Two shares for each run."""
    results: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("one rule", "100 rules at once", "900 more", "1,000 rules at once")
    }
    settings = load(bench.deployment.config)
    cloud = open_cloud(settings, settings.backends["bench"])
    assert isinstance(cloud, SimulatedCloud)
    made = cloud.networks.create_network("bench", ip_network("10.79.0.0/24"))
    network = bench.api.create_share_network(neutron_net_id=made.id, neutron_subnet_id=made.subnets[0].id).id
    for run in range(runs):
        share, _ = bench.create(network)
        seconds = bench.allow(share, "10.79.0.9")
        results["one rule"].append({"total": seconds, **bench.operation("update_access", share)})
        results["100 rules at once"].append(bench.allow_many(share, 100, first=0))
        results["900 more"].append(bench.allow_many(share, 900, first=100))
        share, _ = bench.create(network)
        results["1,000 rules at once"].append(bench.allow_many(share, 1000, first=0))
        print(f"run {run + 1} of {runs} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    cloud.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with installed(backend='cloud = "simulated"') as deployment:
        show(measure(Bench(deployment), arguments.runs))


if __name__ == "__main__":
    main()
