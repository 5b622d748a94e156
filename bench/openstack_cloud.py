"""Sharewright on a real OpenStack beside upstream's figures: cold and warm shares, rules, deletes, a hard reboot.

    sudo .venv/bin/python bench/openstack_cloud.py [--runs 3] [--output FILE.json]

Needs the test bed that `./check --openstack` starts, or another OpenStack that SHAREWRIGHT_OPENRC names. Prints a
Markdown table. A time is: API request sent → state seen (polled every 50 ms); the load average is noted beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "openstack"))

from spine import CLOUD_STEPS, Bench
from sqlalchemy import select

from bed import Account, Bed
from client_vm import ClientVm
from cloud_deployment import FLAVOR, FORM, IMAGE, CloudDeployment, deployed, offer_image, tenant_with_client
from databases import running_postgres
from sharewright.image.build import build_image
from sharewright.store.tables import operations, service_instances, share_servers, shares

CONFIGURATION = f"""
[worker]
reconcile_seconds = 600
unused_server_seconds = 36000
[backends.bench]
cloud = "openstack"
flavor = "{FLAVOR}"
service_network_cidr = "10.250.0.0/17"
"""
SENDERS = 10  # of rules that are asked for at once
# What upstream took on the same cloud and machine, seconds; see its caveats.
UPSTREAM = {
    "first share, server included": "100–134; 11 SSH commands, 13–15 logins",
    "next share, same server": "9–20; 9 SSH commands",
    "one rule → active": "4–7; 5 SSH commands",
    "20 rules at once": "31–34; 28 SSH commands",
    "100 rules at once": "131; 1 SSH command each",
    "delete, no rule": "12–13",
    "delete, 20 rules": "32",
    "delete, 121 rules": "126; 1 SSH command a rule",
    "hard reboot, longest gap under a hard mount": "58",
}
# On the client: append, fsync, note the time; errors are kept too.
BEATS = (
    "cd /mnt/bench && python3 -c 'import os,time\n"
    'out = open("/root/beats", "w", 1)\n'
    'while not os.path.exists("/root/stop"):\n'
    "    try:\n"
    '        f = os.open("beat", os.O_CREAT | os.O_APPEND | os.O_WRONLY); os.write(f, b"."); os.fsync(f); os.close(f)\n'
    "        print(time.time(), file=out)\n"
    "    except OSError as error:\n"
    '        print("error", error, file=out)\n'
    "    time.sleep(0.2)\n'"
)


class CloudBench(Bench):
    """The rows of the table, each a list of single figures with the load at their end."""

    def __init__(self, deployment: CloudDeployment, bed: Bed) -> None:
        super().__init__(deployment)
        self.bed = bed
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in UPSTREAM}
        self.ratios: list[float] = []

    def note(self, row: str, seconds: float, **more: Any) -> None:
        figures = {"seconds": seconds, "load": os.getloadavg()[0], **more}
        self.rows[row].append(figures)
        print(f"{row}: {seconds:.1f} s {json.dumps(more)}", file=sys.stderr, flush=True)

    def used(self, kind: str, resource_id: str, *, since: int = 0) -> dict[str, Any]:
        """What the operations of that kind on a resource took together."""
        query = select(operations).where(
            operations.c.kind == kind, operations.c.resource_id == resource_id, operations.c.sequence > since
        )
        self.until(lambda: all(row.finished_at for row in self._rows(query)))
        rows = self._rows(query)
        requests = self._requests({row.id for row in rows})
        return {
            "operations": len(rows),
            "cloud_requests": requests,
            "guest_round_trips": sum(row.guest_round_trips for row in rows),
            "steps": self.operation(kind, resource_id)["steps"],
        }

    def _rows(self, query: Any) -> list[Any]:
        with self.store.read() as tx:
            return list(tx.execute(query).all())

    def _requests(self, ids: set[str]) -> int:
        """From the worker's log: HTTP requests to the cloud of all attempts of these operations."""
        total = 0
        for line in self.deployment.log.read_text(errors="replace").splitlines():
            if "cloud_requests" in line and line.startswith("{"):
                entry = json.loads(line)
                if entry.get("operation_id") in ids:
                    total += entry["cloud_requests"]
        return total

    def last(self) -> int:
        rows = self._rows(select(operations.c.sequence).order_by(operations.c.sequence.desc()).limit(1))
        return int(rows[0].sequence) if rows else 0

    # ---- rows ----

    def cold(self, network: str) -> str:
        share, seconds = self.create(network)
        with self.store.read() as tx:
            server = tx.execute(select(shares.c.share_server_id).where(shares.c.id == share)).scalar_one()
        self.note(
            "first share, server included", seconds,
            share=self.used("create_share", share), server=self.used("create_share_server", server),
        )  # fmt: skip
        return share

    def warm(self, network: str) -> str:
        share, seconds = self.create(network)
        used = self.used("create_share", share)
        steps = used["steps"]
        cloud = sum(steps.get(step, 0.0) for step in CLOUD_STEPS)
        self.ratios.append(seconds / (cloud + steps.get("guest", 0.0)))
        self.note("next share, same server", seconds, ratio=self.ratios[-1], **used)
        return share

    def rules(self, row: str, share: str, addresses: list[str]) -> None:
        def make(address: str) -> str:
            rule = self.api.create_access_rule(share, access_type="ip", access_to=address, access_level="rw")
            return str(rule.id)

        since, begun = self.last(), time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            made = list(senders.map(make, addresses))
        accepted = time.monotonic() - begun

        def active() -> bool:
            states = {rule.id: rule.state for rule in self.api.access_rules(self.api.get_share(share))}
            return all(states.get(identifier) == "active" for identifier in made)

        self.until(active)
        seconds = time.monotonic() - begun
        self.note(row, seconds, accepted=accepted, **self.used("update_access", share, since=since))

    def remove(self, row: str, share: str) -> None:
        seconds = self.delete(share)
        self.note(row, seconds, **self.used("delete_share", share))

    def reboot(self, share: str, client: ClientVm) -> None:
        """A hard reboot by Nova while a client appends and syncs; beside it, when the VM's SSH server answers."""
        with self.store.read() as tx:
            row = tx.execute(
                select(service_instances.c.instance_id, service_instances.c.management_address)
                .join(share_servers, share_servers.c.id == service_instances.c.id)
                .join(shares, shares.c.share_server_id == share_servers.c.id)
                .where(shares.c.id == share)
            ).one()
        export = next(str(location.path) for location in self.api.export_locations(share))
        client.mount(export, "/mnt/bench")
        client.run("rm -f /root/stop /root/beats")
        beating = threading.Thread(target=client.run, args=(BEATS,), kwargs={"timeout": 300}, daemon=True)
        beating.start()
        time.sleep(5)
        begun = time.monotonic()
        self.bed.sdk.compute.reboot_server(row.instance_id, "HARD")
        self.until(lambda: not banner(row.management_address), seconds=60)
        self.until(lambda: banner(row.management_address))
        own = time.monotonic() - begun
        time.sleep(30)
        # The open connection is taken by the loop: another one stops it.
        other = ClientVm(client.cloud, client.machine)
        other.run("touch /root/stop")
        beating.join(240)
        lines = other.run("cat /root/beats").split("\n")
        client.unmount("/mnt/bench")
        errors = [line for line in lines if line.startswith("error")]
        beats = [float(line) for line in lines if line and not line.startswith("error")]
        gap = max(after - before for before, after in pairwise(beats))
        self.note("hard reboot, longest gap under a hard mount", gap, own_reboot=own, errors=errors)


