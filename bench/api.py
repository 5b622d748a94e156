"""The API under load, beside upstream's figures: lists, single shares, and bursts of shares, rules and deletions.

    .venv/bin/python bench/api.py [--database sqlite postgresql] [--seconds 6] [--runs 3] [--many 100000]

The deployment is one as users run it, on the simulated cloud: ``sharewright serve`` with SQLite (docs/install.md), and
``--apis`` and ``--workers`` processes behind one shared socket with PostgreSQL (docs/deployment.md), which is durable
here as by default; with ``--processes``, ``serve`` on both. Everything, this program included, shares the processors.
Users authenticate (HTTP Basic).

A burst is sent on as many connections at once. Its time is: first request sent → the last object seen in its final
state, by asking the API for one list every 20 ms. ``--many`` compares pages of a database with so many shares with
pages of one with 1,000, alternately, in one run. How long a fixed piece of work took before and after each run says
whether the machine was as fast as in another. ``--source``: run another checkout's code, for comparisons. How long
it took is said at the end.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from api_load import Client
from api_phases import AT_ONCE, LISTED, Figures, Service, make_share, run_phases
from api_rows import PROJECT, fill
from api_tables import show

from databases import running_postgres
from sharewright.api.identity.users import User, Users, hash_password, write_users

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "256MB",
           "max_connections": "200"}  # fmt: skip
PASSWORD = "bench-password"
PAGES = {
    "page of 50": "limit=50",
    "page of 50 from offset 500": "limit=50&offset=500",
    "page of 50 by name": "limit=50&sort_key=name&sort_dir=asc",
    "page of 50 by size": "limit=50&sort_key=size&sort_dir=desc",
    "page of 50 with count": "limit=50&with_count=true",
    "one by name": "name=listed-000777",
    "page of 50, status available": "limit=50&status=available",
    "page of 50, status error": "limit=50&status=error",
    "page of 50 by metadata": "limit=50&metadata={'purpose': 'listed'}",
    "one by metadata": "limit=50&metadata={'number': '777'}",
}


class Deployment:
    """Running processes and a client of theirs."""

    def __init__(self, directory: Path, url: str, client: Client) -> None:
        self.directory = directory
        self.url = url
        self.client = client


@contextmanager
def running(database: str, arguments: argparse.Namespace) -> Iterator[Deployment]:
    """A deployment with an empty database. Ends with all its processes and files."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="sharewright-bench-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, directory)
        url = f"sqlite:///{directory}/sharewright.db"
        if database == "postgresql":
            url = stack.enter_context(running_postgres(DURABLE)).url("postgres")
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        address = listening.getsockname()
        configuration = directory / "sharewright.toml"
        configuration.write_text(
            f'state_dir = "{directory}"\nlog_level = "warning"\n[database]\nurl = "{url}"\n'
            '[identity]\nmode = "http_basic"\n[quotas]\nshares = -1\ngigabytes = -1\n'
            "[worker]\nunused_server_seconds = 36000\nreconcile_seconds = 600\n"
            f"{'' if arguments.processes is None else f'[api]{chr(10)}processes = {arguments.processes}{chr(10)}'}"
            '[simulated]\nany_network = true\ncapacity = 10000000.0\n[backends.bench]\ncloud = "simulated"\n'
        )
        user = User(name="bench", password_hash=hash_password(PASSWORD), roles={PROJECT: ("admin", "member", "reader")})
        write_users(directory / "users.json", Users(users=(user,)))
        commands = ["api"] * arguments.apis + ["worker"] * arguments.workers
        if database == "sqlite" or arguments.processes is not None:
            commands = ["serve"]
        for number, command in enumerate(commands):
            stack.enter_context(process(command, number, configuration, listening, arguments))
        token = base64.b64encode(f"bench:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "X-OpenStack-Manila-API-Version": "2.70"}
        client = Client(address, headers, connections=AT_ONCE)
        for _ in range(arguments.apis):  # each waits for the database
            client.request("GET", "/v2/shares")
        yield Deployment(directory, url, client)


@contextmanager
def process(
    command: str, number: int, configuration: Path, listening: socket.socket, arguments: argparse.Namespace
) -> Iterator[None]:
    """``sharewright serve``, ``api`` or ``worker``, listening as systemd would let it (see docs/deployment.md)."""
    code = (
        "import os, sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "from sharewright.cli.main import main; sys.exit(main())"
    )
    # They must not outlive this program, not even when it is killed: hence the parent-death signal.
    program = ["setpriv", "--pdeathsig=TERM", "--", sys.executable, "-c", code, "--config", str(configuration), command]
    environment = dict(os.environ)
    if arguments.source:
        environment["PYTHONPATH"] = str(arguments.source / "src")
    descriptor = listening.fileno()

    def take_socket() -> None:
        os.dup2(descriptor, 3)
        os.set_inheritable(3, True)

    with (configuration.parent / f"{command}-{number}.log").open("wb") as log:
        running = subprocess.Popen(
            program, preexec_fn=take_socket, close_fds=False, env=environment, stdout=log, stderr=log
        )
    profiler = None
    if command in arguments.profile:
        output = arguments.profile_directory / f"{command}-{number}.txt"
        options = ["--gil", "-r", "200", "--nonblocking", "-f", "raw", "-o", str(output), "-p", str(running.pid)]
        profiler = subprocess.Popen(["py-spy", "record", *options], stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield
    finally:
        if profiler is not None:
            profiler.send_signal(signal.SIGINT)
            profiler.wait(60)
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        said = (configuration.parent / f"{command}-{number}.log").read_text()
        if said:
            print(f"{command}: {said[:2000]}", file=sys.stderr)


# ---- measuring -------------------------------------------------------------------------------------------------------


def make_network(client: Client) -> str:
    values = {"neutron_net_id": "b" * 32, "neutron_subnet_id": "c" * 32, "name": "bench"}
    return str(client.request("POST", "/v2/share-networks", {"share_network": values})["share_network"]["id"])


def service_with_network(client: Client) -> Service:
    """What new shares are placed in: a network, whose first share brings its server."""
    return Service(client, {"share_network_id": make_network(client)})


def measure(database: str, arguments: argparse.Namespace) -> Figures:
    with running(database, arguments) as deployment:
        service = service_with_network(deployment.client)
        share = make_share(service, "first")
        fill(deployment.url, share["id"], arguments.listed - 1)
        return run_phases(service, share["id"], database, arguments)


def compare_pages(database: str, arguments: argparse.Namespace) -> Figures:
    """Milliseconds of each page with 1,000 and with ``--many`` shares in the database, asked for in turn."""
    with ExitStack() as stack:
        clients = []
        for number in (LISTED, arguments.many):
            deployment = stack.enter_context(running(database, arguments))
            share = make_share(service_with_network(deployment.client), "first")
            fill(deployment.url, share["id"], number - 1)
            clients.append((deployment.client, share["id"]))
        for client, _ in clients:
            client.hang_up()  # filling takes its time
        found: Figures = {}
        queries = {name: f"/v2/shares/detail?{query}" for name, query in PAGES.items()}
        for name, path in queries.items():
            escaped = path.replace(" ", "%20").replace("'", "%27").replace("{", "%7B").replace("}", "%7D")
            times: list[list[float]] = [[], []]
            for _ in range(arguments.repeats):
                for client_times, (client, _) in zip(times, clients, strict=True):
                    client_times.append(client.together([("GET", escaped, None)])[0].seconds)
            few, many = (1000 * statistics.median(each) for each in times)
            found[name] = {"few ms": few, "many ms": many, "ratio": many / few}
        return found


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; those of this program's command line unless ``words`` are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4])
    parser.add_argument("--warm-up", action="store_true", help="begin with bursts that are not measured")
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processes", type=int, help="of serve for the API (api.processes)")
    parser.add_argument("--only", default="", help="of the figures, those whose name holds this, or: burst")
    parser.add_argument("--many", type=int, default=0, metavar="SHARES", help="compare pages instead")
    parser.add_argument("--repeats", type=int, default=31, help="of each page")
    parser.add_argument("--source", type=Path, help="the checkout to measure, instead of the one installed")
    parser.add_argument("--profile", nargs="*", default=[], help="commands to profile with py-spy: serve, api, worker")
    parser.add_argument("--profile-directory", type=Path, default=Path())
    parser.add_argument("--output", type=Path)
    parser.set_defaults(listed=LISTED)
    return parser.parse_args(words)


def main() -> None:
    arguments = parsed()
    begun = time.monotonic()
    figures = {
        database: (compare_pages if arguments.many else measure)(database, arguments) for database in arguments.database
    }
    show(figures)
    print(f"\nTaken in {time.monotonic() - begun:.0f} s.")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
