"""The driver of docs/write-a-driver.md on virtual machines, with an rsync client in a tenant's network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_vm import ClientVm, CommandFailed
from deployment import Deployment, purge_leftovers, wait_for
from domains import domain
from sharewright.clouds.open import open_cloud
from sharewright.configuration_file import load
from sharewright.image.additions import read_additions
from sharewright.image.build import build_image
from sharewright.store.tables import service_instances
from stories_on_clouds.machines import share_instance
from tenants import Shares, Tenant

EXAMPLE = Path(__file__).parents[2] / "examples/rsync_driver"
IMAGE = Path(os.environ.get("SHAREWRIGHT_TEST_RSYNC_IMAGE", "/var/lib/sharewright/images/rsync"))
NAME = "swrsync"
NETWORK = "10.77.9.0/24"
CONFIGURATION = f"""
[worker]
lease_seconds = 10
reconcile_seconds = 5
unused_server_seconds = 3600

[backends.rsync]
driver = "rsync_driver:RSYNC"
image = "{IMAGE}"
service_network_cidr = "10.252.192.0/18"
"""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    build_image(IMAGE, additions=read_additions(EXAMPLE / "image.toml"), progress=print)
    purge_leftovers("sharewright-rsync")
    directory = Path("/var/tmp") / f"sharewright-rsync-{os.getpid()}"
    directory.mkdir(mode=0o711)
    made = Deployment(
        directory,
        CONFIGURATION,
        name=NAME,
        users={"admin": ("admin", "admin member reader"), "green": ("green", "member reader")},
        head='enabled_share_protocols = ["RSYNC"]\n',
        environment={"PYTHONPATH": str(EXAMPLE)},
    )
    try:
        made.start()
        yield made
    finally:
        print(made.tail(200))
        made.purge()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def green(deployment: Deployment) -> Iterator[Shares]:
    """A tenant whose machine has the rsync client."""
    settings = load(deployment.config)
    cloud = open_cloud(settings, settings.backends["rsync"])
    network_id = deployment.command("network", "create", f"{NAME}-green", NETWORK, "--project", "green", "--id-only")
    network_id = network_id.strip()
    subnet = cloud.networks.find_subnet(network_id, None)
    assert subnet is not None
    client = ClientVm.boot(cloud, subnet, f"{NAME}-client", str(IMAGE), deployment.directory / "client")
    try:
        sdk = deployment.sdk("green")
        share_network = sdk.shared_file_system.create_share_network(
            name="green-network", neutron_net_id=network_id, neutron_subnet_id=subnet.id
        )
        client.wait()
        tenant = Tenant("green", network_id, subnet.id, NETWORK, client, sdk, share_network.id)
        yield Shares(tenant, protocol="RSYNC")
    finally:
        client.delete()
        cloud.close()


@pytest.fixture(scope="module")
def share(green: Shares) -> Iterator[str]:
    share_id = green.create("rsync", share_type="default")
    green.wait(share_id)
    green.client.run(
        "mkdir -p /root/data && head -c 8388608 /dev/urandom > /root/data/file && echo small > /root/data/b"
    )
    yield share_id
    green.delete(share_id)


@pytest.fixture
def admitted(green: Shares, share: str) -> str:
    """The share, with a rule for the client and data, whichever tests were run before."""
    if not any(rule.access_to == green.client.address for rule in green.api.access_rules(green.api.get_share(share))):
        green.allow(share, green.client.address)
        synchronise(green, share)
    return share


REFUSED = r"Unknown module|access denied|Connection refused"  # the last: no share of the server admits anybody


def synchronise(green: Shares, share_id: str, *, to: str = "") -> str:
    return green.client.run(f"rsync -a --timeout=30 /root/data/ {green.export(share_id)}/{to}")


def test_a_client_writes_and_reads_back(green: Shares, share: str) -> None:
    assert green.export(share).startswith("rsync://10.77.9.")
    with pytest.raises(CommandFailed, match=REFUSED):
        synchronise(green, share)  # nobody is admitted yet
    green.allow(share, green.client.address)
    synchronise(green, share)
    green.client.run(
        f"rm -rf /root/back && rsync -a {green.export(share)}/ /root/back/ && diff -r /root/data /root/back"
    )
    assert "rsync" not in green.client.run(f"rsync {green.export(share).rpartition('/')[0]}/")  # modules are not listed


def test_only_who_is_allowed(green: Shares, admitted: str) -> None:
    other = green.create("other", share_type="default")
    green.wait(other)
    green.allow(other, "10.77.9.250")
    with pytest.raises(CommandFailed, match=REFUSED):
        synchronise(green, other)
    rule = green.allow(other, NETWORK)
    synchronise(green, other, to="x")
    assert "b" not in green.client.run(f"rsync {green.export(admitted)}/x || true").split()  # the shares are separate
    green.deny(rule, other)
    with pytest.raises(CommandFailed, match=REFUSED):
        synchronise(green, other)
    assert "file" in green.client.run(f"rsync {green.export(admitted)}/")  # the neighbour is served as before
    green.delete(other)


def test_a_transfer_ends_with_its_rule(green: Shares, admitted: str) -> None:
    """Who is denied loses the connection that is open, too; a share that is deleted meanwhile goes."""
    other = green.create("running", share_type="default")
    green.wait(other)
    rule = green.allow(other, green.client.address)
    export = green.export(other)
    green.client.run(f"systemd-run --quiet --unit=transfer rsync -a --bwlimit=64 /root/data/ {export}/")
    wait_for("the transfer to be under way", lambda: ".file." in listing(green, export), seconds=60)
    green.deny(rule, other)
    state = "systemctl show --property ActiveState,ExecMainStatus transfer"
    wait_for("the transfer to end", lambda: "ActiveState=failed" in green.client.run(state), seconds=60)
    assert "ExecMainStatus=0" not in green.client.run(state)
    green.delete(other)


def test_a_read_only_rule_errors_alone(green: Shares, admitted: str) -> None:
    rule = green.allow(admitted, "10.77.9.99", "ro", wait=False)
    wait_for("the rule to be refused", lambda: green.api.get_access_rule(rule).state == "error", seconds=60)
    synchronise(green, admitted)
    green.deny(rule, admitted)


def test_a_reboot_with_the_controller_down(green: Shares, admitted: str, deployment: Deployment) -> None:
    synchronise(green, admitted)
    export = green.export(admitted)
    server_id = str(share_instance(deployment, admitted).share_server_id)
    deployment.stop()
    try:
        with domain(server_id) as found:
            found.reset()
        wait_for("the share to be served again", lambda: "file" in listing(green, export), seconds=180)
    finally:
        deployment.start()
    assert "file" in listing(green, green.export(admitted))


def listing(green: Shares, export: str) -> str:
    return green.client.run(f"rsync --contimeout=5 {export}/", check=False)


def test_ssh_is_for_the_controller_only(green: Shares, admitted: str, deployment: Deployment) -> None:
    server_id = str(share_instance(deployment, admitted).share_server_id)
    with deployment.store() as store, store.read() as tx:
        row = tx.execute(service_instances.select().where(service_instances.c.id == server_id)).one()
    address = row.export_addresses[0]
    assert green.client.opens((address, port) for port in (873, 22, 2049)) == {(address, 873)}
