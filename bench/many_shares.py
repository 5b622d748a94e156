"""What share number 1, 25 and 100 on one share server costs, on real virtual machines: it should be the same.

    sudo .venv/bin/python bench/many_shares.py [--shares 100] [--at-once 6]

Each share that is measured is made alone, and gets one rule; those in between are made several at a time. Prints a
Markdown table. A time is: API request sent → state seen. "Guest" is the step with the one guest round trip.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from spine import IMAGE, Bench, installed

from sharewright.clouds.open import open_cloud
from sharewright.image.build import build_image
from sharewright.settings import load
from sharewright.store.tables import share_servers

UNLIMITED = "[quotas]\nshares = -1\ngigabytes = -1\n"
MEASURED = (2, 25, 50, 100, 200, 300)  # the first one makes the server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=6)
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
        shares = [bench.create(network)[0]]
        print("| share | seconds | guest | one rule, guest | cloud calls | round trips | SQL | load |")
        print("|---|---|---|---|---|---|---|---|")
        between = 0.0
        for number in [each for each in MEASURED if each <= arguments.shares]:
            begun = time.monotonic()
            fillers = pool.map(lambda _: bench.create(network)[0], range(number - 1 - len(shares)))
            shares += fillers
            between += time.monotonic() - begun
            share, seconds = bench.create(network)
            shares.append(share)
            made = bench.operation("create_share", share)
            bench.allow(share, "10.79.0.9")
            ruled = bench.operation("update_access", share)
            print(
                f"| {number} | {seconds:.2f} | {made['steps']['guest']:.2f} | {ruled['steps']['guest']:.2f} |"
                f" {made['cloud_calls']} | {made['guest_round_trips']} | {made['sql_statements']} |"
                f" {os.getloadavg()[0]:.1f} |",
                flush=True,
            )
        with bench.store.read() as tx:
            servers = len(tx.execute(share_servers.select()).all())
        print(f"\n{len(shares)} shares on {servers} server; those in between took {between:.0f} s")
        begun = time.monotonic()
        list(pool.map(bench.delete, shares))
        print(f"all deleted in {time.monotonic() - begun:.0f} s")
        cloud.close()


if __name__ == "__main__":
    main()
