"""Snapshots of share groups on libvirt: for how long their shares stand still, of 1, 2, 4 and 8 shares on one server.

    sudo .venv/bin/python bench/group_snapshots.py [--runs 3] [--output FILE.json]

The time is the guest's own, from the start of the dead man to the end of the thaw, of the longest freeze; the ratio is
to one share in the same run. A client would wait for so long at most. Each share gets some files before, and nobody
writes meanwhile, so what is measured is the freezing and the cloud, not the disks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from deployment import Deployment, wait_for
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.image.build import build_image
from sharewright.store.tables import operations

IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_IMAGE", "/var/lib/sharewright/images/service"))
SIZES = (1, 2, 4, 8)  # shares of a group
USERS = {"admin": ("admin", "admin member reader"), "tenant": ("tenant", "member reader")}
CONFIGURATION = f"""
[worker]
reconcile_seconds = 600
unused_server_seconds = 36000
[backends.libvirt]
image = "{IMAGE}"
service_network_cidr = "10.253.0.0/18"
"""


@contextmanager
def installed() -> Iterator[tuple[Deployment, Any, str]]:
    """A deployment, a tenant's API and its share network."""
    directory = Path("/var/tmp") / f"sharewright-bench-{os.getpid()}"
    directory.mkdir(mode=0o711)
    deployment = Deployment(directory, CONFIGURATION, name="swbench", users=USERS)
    try:
        deployment.start()
        network = deployment.command("network", "create", "bench", "10.79.0.0/24", "--project", "tenant", "--id-only")
        settings = load(deployment.config)
        cloud = open_cloud(settings, settings.backends["libvirt"])
        subnet = cloud.networks.find_subnet(network.strip(), None)
        assert subnet is not None
        with deployment.sdk("admin") as admin:
            specs = {"driver_handles_share_servers": "True", "snapshot_support": "True"}
            body = {"share_type": {"name": "bench", "extra_specs": specs}}
            admin.shared_file_system.post("/types", json=body, raise_exc=True)
            kind = {"name": "bench", "share_types": ["bench"]}
            admin.shared_file_system.post("/share-group-types", json={"share_group_type": kind}, raise_exc=True)
        api = deployment.sdk("tenant").shared_file_system
        share_network = api.create_share_network(neutron_net_id=network.strip(), neutron_subnet_id=subnet.id)
        yield deployment, api, share_network.id
    finally:
        deployment.purge()
        shutil.rmtree(directory)


def make_group(api: Any, share_network: str, count: int) -> str:
    (kind,) = api.get("/share-group-types").json()["share_group_types"]
    body = {"share_group_type_id": kind["id"], "share_types": kind["share_types"], "share_network_id": share_network}
    group = api.post("/share-groups", json={"share_group": body}, raise_exc=True).json()["share_group"]["id"]
    for _ in range(count):
        body = {"size": 1, "share_proto": "NFS", "share_group_id": group, "share_type": "bench"}
        share = api.post("/shares", json={"share": body}, raise_exc=True).json()["share"]["id"]
        wait_for("the share", lambda share=share: api.get_share(share).status == "available", seconds=600)
    return str(group)


def take(deployment: Deployment, api: Any, group: str) -> dict[str, float]:
    begun = time.monotonic()
    snapshot = api.create_share_group_snapshot(group).id
    wait_for(
        "the group snapshot",
        lambda: api.get_share_group_snapshot(snapshot).status == "available",
        seconds=600,
        interval=0.05,
    )
    seconds = time.monotonic() - begun
    query = operations.select().where(
        operations.c.resource_id == snapshot, operations.c.kind == "create_group_snapshot"
    )
    with deployment.store() as store, store.read() as tx:
        row = tx.execute(query).one()
    api.delete_share_group_snapshot(snapshot)
    wait_for("its end", lambda: not list(api.share_group_snapshots()), seconds=600)
    return {
        "frozen": row.facts["frozen_seconds"],
        "seconds": seconds,
        "attempts": row.attempts,
        "round_trips": row.guest_round_trips,
        "cloud_calls": row.cloud_calls,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    rows: list[dict[str, Any]] = []
    with installed() as (deployment, api, share_network):
        groups = {count: make_group(api, share_network, count) for count in SIZES}
        for run in range(arguments.runs):
            for count, group in groups.items():
                rows.append({"run": run, "shares": count, **take(deployment, api, group)})
                print(json.dumps(rows[-1]), file=sys.stderr)
    print("| shares | stood still, s (median) | times one share | request → available, s | cloud calls | round trips |")
    print("|---|---|---|---|---|---|")
    ones = {row["run"]: row["frozen"] for row in rows if row["shares"] == 1}
    for count in SIZES:
        mine = [row for row in rows if row["shares"] == count]
        frozen = statistics.median(row["frozen"] for row in mine)
        ratio = statistics.median(row["frozen"] / ones[row["run"]] for row in mine)
        seconds = statistics.median(row["seconds"] for row in mine)
        last = mine[-1]
        print(
            f"| {count} | {frozen:.2f} | {ratio:.1f} | {seconds:.1f} | {last['cloud_calls']} | {last['round_trips']} |"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
