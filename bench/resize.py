"""Resizing a share under a client that writes ten times a second: the longest gap between its writes, and the time.

    sudo .venv/bin/python bench/resize.py [--runs 3] [--output FILE.json]

One share on ext4 and one on xfs, each on its own server, grow from 1 GiB in steps; the one on ext4 then gets FILES
files of 10 KB and shrinks. The client appends to a file that it holds open, with fsync, over NFS 4.2 with a hard mount;
0.10 s is the gap when nothing hinders. Seconds depend on the machine and on what else it does; the client's errors must
be none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from client_vm import ClientVm
from deployment import Deployment, wait_for
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.image.build import build_image
from steady_writer import writing
from tenants import Shares, Tenant

IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_IMAGE", "/var/lib/sharewright/images/service"))
FILESYSTEMS = ("ext4", "xfs")
SIZES = (2, 4, 16)  # GiB, one after the other
SMALLER = (8, 4)  # then, on ext4
FILES = 2000
USERS = {"admin": ("admin", "admin member reader"), "tenant": ("tenant", "member reader")}


def configuration() -> str:
    text = "[worker]\nreconcile_seconds = 600\nunused_server_seconds = 36000\n"
    for number, filesystem in enumerate(FILESYSTEMS):
        text += f'[backends.{filesystem}]\nimage = "{IMAGE}"\nfilesystem = "{filesystem}"\n'
        text += f'service_network_cidr = "10.253.{64 * number}.0/18"\n'
    return text


@contextmanager
def installed() -> Iterator[tuple[Deployment, Shares]]:
    """A deployment with a backend per file system, and a tenant with a client VM."""
    directory = Path("/var/tmp") / f"sharewright-bench-{os.getpid()}"
    directory.mkdir(mode=0o711)
    deployment = Deployment(directory, configuration(), name="swbench", users=USERS)
    client: ClientVm | None = None
    try:
        deployment.start()
        network = deployment.command("network", "create", "bench", "10.79.0.0/24", "--project", "tenant", "--id-only")
        network_id = network.strip()
        settings = load(deployment.config)
        cloud = open_cloud(settings, settings.backends[FILESYSTEMS[0]])
        subnet = cloud.networks.find_subnet(network_id, None)
        assert subnet is not None
        client = ClientVm.boot(cloud, subnet, "swbench-client", str(IMAGE), directory / "client")
        with deployment.sdk("admin") as admin:
            for filesystem in FILESYSTEMS:
                specs = {"driver_handles_share_servers": "True", "share_backend_name": filesystem}
                specs |= {"snapshot_support": "True"}
                body = {"share_type": {"name": filesystem, "extra_specs": specs}}
                admin.shared_file_system.post("/types", json=body, raise_exc=True)
        sdk = deployment.sdk("tenant")
        share_network = sdk.shared_file_system.create_share_network(
            neutron_net_id=network_id, neutron_subnet_id=subnet.id
        )
        client.wait()
        yield deployment, Shares(Tenant("tenant", network_id, subnet.id, "10.79.0.0/24", client, sdk, share_network.id))
    finally:
        if client is not None:
            client.delete()
        deployment.purge()
        shutil.rmtree(directory)


def measure(shares: Shares, filesystem: str) -> Iterator[dict[str, Any]]:
    client = shares.tenant.client
    share = shares.create(f"bench-{filesystem}", share_type=filesystem)
    shares.wait(share)
    shares.allow(share, client.address)
    client.mount(shares.export(share), "/mnt/bench")
    for size in (*SIZES, *(SMALLER if filesystem == "ext4" else ())):
        if size == SMALLER[0]:
            fill = f"mkdir /mnt/bench/many; cd /mnt/bench/many; head -c {FILES}0000 /dev/urandom | split -a 4 -b 10000"
            client.run(f"{fill}; sync", timeout=600)
        with writing(client, "/mnt/bench") as outcome:
            time.sleep(2)  # some undisturbed writes before and after
            begun = time.monotonic()
            shares.api.resize_share(share, size)
            wait_for("it", lambda size=size: shares.api.get_share(share).size == size, seconds=600, interval=0.05)
            seconds = time.monotonic() - begun
            time.sleep(2)
        (written,) = outcome
        kib = int(client.run("df -k --output=size /mnt/bench | tail -1"))
        yield {
            "filesystem": filesystem, "size": size, "seconds": seconds, "gap": written.gap, "lines": written.lines,
            "errors": written.errors, "same": written.same, "df_gib": kib / 2**20, "load": os.getloadavg()[0],
        }  # fmt: skip
    client.unmount("/mnt/bench")
    shares.delete(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    rows: list[dict[str, Any]] = []
    with installed() as (_, shares):
        for _ in range(arguments.runs):
            for filesystem in FILESYSTEMS:
                for row in measure(shares, filesystem):
                    print(row, file=sys.stderr, flush=True)
                    rows.append(row)
    print("| file system | to GiB | seconds | longest gap, s | errors | df, GiB |\n|---|---|---|---|---|---|")
    for filesystem in FILESYSTEMS:
        for size in (*SIZES, *(SMALLER if filesystem == "ext4" else ())):
            found = [row for row in rows if (row["filesystem"], row["size"]) == (filesystem, size)]
            seconds = ", ".join(f"{row['seconds']:.2f}" for row in found)
            gaps = ", ".join(f"{row['gap']:.2f}" for row in found)
            errors = sum(len(row["errors"]) + (not row["same"]) for row in found)
            print(f"| {filesystem} | {size} | {seconds} | {gaps} | {errors} | {found[0]['df_gib']:.2f} |")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
