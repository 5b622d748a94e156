"""``sharewright serve``, ``api`` and ``worker``: the long-running processes.

SIGTERM and SIGINT stop them in good order: no new work, running operations come to an end or are handed back. A second
signal ends them at once; the database then still holds everything that another process needs to go on.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from sharewright import logging
from sharewright.cli.complaints import report
from sharewright.cli.family import Family, Part
from sharewright.cli.options import (
    Commands,
    add_command,
    configuration_file,
    open_store,
    prepare_state_dir,
    read_settings,
    state_dir_in_use,
    tell,
)
from sharewright.cli.processes import remove_pid, write_pid
from sharewright.cli.reference import toml
from sharewright.cli.signals import wait_for_signal
from sharewright.cli.systemd import inherited_socket, notify
from sharewright.clouds.contract import TenantNetworks
from sharewright.clouds.open import open_cloud
from sharewright.errors import ConfigurationError
from sharewright.settings import Backend, Database, OpenStack, Settings

if TYPE_CHECKING:
    from sharewright.api.acceptor import Seat
    from sharewright.store.database import Store

log = structlog.get_logger()

MOST_API_PROCESSES: Final = 4  # unless more are asked for

SIMULATED_BANNER = """\
  ****************************************************************
  *  SIMULATED: no virtual machine, no volume, no file server.   *
  *  Shares answer over the API and hold no data. For tests and  *
  *  for authors of clients.                                     *
  ****************************************************************
"""


def add(commands: Commands) -> None:
    serve_parser = add_command(
        commands,
        "serve",
        serve,
        help="run API, worker and maintenance in one process",
        description="Run API, worker and maintenance in one process. The database is made or upgraded first.",
        examples="  sudo sharewright serve\n"
        "  sharewright serve --cloud simulated                      no root; its state is gone when it ends\n"
        "  sharewright serve --cloud simulated --state-dir ~/try    the same, kept",
    )
    serve_parser.add_argument(
        "--cloud",
        choices=["simulated"],
        help="put every backend on the simulated cloud, whatever the configuration says",
    )
    serve_parser.add_argument("--state-dir", type=Path, metavar="DIR", help="instead of the configured state_dir")
    serve_parser.add_argument("--port", type=int, help="instead of the configured api.port")
    api_parser = add_command(commands, "api", api, help="run only the API (any number of nodes, with PostgreSQL)")
    worker_parser = add_command(
        commands, "worker", worker, help="run only worker and maintenance (any number of nodes, with PostgreSQL)"
    )
    for parser in (serve_parser, api_parser, worker_parser):
        parser.add_argument("--pid-file", type=Path, metavar="FILE", help="write the process id there")
        parser.add_argument(
            "--metrics-port", type=port_number, metavar="PORT", help="instead of the configured metrics.port"
        )


def serve(arguments: argparse.Namespace) -> int:
    with settings_to_serve(arguments) as settings:
        processes = api_processes(settings)
        if processes:
            return run_family(arguments, settings, processes)
        return run(arguments, settings, run_worker, run_api)


def api_processes(settings: Settings) -> int:
    """How many processes of ``serve`` answer requests; 0: the one that works does that, too."""
    if settings.api.processes >= 0:
        return settings.api.processes
    usable = len(os.sched_getaffinity(0))
    return min(usable, MOST_API_PROCESSES) if usable > 1 else 0


def api(arguments: argparse.Namespace) -> int:
    # Only here: when ``serve`` ends there is nobody who could take over, and nothing to wait for.
    return run(arguments, read_settings(arguments), partial(run_api, drain=True))


def worker(arguments: argparse.Namespace) -> int:
    return run(arguments, read_settings(arguments), run_worker)


def run(arguments: argparse.Namespace, settings: Settings, *parts: Callable[[ExitStack, Store, Settings], None]) -> int:
    """Start the parts in order and run until a signal; they end in the other order."""
    with ExitStack() as stack:
        stopping = stack.enter_context(running(arguments, settings))
        warn_of_simulation(arguments)
        store = stack.enter_context(closing(open_store(settings)))
        prepare(store, settings)
        serve_metrics(stack, store, settings, arguments.metrics_port)
        for part in parts:
            part(stack, store, settings)
        notify("READY=1")
        wait_for_signal(stopping)
        notify("STOPPING=1")
        log.info("stopping")
    return 0


def run_family(arguments: argparse.Namespace, settings: Settings, api_processes: int) -> int:
    """The same with processes of their own for the worker and the API, until a signal. Number n of the API has its
    metrics n ports above the worker's."""
    import sharewright.api.app  # here, what the children need, so that they have it at once, and its memory in common
    import sharewright.operations.assembly
    import sharewright.operations.worker  # noqa: F401
    from sharewright.api.acceptor import Tally
    from sharewright.api.server import listen
    from sharewright.store.distant_bell import DistantBell
    from sharewright.store.turns import Turns

    with ExitStack() as stack:
        stopping = stack.enter_context(running(arguments, settings))
        warn_of_simulation(arguments)
        inherited = inherited_socket()
        listening = stack.enter_context(inherited or listen(settings.api.listen, settings.api.port))
        with closing(open_store(settings)) as store:
            prepare(store, settings)
        bell, turns, tally = stack.enter_context(closing(DistantBell())), Turns(), Tally(api_processes)
        metrics_port = settings.metrics.port if arguments.metrics_port is None else arguments.metrics_port

        def live(ready: Callable[[], None], number: int) -> int:
            """A child: the worker is number 0."""
            stop = stop_at_sigterm()
            try:
                turns.join()
                with ExitStack() as own:
                    store = own.enter_context(closing(open_store(settings, turns=turns, ring_elsewhere=bell.ring)))
                    serve_metrics(own, store, settings, metrics_port and metrics_port + number)
                    if number == 0:
                        bell.listen(store.bell)
                        run_worker(own, store, settings)
                    else:
                        run_api(
                            own,
                            store,
                            settings,
                            listening=listening,
                            last=inherited is None,
                            seat=tally.seat(number - 1),
                        )
                    ready()
                    wait_for_signal(stop)
            except Exception as error:
                return report(error, debug=arguments.debug)
            return 0

        names = ["worker", *(f"api-{number}" for number in range(1, api_processes + 1))]
        family = Family([Part(name, partial(live, number=number)) for number, name in enumerate(names)])

        def ending() -> None:
            notify("STOPPING=1")
            log.info("stopping")
            listening.close()  # the last child that closes it, too, refuses connections

        def all_ready() -> None:
            notify("READY=1")
            log.info("all processes are ready", processes=names)

        return family.run(stopping, ready=all_ready, ending=ending)


