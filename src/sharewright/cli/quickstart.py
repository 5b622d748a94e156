"""What ./quickstart does once the Debian and Python packages are there: from nothing to a share that a client has used.

Everything is found again by name, so each run continues where the last one ended. All files are below the state
directory. The story itself (share network, share, rule) is told with the stock ``openstack share`` command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

from sharewright.cli import processes
from sharewright.cli.client_machine import ClientMachine
from sharewright.cli.complaints import complain
from sharewright.cli.image import image_path
from sharewright.cli.options import prepare_state_dir, state_dir_for_purge, state_dir_in_use
from sharewright.cli.purge import power_off, purge_deployment
from sharewright.cli.steps import Steps
from sharewright.clouds.contract import Cloud, Subnet, TenantNetworks
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.errors import SharewrightError
from sharewright.identifiers import short_hash
from sharewright.image.build import build_image
from sharewright.logging import configure
from sharewright.settings import Settings

DEFAULT_STATE_DIR = Path("/var/lib/sharewright")
DEFAULT_DEPLOYMENT = "sharewright"
NAME = "quickstart"  # of the network, the share network, the share, the client
BACKEND = "libvirt"
MEBIBYTES = 64
CLOCK = re.compile(r"^\[ *\d+ s\] ")  # the image builder's own; ours counts from the beginning
BEGUN_VARIABLE = "SHAREWRIGHT_QUICKSTART_BEGUN"  # when the shell part began, in seconds since the epoch
API_SECONDS = 180.0  # libvirtd's first start learns what QEMU can do, which takes most of a minute under emulation
CLIENT_SECONDS = 300.0

# Runs on the client. Everything that varies comes by standard input.
USE_SHARE = r"""
set -eu
read -r export; read -r bytes
directory=/mnt/quickstart
mkdir -p "$directory"
if grep -q " $directory " /proc/mounts; then umount -f -l "$directory"; fi
mount_share() { mount -t nfs4 -o vers=4.2,hard,timeo=100 "$export" "$directory"; }
now() { cut -d' ' -f1 /proc/uptime; }
mount_share
begun=$(now)
written=$(head -c "$bytes" /dev/urandom | tee "$directory/quickstart.data" | sha256sum)
sync -f "$directory/quickstart.data"
ended=$(now)
umount "$directory"
echo 3 > /proc/sys/vm/drop_caches
mount_share
again=$(now)
read_back=$(sha256sum < "$directory/quickstart.data")
last=$(now)
umount "$directory"
echo "${written%% *} ${read_back%% *} $begun $ended $again $last"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where this quickstart keeps its things."""

    state_dir: Path

    @property
    def configuration(self) -> Path:
        return self.state_dir / "sharewright.toml"

    @property
    def directory(self) -> Path:
        return self.state_dir / NAME

    @property
    def log(self) -> Path:
        return self.directory / "service.log"

    @property
    def pid_file(self) -> Path:
        return self.directory / "service.pid"

    @property
    def environment(self) -> Path:
        return self.directory / "openstack.env"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code."""
    parsed = parser().parse_args(arguments)
    places = Places(state_dir=Path(os.path.abspath(parsed.state_dir)))  # noqa: PTH100  symbolic links stay
    steps = Steps(begun=os.environ.get(BEGUN_VARIABLE))
    try:
        if os.geteuid() != 0:
            raise SharewrightError(
                "quickstart makes bridges and virtual machines, and needs root.", hint="sudo ./quickstart"
            )
        if parsed.purge:
            return purge(places, steps)
        if parsed.down:
            return down(places, steps)
        configure(level="debug" if parsed.debug else "warning")
        return Quickstart(
            places, steps, port=parsed.port, network=parsed.network, image=Path(parsed.image) if parsed.image else None
        ).run()
    except KeyboardInterrupt:
        print(
            "\ninterrupted. Run ./quickstart again to go on, or ./quickstart --purge to remove everything.",
            file=sys.stderr,
        )
        return 130
    except (SharewrightError, OSError) as error:
        if parsed.debug:
            raise
        explain(error, steps, places)
        return 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description="From a fresh Debian 12 to an NFS share that a client on a tenant's network has mounted, written\n"
        "and read back. Run it again at any time: what is there is used again.",
        epilog="examples:\n  sudo ./quickstart\n  sudo ./quickstart --down     stop; shares are kept\n"
        "  sudo ./quickstart           go on\n  sudo ./quickstart --purge    remove everything",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--down", action="store_true", help="stop the service and its virtual machines; shares are kept")
    what.add_argument(
        "--purge", action="store_true", help="stop, and delete networks, virtual machines, SHARES AND THEIR DATA, files"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", default=str(DEFAULT_STATE_DIR), help=f"default: {DEFAULT_STATE_DIR}"
    )
    parser.add_argument("--port", type=int, default=8786, help="the API's port on 127.0.0.1 (default: 8786)")
    parser.add_argument(
        "--network",
        type=ip_network,
        default="10.99.0.0/24",
        metavar="CIDR",
        help="the demo network (default: 10.99.0.0/24)",
    )
    parser.add_argument("--image", metavar="DIR", help="use this service image instead of building one")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more of the log")
    return parser


