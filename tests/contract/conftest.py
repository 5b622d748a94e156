"""One suite, every cloud: simulated always, libvirt (marker e2e) where there is root, OpenStack (marker openstack)
where there is one: ./check --openstack starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_sites import LibvirtSite, OpenStackSite, SimulatedSite, Site, TestBed

from sharewright.clouds.contract import Cloud


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """libvirtd, started for the whole run where nobody else has, and then ended after it."""
    if os.geteuid() != 0:
        pytest.fail("The libvirt tests need root; leave them out with: -m 'not e2e'.")
    from sharewright.clouds.libvirt.daemons import Daemons

    ours = Daemons(tmp_path_factory.mktemp("daemons") / "started.json")
    if not Path("/run/systemd/system").is_dir():
        ours.start()
    yield
    ours.stop()


@pytest.fixture(scope="session")
def test_bed() -> Iterator[TestBed]:
    """The OpenStack that SHAREWRIGHT_OPENRC names, or the test bed's."""
    openrc = Path(os.environ.get("SHAREWRIGHT_OPENRC", "/var/tmp/openstack-testbed/etc/openrc"))
    if not openrc.exists():
        pytest.fail(f"There is no {openrc}; ./check --openstack starts the test bed. Or: -m 'not openstack'.")
    bed = TestBed(openrc)
    yield bed
    bed.remove()


@pytest.fixture(
    params=[
        "simulated",
        pytest.param("libvirt", marks=pytest.mark.e2e),
        pytest.param("openstack", marks=pytest.mark.openstack),
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "libvirt":
        request.getfixturevalue("daemons")
        place: Site = LibvirtSite()
    elif request.param == "openstack":
        place = OpenStackSite(request.getfixturevalue("test_bed"))
    else:
        place = SimulatedSite(tmp_path)
    try:
        yield place
    finally:
        place.remove()


@pytest.fixture
def cloud(site: Site) -> Cloud:
    cloud = site.open()
    cloud.check()
    return cloud


@pytest.fixture
def libvirt_site(daemons: None) -> Iterator[LibvirtSite]:
    place = LibvirtSite()
    try:
        yield place
    finally:
        place.remove()