def banner(address: str) -> bool:
    """Whether an SSH server says its name there."""
    try:
        with socket.create_connection((address, 22), timeout=1) as link:
            link.settimeout(3)
            return link.recv(4) == b"SSH-"
    except OSError:
        return False


@contextmanager
def installed(form: tuple[str, ...]) -> Iterator[tuple[CloudDeployment, Bed, Account]]:
    directory = Path("/var/tmp") / f"sharewright-bench-{os.getpid()}"
    directory.mkdir(mode=0o711)
    try:
        with running_postgres() as cluster, Bed("10.250.0.0/17") as bed:
            tenant = bed.account("tenant", "member")
            url = cluster.create_database(migrated=False)
            head = 'log_level = "debug"\nlog_format = "json"\n'
            with deployed(
                bed, directory, CONFIGURATION, form=form, head=head, database_url=url, tenants={"tenant": tenant}
            ) as deployment:
                yield deployment, bed, tenant
    finally:
        shutil.rmtree(directory)


def measure_cold(bench: CloudBench, bed: Bed, tenant: Account, runs: int) -> None:
    for run in range(runs):
        place = bed.tenant_network(tenant, f"10.79.{run}.0/24")
        network = bench.api.create_share_network(neutron_net_id=place.network_id, neutron_subnet_id=place.subnet_id)
        bench.delete(bench.cold(network.id))


