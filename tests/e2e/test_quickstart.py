"""``./quickstart`` as a user runs it: up, again, down, up, purge; with the packages and the image of this host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from ports import free_port
from sharewright.cli.quickstart import source_stamp

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


class Quickstart:
    """One quickstart in a directory of its own."""

    def __init__(self, state_dir: Path, image: Path, network: str) -> None:
        self.state_dir = state_dir
        self.options = [
            f"--state-dir={state_dir}", f"--port={free_port()}", f"--network={network}", f"--image={image}"
        ]  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> str:
        """What it prints. ``code`` is the exit code to expect."""
        done = subprocess.run(
            [ROOT / "quickstart", *self.options, *arguments],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == code, done.stdout
        return done.stdout

    @property
    def deployment(self) -> str:
        configuration = (self.state_dir / "sharewright.toml").read_text()
        found = re.search(r'^deployment = "(.*)"$', configuration, re.MULTILINE)
        assert found is not None
        return found[1]

    def processes(self) -> list[str]:
        """Command lines of processes that have to do with this state directory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.state_dir) in text and "pytest" not in text:
                found.append(text)
        return found


def of_deployment(deployment: str) -> list[str]:
    """Names of domains and networks in libvirt that carry the deployment's name."""
    try:
        connection = libvirt.open("qemu:///system")
    except libvirt.libvirtError:
        return []  # the daemons were the quickstart's own, and are gone with it
    try:
        things = [*connection.listAllDomains(0), *connection.listAllNetworks(0), *connection.listAllStoragePools(0)]
        return [thing.name() for thing in things if f'"{deployment}"' in thing.XMLDesc(0).replace("'", '"')]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def quickstart(image: Path) -> Iterator[Quickstart]:
    state_dir = Path("/var/tmp/sharewright-quickstart-test")
    made = Quickstart(state_dir, image, "10.78.3.0/24")
    try:
        yield made
    finally:
        if state_dir.exists():
            made.run("--purge")


def test_the_whole_life(quickstart: Quickstart) -> None:
    program = source_stamp()
    page = quickstart.run()
    assert "Sharewright works on this host." in page
    export = re.search(r"the share +(10\.78\.3\.\d+:/shares/share-\S+)", page)
    assert export is not None
    assert "SHA-256 equal" in page

    again = quickstart.run()
    assert not re.search(r"Installing|Service image: |the share server boots", again), "all that is there is used again"
    assert export[1] in again
    # A service of an older program is started again; somebody may be working on the program while this runs.
    assert "The service runs already" in again or source_stamp() != program

    environment = (quickstart.state_dir / "quickstart" / "openstack.env").read_text()
    listing = subprocess.run(
        ["/bin/bash", "-euc", f"{environment}\nopenstack share list -f value -c Name\nsharewright network list"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "quickstart" in listing
    assert "10.78.3.0/24" in listing

    quickstart.run("--down")
    assert not quickstart.processes()
    assert not quickstart.run("--down").count("error")

    back = quickstart.run()
    assert export[1] in back

    deployment = quickstart.deployment
    quickstart.run("--purge")
    assert not quickstart.state_dir.exists()
    assert not quickstart.processes()
    assert not of_deployment(deployment)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "sharewright" not in tables or deployment not in tables
    assert "nothing to remove" in quickstart.run("--purge")


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    failing = Quickstart(Path("/var/tmp/sharewright-quickstart-failing"), tmp_path / "no-image", "10.78.4.0/24")
    try:
        text = failing.run(code=1)
        assert "quickstart failed at:" in text
        assert "no-image" in text
        assert "What to do:" in text
        assert "Traceback" not in text
    finally:
        failing.run("--purge")
    assert not failing.state_dir.exists()
