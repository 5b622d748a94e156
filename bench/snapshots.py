"""Taking snapshots of a share under a client that writes ten times a second: how long the share stands still.

    sudo .venv/bin/python bench/snapshots.py [--snapshots 5] [--output FILE.json]

A share on ext4 and one on xfs, each on its own server, as in resize.py. "Frozen" is the time between freezing and
thawing its file system as the guest measures it; the gap is the longest between two writes of the client, and 0.10 s
when nothing hinders. Seconds depend on the machine and on what else it does; the client's errors must be none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resize import FILESYSTEMS, IMAGE, installed

from deployment import Deployment
from sharewright.image.build import build_image
from steady_writer import writing
from stories_on_clouds.snapshots import delete, story, taken
from tenants import Shares


def measure(deployment: Deployment, shares: Shares, filesystem: str, number: int) -> Iterator[dict[str, Any]]:
    client = shares.tenant.client
    share = shares.create(f"bench-{filesystem}", share_type=filesystem)
    shares.wait(share)
    shares.allow(share, client.address)
    client.mount(shares.export(share), "/mnt/bench")
    for _ in range(number):
        with writing(client, "/mnt/bench") as outcome:
            time.sleep(1)  # some undisturbed writes before and after
            begun = time.monotonic()
            snapshot = taken(shares, share, "bench")
            seconds = time.monotonic() - begun
            time.sleep(1)
        (written,) = outcome
        told = story(deployment, snapshot)
        yield {
            "filesystem": filesystem, "frozen": told.facts["frozen_seconds"], "gap": written.gap, "seconds": seconds,
            "errors": written.errors, "same": written.same, "round_trips": told.guest_round_trips,
            "cloud_calls": told.cloud_calls, "load": os.getloadavg()[0],
        }  # fmt: skip
        delete(shares, snapshot)
    client.unmount("/mnt/bench")
    shares.delete(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    with installed() as (deployment, shares):
        rows = [row for each in FILESYSTEMS for row in measure(deployment, shares, each, arguments.snapshots)]
    print(
        "| file system | frozen, s | longest gap, s | asked → available, s | errors | load |\n|---|---|---|---|---|---|"
    )
    for filesystem in FILESYSTEMS:
        found = [row for row in rows if row["filesystem"] == filesystem]
        cells = [", ".join(f"{row[key]:.2f}" for row in found) for key in ("frozen", "gap", "seconds")]
        errors = sum(len(row["errors"]) + (not row["same"]) for row in found)
        loads = [row["load"] for row in found]
        print(f"| {filesystem} | {' | '.join(cells)} | {errors} | {min(loads):.1f}–{max(loads):.1f} |")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