def measure(bench: CloudBench, deployment: CloudDeployment, bed: Bed, tenant: Account, runs: int) -> None:
    image = offer_image(bed, deployment)
    with ExitStack() as stack:
        for run in range(runs):
            cidr = f"10.79.{run}.0/24"
            place = bed.tenant_network(tenant, cidr)
            if run == runs - 1:  # the one that gets a client, booted before anything is measured here
                made = stack.enter_context(tenant_with_client(bed, deployment, "tenant", place, cidr, image))
                network, client = made.share_network_id, made.client.wait()
            else:
                network = bench.api.create_share_network(
                    neutron_net_id=place.network_id, neutron_subnet_id=place.subnet_id
                ).id
            first = bench.cold(network)
            time.sleep(10)  # a VM goes on booting after it has answered
            for size in (0, 20, 121):
                share = bench.warm(network)
                if size == 0:
                    for number in range(runs):
                        bench.rules("one rule → active", first, [f"10.89.{run}.{number + 1}"])
                if size >= 20:
                    bench.rules("20 rules at once", share, [f"10.88.0.{number}" for number in range(20)])
                if size == 121:
                    bench.rules("100 rules at once", share, [f"10.88.1.{number}" for number in range(100)])
                    bench.rules("one rule → active", share, ["10.88.2.1"])
                bench.remove(f"delete, {size or 'no'} rule{'s' if size else ''}", share)
            print(f"run {run + 1} of {runs} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        bench.allow(first, client.address)
        for _ in range(runs):
            bench.reboot(first, client)
            time.sleep(10)
        bench.delete(first)


def show(bench: CloudBench) -> None:
    print("| operation | seconds (load) | median | cloud requests | guest round trips | upstream, seconds |")
    print("|---|---|---|---|---|---|")
    for name, rows in bench.rows.items():
        if not rows:
            continue
        single = ", ".join(f"{row['seconds']:.1f} ({row['load']:.1f})" for row in rows)
        middle = statistics.median(row["seconds"] for row in rows)
        requests = [_total(row, "cloud_requests") for row in rows]
        trips = [_total(row, "guest_round_trips") for row in rows]
        print(f"| {name} | {single} | **{middle:.1f}** | {_median(requests)} | {_median(trips)} | {UPSTREAM[name]} |")
    if not bench.ratios:
        return
    print(f"\nnext share ÷ (its cloud calls + one guest round trip): {statistics.median(bench.ratios):.2f}")
    for row in bench.rows["hard reboot, longest gap under a hard mount"]:
        print(
            f"hard reboot: gap {row['seconds']:.0f} s, the VM's own reboot {row['own_reboot']:.0f} s, {row['errors']}"
        )


def _total(row: dict[str, Any], key: str) -> int | None:
    parts = [row, row.get("share", {}), row.get("server", {})]
    found = [part[key] for part in parts if key in part]
    return sum(found) if found else None


def _median(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):g}" if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--form", choices=["kernel", "disk"], default="kernel", help="what Nova boots")
    parser.add_argument("--only-cold", action="store_true", help="only first shares")
    parser.add_argument("--output", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    build_image(IMAGE, progress=lambda line: print(line, file=sys.stderr))
    with installed(FORM if arguments.form == "kernel" else ()) as (deployment, bed, tenant):
        bench = CloudBench(deployment, bed)
        try:
            if arguments.only_cold:
                measure_cold(bench, bed, tenant, arguments.runs)
            else:
                measure(bench, deployment, bed, tenant, arguments.runs)
        finally:
            show(bench)
            if arguments.output:
                arguments.output.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
