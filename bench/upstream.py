"""Upstream Manila and Sharewright under the same load, in turn in one run: how many times as fast which is.

    .venv/bin/python bench/upstream.py [--seconds 6] [--runs 3] [--shares 1000]

As root. In each run: upstream, then Sharewright on SQLite, then on PostgreSQL (``serve`` with two API processes on
both); nobody's services run while another is measured, and everybody's have had bursts before that are not measured.
Requests and client are api.py's. A ratio is the median of the runs' own ratios, since a machine's pace differs more
between runs than within one.

Upstream is Manila with the driver that does nothing, all delays 0, and three backends that handle no share servers;
Keystone with its tokens cached in memcached; MariaDB as durable as Debian's, over a Unix socket; RabbitMQ. Both APIs
are two uWSGI processes, as DevStack has them on two processors, and close the connection after each answer, as
DevStack's. Quotas of shares and gigabytes are unlimited, and logs say warnings and errors only, on both sides.

What differs in the load: whether a burst has ended is asked every 0.5 s of upstream, every 20 ms of Sharewright, since
20 ms would saturate upstream. So upstream's bursts appear up to 0.5 s longer than they were; nothing is deducted.

The shares of the lists are one that the API made and copies of it: upstream's are written through Manila's own database
interface, once, before the first run; Sharewright's straight into its tables, as in api.py.

Installs what is missing: Debian's mariadb-server, rabbitmq-server and memcached, whose own services are not started,
and upstream-requirements.txt from PyPI into build/bench/upstream/venv. All services are children of this program on
127.0.0.1 (Erlang's epmd on ::1, too), with their state in a directory below /var/tmp that is removed at the end
(``--keep`` keeps it for looking at logs).
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from api_load import Client
from api_phases import AT_ONCE, LISTED, Figures, Service, make_share, run_phases
from upstream_services import Site

import api

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENT: Final = ROOT / "build/bench/upstream/venv"
REQUIREMENTS: Final = ROOT / "bench/upstream-requirements.txt"
PACKAGES: Final = ("mariadb-server", "memcached", "rabbitmq-server")
MICROVERSION: Final = "2.70"
BETWEEN_LOOKS: Final = 0.5  # seconds
TARGETS: Final = {
    "list of 1,000, detail": 20,
    "page of 50, detail": 10,
    "one share": 10,
    "create → available": 20,
    "rule → active": 20,
    "delete → gone": 20,
}
OURS: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


# ---- what upstream needs ---------------------------------------------------------------------------------------------


def install() -> None:
    """Debian's packages and the virtual environment, as far as they are not there."""
    command = 'set -euo pipefail; root=$1; source "$root/scripts/prepare.bash"; shift; install_packages "$@"'
    with no_services_started():
        subprocess.run(["bash", "-c", command, "bash", str(ROOT), *PACKAGES], check=True, stdout=sys.stderr)
    present = ENVIRONMENT / REQUIREMENTS.name
    if present.exists() and filecmp.cmp(REQUIREMENTS, present, shallow=False):
        return
    log = ENVIRONMENT.parent / "environment.log"
    say(f"Making the Python environment in {ENVIRONMENT.relative_to(ROOT)}; the log is {log.relative_to(ROOT)}")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    pip = [f"{ENVIRONMENT}/bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    with log.open("wb") as output:
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True, stdout=output, stderr=output)
    shutil.copy(REQUIREMENTS, present)


@contextmanager
def no_services_started() -> Iterator[None]:
    """Packages that are installed meanwhile start nothing: Debian's policy-rc.d forbids it, if need be one of ours."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- measuring -------------------------------------------------------------------------------------------------------


@contextmanager
def prepared(arguments: argparse.Namespace) -> Iterator[Site]:
    """A stopped upstream whose project ``admin`` has so many shares."""
    directory = Path(tempfile.mkdtemp(prefix="sharewright-upstream-", dir="/var/tmp"))
    try:
        begun = time.monotonic()
        site = Site(directory, ENVIRONMENT, processes=arguments.processes)
        site.prepare()
        with site.running():
            service = service_of(site)
            extra_specs = {"driver_handles_share_servers": "False"}
            service.client.request("POST", "/v2/types", {"share_type": {"name": "default", "extra_specs": extra_specs}})
            warm_up(site, service)
            share = make_share(service, "first")
            say(f"upstream: set up in {time.monotonic() - begun:.0f} s")
            seed = [f"{ENVIRONMENT}/bin/python", str(ROOT / "bench/upstream_seed.py"), str(site.manila_configuration)]
            begun = time.monotonic()
            site.run(*seed, share["id"], str(arguments.shares - 1))
            for table in ("shares", "share_instances", "share_instance_export_locations", "share_metadata"):
                site.statement(f"ANALYZE TABLE manila.{table}")
            say(f"upstream: {arguments.shares - 1} copies of a share in {time.monotonic() - begun:.0f} s")
        yield site
    finally:
        if arguments.keep:
            say(f"upstream's state and logs are kept in {directory}")
        else:
            shutil.rmtree(directory)


def service_of(site: Site) -> Service:
    """As its administrator, to whom Sharewright's user in api.py corresponds."""
    headers = {"X-Auth-Token": site.token(), "X-OpenStack-Manila-API-Version": MICROVERSION}
    client = Client(("127.0.0.1", site.shares), headers, connections=AT_ONCE)
    return Service(client, {"share_type": "default"}, between_looks=BETWEEN_LOOKS, patience=600)