def stop_at_sigterm() -> threading.Event:
    """For a child: what it is to wait for. A terminal's SIGINT goes to all processes, and is the parent's business."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return stop


def warn_of_simulation(arguments: argparse.Namespace) -> None:
    if getattr(arguments, "cloud", None) == "simulated":
        log.warning("SIMULATED: nothing behind this API is real")


# ---- parts -----------------------------------------------------------------------------------------------------------


def prepare(store: Store, settings: Settings) -> None:
    """Tables of this version, and the rows that every deployment has."""
    from sharewright.services.bootstrap import ensure_defaults
    from sharewright.store.migrations import migrate

    revision = migrate(store)
    ensure_defaults(store, settings)
    log.info("database ready", url=settings.database_url, revision=revision)


def port_number(text: str) -> int:
    """For argparse: 0 to 65535."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def serve_metrics(stack: ExitStack, store: Store, settings: Settings, port: int | None) -> None:
    """Start the endpoint that Prometheus scrapes, if one is asked for; it ends with the stack."""
    if settings.metrics.port if port is None else port:
        from sharewright.metrics.endpoint import MetricsEndpoint

        stack.enter_context(MetricsEndpoint(store, settings.metrics, port=port))


def run_worker(stack: ExitStack, store: Store, settings: Settings) -> None:
    """Start a worker that ends with the stack."""
    from sharewright.operations.assembly import assemble
    from sharewright.operations.worker import Worker

    assembly = stack.enter_context(closing(assemble(settings, store)))
    stack.enter_context(Worker(store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds))