class Quickstart:
    """One run."""

    def __init__(
        self, places: Places, steps: Steps, *, port: int, network: IPv4Network, image: Path | None = None
    ) -> None:
        self._image = image
        self._places = places
        self._steps = steps
        self._port = port
        self._network = network
        self._openstack_program = Path(sys.executable).parent / "openstack"

    def run(self) -> int:
        settings = self._configure()
        image = image_path(settings)
        if self._image is None:
            with self._steps.step("Service image", tells=True):
                build_image(image, progress=lambda text: self._steps.say(CLOCK.sub("Service image: ", text)))
        with state_dir_in_use(settings), closing(open_cloud(settings, settings.backends[BACKEND])) as cloud:
            with self._steps.step("libvirt"):
                cloud.check()
            self._start_service()
            subnet = self._tenant_network(cloud)
            client = ClientMachine(
                cloud, name=f"{settings.deployment}-client", directory=self._places.directory, image=str(image),
                subnet=subnet, backend=BACKEND,
            )  # fmt: skip
            boot = Background(lambda: self._boot(client))
            share = self._share(subnet)
            boot.wait()
            self._allow(share, client.address)
            figures = self._use(client, share.export)
        self._write_environment()
        self._page(client, subnet, share.export, figures)
        return 0

    # ---- the deployment ----

    def _configure(self) -> Settings:
        state_dir = self._places.state_dir
        # Two deployments on one host are told apart by name; the default one has the plain name.
        other = f"sw-{short_hash(str(state_dir), length=8)}"
        deployment = DEFAULT_DEPLOYMENT if state_dir == DEFAULT_STATE_DIR else other
        text = (
            "# Written by ./quickstart at each run. docs/configuration.md explains every key.\n"
            f"state_dir = {json.dumps(str(state_dir))}\n"
            f'deployment = "{deployment}"\n\n[api]\nlisten = "127.0.0.1"\nport = {self._port}\n\n'
            f'[backends.{BACKEND}]\ncloud = "libvirt"\n'
        )
        if self._image is not None:
            text += f"image = {json.dumps(str(self._image.absolute()))}\n"
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        path = self._places.configuration
        if path.exists() and path.read_text() != text:
            processes.stop(self._places.pid_file, mark=str(path))  # it runs with the old configuration
        path.write_text(text)
        settings = load(path)
        prepare_state_dir(settings)
        self._places.directory.mkdir(mode=0o700, exist_ok=True)
        return settings

    def _start_service(self) -> None:
        mark = str(self._places.configuration)
        pid = processes.read_pid(self._places.pid_file, mark=mark)
        stamp, current = self._places.directory / "service.stamp", source_stamp()
        if pid is not None and self._answers() and stamp.exists() and stamp.read_text() == current:
            self._steps.say(f"The service runs already (process {pid}).")
            return
        with self._steps.step("Service"):
            if pid is not None:
                processes.stop(self._places.pid_file, mark=mark)
            if self._answers():
                raise SharewrightError(
                    f"Port {self._port} of 127.0.0.1 is in use by another program.", hint="Choose another with --port."
                )
            stamp.write_text(current)
            process = processes.start_detached(
                [
                    sys.executable, "-m", "sharewright.cli.main", "--config", mark,
                    "serve", "--pid-file", str(self._places.pid_file),
                ],
                log=self._places.log,
            )  # fmt: skip
            end = time.monotonic() + API_SECONDS
            while not self._answers():
                if process.poll() is not None:
                    raise SharewrightError(f"The service ended with exit code {process.returncode}.")
                if time.monotonic() > end:
                    raise SharewrightError(f"The API did not answer within {API_SECONDS:.0f} s.")
                time.sleep(0.2)

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=5)
        with suppress(OSError, HTTPException), closing(connection):
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        return False

    def _tenant_network(self, cloud: Cloud) -> Subnet:
        networks = cloud.networks
        if not isinstance(networks, TenantNetworks):
            raise SharewrightError(f"The cloud {cloud.name} makes no tenant networks.")
        # libvirt's names of networks are the whole host's; another quickstart on it has another deployment name.
        name = NAME if cloud.deployment == DEFAULT_DEPLOYMENT else f"{NAME}-{cloud.deployment}"
        with self._steps.step(f"Tenant network {name}"):
            found = next((network for network in networks.list_networks() if network.name == name), None)
            network = found or networks.create_network(name, self._network)
        return network.subnets[0]

    def _boot(self, client: ClientMachine) -> None:
        with self._steps.step("Client machine"):
            client.ensure()
            client.wait_ready(timeout=CLIENT_SECONDS)

    # ---- the story, told with the stock client ----

    def _share(self, subnet: Subnet) -> Share:
        """Make the share, or find it from an earlier run."""
        found = self._openstack("list", "--name", NAME)
        for share in [share for share in found if share["Status"].startswith("error")]:
            with self._steps.step("Removing the failed share of an earlier run"):
                self._openstack("delete", share["ID"], "--wait", form=False)
                found.remove(share)
        if found:
            identifier = found[0]["ID"]
        else:
            networks = self._openstack("network", "list")
            if not any(network["Name"] == NAME for network in networks):
                with self._steps.step("openstack share network create"):
                    # "create --neutron-net-id" makes the client look the id up in a Neutron; "set" sends it as it is.
                    self._openstack("network", "create", "--name", NAME)
                    self._openstack(
                        "network", "set", NAME,
                        "--neutron-net-id", subnet.network_id, "--neutron-subnet-id", subnet.id, form=False,
                    )  # fmt: skip
            with self._steps.step("openstack share create NFS 1 (the share server boots)"):
                identifier = self._openstack(
                    "create", "NFS", "1", "--name", NAME, "--share-type", "default", "--share-network", NAME, "--wait"
                )["id"]
        share = self._openstack("show", identifier)
        if share["status"] != "available":
            reasons = [message["User Message"] for message in self._openstack("message", "list")]
            raise SharewrightError(
                f"The share is {share['status']}, not available. {' '.join(reasons[:3])}",
                hint="See: openstack share message list",
            )
        return Share(id=identifier, export=export_path(share))

    def _allow(self, share: Share, address: str) -> None:
        with self._steps.step(f"openstack share access create … ip {address}"):
            rules = self._openstack("access", "list", share.id)
            if not any(rule["Access To"] == address and rule["State"] == "active" for rule in rules):
                self._openstack("access", "create", share.id, "ip", address, "--access-level", "rw", "--wait")

    def _openstack(self, *arguments: str, form: bool = True) -> Any:
        """Run ``openstack share ARGUMENTS`` and return its JSON, or nothing when it prints none (``form``)."""
        command = [str(self._openstack_program), "share", *arguments, *(["-f", "json"] if form else [])]
        done = subprocess.run(
            command,
            env=self._client_environment(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            words = " ".join(["openstack", *command[1:]])
            raise SharewrightError(
                f"{words}\nexited with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return json.loads(done.stdout) if form else None

    def _client_environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        return kept | {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": f"http://127.0.0.1:{self._port}/v2"}

    # ---- the proof, and the page ----

    def _use(self, client: ClientMachine, export: str) -> Figures:
        with self._steps.step(f"The client mounts it, writes {MEBIBYTES} MiB, mounts it again, reads them back"):
            answer = client.run(USE_SHARE, export, str(MEBIBYTES << 20), timeout=600).split()
        written, read_back = answer[0], answer[1]
        begun, ended, again, last = (float(value) for value in answer[2:6])
        if written != read_back or len(written) != 64:
            raise SharewrightError(f"The client wrote data of SHA-256 {written} and read back {read_back}.")
        return Figures(digest=written, write_seconds=ended - begun, read_seconds=last - again)

    def _write_environment(self) -> None:
        self._places.environment.write_text(
            "# source this file, then: openstack share list\n"
            "export OS_AUTH_TYPE=none\n"
            f"export OS_ENDPOINT=http://127.0.0.1:{self._port}/v2\n"
            f"export SHAREWRIGHT_CONFIG={self._places.configuration}\n"
            f'export PATH="{Path(sys.executable).parent}:$PATH"\n'
        )

    def _page(self, client: ClientMachine, subnet: Subnet, export: str, figures: Figures) -> None:
        wrote, read = MEBIBYTES / figures.write_seconds, MEBIBYTES / figures.read_seconds
        options = "" if self._places.state_dir == DEFAULT_STATE_DIR else f" --state-dir {self._places.state_dir}"
        print(f"""
Sharewright works on this host. {self._steps.elapsed:.0f} s in all.
A client on the tenant's network mounted a share, wrote {MEBIBYTES} MiB ({wrote:.0f} MiB/s), mounted it again
and read them back ({read:.0f} MiB/s); SHA-256 equal: {figures.digest[:16]}…

  the share        {export}
  mount it         mount -t nfs4 -o vers=4.2 {export} /mnt
                   on a machine of the network {subnet.cidr} that has an access rule
  the client       ssh -F {client.ssh_configuration} client        (a shell; its address is {client.address})

  use the API      source {self._places.environment}
                   openstack share list
                   openstack share create NFS 1 --name second --share-network {NAME} --wait
                   openstack share access create second ip {client.address}
                   openstack share export location list second
                   sharewright network create blue 10.98.0.0/24
  the log          {self._places.log}

  stop             sudo ./quickstart --down{options}         (shares are kept; ./quickstart goes on)
  remove all       sudo ./quickstart --purge{options}
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The demo share."""

    id: str
    export: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the client measured."""

    digest: str
    write_seconds: float
    read_seconds: float


class Background:
    """A function in a thread; ``wait`` raises what it raised."""

    def __init__(self, work: Any) -> None:
        self._error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


def source_stamp() -> str:
    """Changes when the program's files change: a service started before that is started again."""
    package = Path(__file__).parents[1]
    files = [(path, path.stat()) for path in sorted(package.rglob("*.py"))]
    return short_hash(*(f"{path} {facts.st_size} {facts.st_mtime_ns}" for path, facts in files), length=40)


def export_path(share: dict[str, Any]) -> str:
    """The preferred export path in the answer of ``openstack share show -f json``."""
    locations = share.get("export_locations") or []
    if isinstance(locations, str):  # the client prints "path = …" lines
        for line in locations.splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "path":
                return value.strip()
    for location in sorted(locations, key=lambda item: not item.get("preferred")) if locations else []:
        return str(location["path"])
    raise SharewrightError("The share has no export location.", hint="Look at: openstack share show quickstart")


def down(places: Places, steps: Steps) -> int:
    """Stop the service, its virtual machines and the daemons we started. Shares and networks are kept."""
    if not places.configuration.exists():
        steps.say("Nothing runs: there is no {places.configuration}.")
        return 0
    settings = load(places.configuration)
    with steps.step("Stopping the service"):
        processes.stop(places.pid_file, mark=str(places.configuration))
    with steps.step("Stopping the virtual machines"):
        power_off(settings, steps.say)
    steps.say("Stopped. ./quickstart goes on with everything as it was; ./quickstart --purge removes it.")
    return 0


def purge(places: Places, steps: Steps) -> int:
    """Leave no network, virtual machine, file or process."""
    if not places.state_dir.exists():
        steps.say(f"There is nothing to remove: no {places.state_dir}.")
        return 0
    if places.configuration.exists():
        with steps.step("Stopping the service"):
            processes.stop(places.pid_file, mark=str(places.configuration))
        settings = load(places.configuration)
    else:
        settings = Settings(state_dir=str(places.state_dir))
    with steps.step("Removing virtual machines, volumes, networks and files"), state_dir_for_purge(settings):
        purge_deployment(settings, steps.say)
    steps.say("Nothing is left. (Debian packages stay, and so does this folder.)")
    return 0


def explain(error: Exception, steps: Steps, places: Places) -> None:
    """Which step failed, why, the log's end, what to do."""
    print(file=sys.stderr)
    if steps.failed:
        print(f"quickstart failed at: {steps.failed}", file=sys.stderr)
    message = error.message if isinstance(error, SharewrightError) else str(error)
    complain(message, error.hint if isinstance(error, SharewrightError) else "")
    if text := processes.tail(places.log):
        print(f"---- the end of {places.log} ----\n{text}\n----", file=sys.stderr)
    print(
        "What to do: run ./quickstart again, it goes on where it stopped. `.venv/bin/sharewright doctor` tells what\n"
        "this host lacks. `./quickstart --purge` removes everything for a fresh start.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