def warm_up(site: Site, service: Service) -> None:
    """Shares that come and go until the scheduler knows of all backends; then every process has served some request."""
    client = service.client
    client.together([("GET", "/v2/shares/detail?limit=50", None)] * 4 * site.processes)

    def shares(query: str) -> int:
        return len(client.request("GET", f"/v2/shares?name=warm-up&{query}")["shares"])

    def all_known() -> bool:
        created = client.request("POST", "/v2/shares", service.share("warm-up"))["share"]
        service.wait(lambda: shares("status=available") + shares("status=error") == 1)
        client.request("DELETE", f"/v2/shares/{created['id']}")
        service.wait(lambda: shares("") == 0)
        return site.pools() == len(site.backends)

    service.wait(all_known)


def measure_upstream(site: Site, arguments: argparse.Namespace) -> Figures:
    """With api.py's options, as ``api.measure``."""
    begun = time.monotonic()
    with site.running():
        service = service_of(site)
        warm_up(site, service)
        shares = service.client.request("GET", "/v2/shares")["shares"]
        assert len(shares) == arguments.listed, len(shares)
        say(f"upstream: started in {time.monotonic() - begun:.0f} s")
        first = next(share["id"] for share in shares if share["name"] == "first")
        return run_phases(service, first, "upstream", arguments)


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Figures]]:
    """Of each run, everybody's figures."""
    words = ["--processes", str(arguments.processes), "--seconds", str(arguments.seconds), "--runs", "1"]
    words += ["--concurrency", *map(str, arguments.concurrency), "--only", arguments.only, "--warm-up"]
    load = api.parsed(words)
    load.listed = arguments.shares
    runs: list[dict[str, Figures]] = []
    with prepared(arguments) as site:
        for number in range(arguments.runs):
            say(f"run {number + 1} of {arguments.runs}")
            figures = {"upstream": measure_upstream(site, load)}
            for database in OURS:
                figures[database] = api.measure(database, load)
            runs.append(figures)
    return runs


# ---- the tables ------------------------------------------------------------------------------------------------------


def show(runs: list[dict[str, Figures]], shares: int) -> None:
    def middle(who: str, name: str, value: str) -> float:
        return statistics.median(float(run[who][name][value]) for run in runs)

    def ratio(who: str, name: str, value: str) -> float:
        """How many times better than upstream."""
        ratios = [float(run[who][name][value]) / float(run["upstream"][name][value]) for run in runs]
        return statistics.median(ratios if value == "per second" else [1 / each for each in ratios])

    for value, title in (("per second", "per second"), ("processor ms", "processor time, ms each")):
        columns = [title, "upstream", *(column for who in OURS.values() for column in (f"ours on {who}", "ratio"))]
        speed = value == "per second"
        print(f"\n| {' | '.join([*columns, *(['target ratio'] if speed else [])])} |")
        print("|---" * (len(columns) + speed) + "|")
        for name in runs[0]["upstream"]:
            cells = [name.replace("1,000", f"{shares:,}"), f"{middle('upstream', name, value):.1f}"]
            for who in OURS:
                cells += [f"{middle(who, name, value):.1f}", f"{ratio(who, name, value):.1f}"]
            print(f"| {' | '.join([*cells, *([str(TARGETS[name])] if speed else [])])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each read")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shares", type=int, default=LISTED, help="in the lists; the targets are for 1,000")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4])
    parser.add_argument("--processes", type=int, default=2, help="of each API, upstream's and ours")
    parser.add_argument("--only", default="", help="of the figures, those whose name holds this, or: burst")
    parser.add_argument("--keep", action="store_true", help="upstream's state and logs")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("error: MariaDB and RabbitMQ are run as root here. Run this as root.")
    begun = time.monotonic()
    install()
    runs = measure_all(arguments)
    requirements = dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    versions = f"Manila {requirements['manila']}, Keystone {requirements['keystone']}"
    print(f"{versions}; load average {os.getloadavg()[0]:.1f}; runs: {arguments.runs}; shares: {arguments.shares}.")
    print(f"Whether a burst of {AT_ONCE} has ended is asked every {BETWEEN_LOOKS} s of upstream, every 0.02 s of ours.")
    print("Speeds are medians of the runs; ratios are medians of the runs' own ratios.")
    show(runs, arguments.shares)
    print(f"\nTaken in {time.monotonic() - begun:.0f} s.")
    if arguments.output:
        arguments.output.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