def run_api(
    stack: ExitStack,
    store: Store,
    settings: Settings,
    *,
    drain: bool = False,
    listening: socket.socket | None = None,
    last: bool = False,
    seat: Seat | None = None,
) -> None:
    """Start the API that ends with the stack. ``drain``: first so that a proxy or a client notices. ``listening``,
    whether it is the ``last``, and ``seat``: as for Server, instead of a socket that systemd holds."""
    from sharewright.api.app import create_app
    from sharewright.api.one_reader import OneReader
    from sharewright.api.server import Server

    app = create_app(store, settings, wake=store.bell.ring)
    server = Server(
        OneReader(app) if store.is_sqlite else app,
        settings,
        listening=listening or inherited_socket(),
        last=last,
        seat=seat,
        drain_seconds=settings.api.drain_seconds if drain else 0.0,
    )
    stack.callback(server.stop)
    server.start()
    log.info("API ready", url=f"{server.url}/v2")


@contextmanager
def running(arguments: argparse.Namespace, settings: Settings) -> Iterator[threading.Event]:
    """Logging, signals and the pid file of a long-running process. The event is set when it shall stop."""
    logging.configure(form=settings.log_format, level="debug" if arguments.debug else settings.log_level)
    stopping = threading.Event()

    def stop(number: int, _frame: object) -> None:
        if stopping.is_set():  # the second signal: whoever sent it does not want to wait
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is no reason to stop serving
    faulthandler.register(signal.SIGUSR1)  # says on standard error where each thread is
    if arguments.pid_file:
        write_pid(arguments.pid_file)
    try:
        with state_dir_in_use(settings):
            yield stopping
    finally:
        if arguments.pid_file:
            remove_pid(arguments.pid_file)
        log.info("stopped")


@contextmanager
def settings_to_serve(arguments: argparse.Namespace) -> Iterator[Settings]:
    """The configuration with what the command line changes. A simulated deployment without a place of its own gets a
    temporary one."""
    from sharewright.operations.assembly import with_cloud

    settings = read_settings(arguments)
    if arguments.port:
        settings = msgspec.structs.replace(settings, api=msgspec.structs.replace(settings.api, port=arguments.port))
    if arguments.state_dir:
        settings = msgspec.structs.replace(settings, state_dir=str(arguments.state_dir.absolute()))
    if arguments.cloud != "simulated":
        if os.geteuid() != 0 and any(backend.cloud == "libvirt" for backend in settings.backends.values()):
            raise ConfigurationError(
                "The libvirt cloud makes bridges and packet filters, and needs root.",
                hint="Run with sudo. Without root: sharewright serve --cloud simulated",
            )
        yield settings
        return
    with ExitStack() as stack:
        if not arguments.state_dir:
            # Never the real deployment's directory or database: simulated rows must not mix with real ones.
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharewright-simulated-"))
            settings = msgspec.structs.replace(settings, state_dir=directory, database=Database())
        if configuration_file(arguments) is None:
            settings = msgspec.structs.replace(settings, backends={"simulated": Backend(cloud="simulated")})
        settings = msgspec.structs.replace(with_cloud(settings, "simulated"), openstack=OpenStack())  # no credentials
        introduce_simulation(settings)
        yield settings


def introduce_simulation(settings: Settings) -> None:
    """Say loudly what this is, and give its user a configuration file and a tenant network to begin with."""
    tell(SIMULATED_BANNER)
    path = prepare_state_dir(settings) / "sharewright.toml"
    path.touch(mode=0o600)  # it may hold a password
    path.chmod(0o600)
    path.write_text(toml(msgspec.to_builtins(settings)))
    with closing(open_cloud(settings, next(iter(settings.backends.values())))) as cloud:
        networks = cloud.networks
        if not isinstance(networks, TenantNetworks):
            raise TypeError(f"{type(networks).__name__} is no simulated network")
        present = networks.list_networks() or [networks.create_network("demo", ip_network("10.99.0.0/24"))]
    subnet = present[0].subnets[0]
    tell(f"  export SHAREWRIGHT_CONFIG={path}")
    if settings.identity.mode == "none":
        tell(f"  export OS_AUTH_TYPE=none OS_ENDPOINT=http://{settings.api.listen}:{settings.api.port}/v2")
    tell("  openstack share network create --name demo")
    tell(f"  openstack share network set demo --neutron-net-id {subnet.network_id} --neutron-subnet-id {subnet.id}")
    tell("  openstack share create NFS 1 --name demo --share-network demo --wait\n")
