"""Share networks that name no network are on the backend's default one; a simulated cloud may have any network."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from site_for_tests import Site, make_settings, running_site

from sharewright.errors import ConfigurationError
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.store.database import Store

NETWORK, FIRST, SECOND = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture
def standalone(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    backend = {"cloud": "simulated", "default_network_id": NETWORK, "default_subnet_ids": [FIRST, SECOND]}
    settings = make_settings(
        tmp_path, simulated={"any_network": True}, backends={"one": backend}, worker={"poll_seconds": 0.2}
    )
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            yield site


def test_a_share_network_without_ids_is_on_all_subnets_of_the_default_network(standalone: Site) -> None:
    site = standalone
    network = site.expect(200, "POST", "/v2/share-networks", {"share_network": {}})["share_network"]
    share = site.share(network=network["id"])
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "available")
    locations = site.expect(200, "GET", f"/v2/shares/{share['id']}/export_locations")["export_locations"]
    assert sorted(each["path"].startswith("[") for each in locations) == [False, True]
    (subnet,) = site.expect(200, "GET", f"/v2/share-networks/{network['id']}")["share_network"]["share_network_subnets"]
    assert (subnet["neutron_net_id"], subnet["ip_version"]) == (None, 4)
    rule = {"allow_access": {"access_type": "ip", "access_to": "2001:db8::/64"}}
    site.expect(200, "POST", f"/v2/shares/{share['id']}/action", rule)
    site.expect(202, "DELETE", f"/v2/shares/{share['id']}")
    site.wait_gone(f"/v2/shares/{share['id']}")


def test_any_network_is_there_by_any_name(standalone: Site) -> None:
    site = standalone
    network = site.network(neutron_net_id="net-id-1", neutron_subnet_id="subnet-id-1")["id"]
    share = site.share(network=network)
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "available")


def test_without_a_default_network_the_share_says_what_is_missing(working_site: Site) -> None:
    site = working_site
    network = site.expect(200, "POST", "/v2/share-networks", {"share_network": {}})["share_network"]
    share = site.share(network=network["id"])
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "error")
    named = site.network(neutron_net_id="net-id-1", neutron_subnet_id="subnet-id-1")["id"]
    share = site.share(network=named)
    site.wait(f"/v2/shares/{share['id']}", "share", "status", "error")


@pytest.mark.parametrize(
    "values",
    [
        {"default_network_id": NETWORK},
        {"default_subnet_ids": [FIRST]},
        {"default_network_id": "x", "default_subnet_ids": [FIRST]},
        {"default_network_id": NETWORK, "default_subnet_ids": ["x"]},
        {
            "default_network_id": NETWORK, "default_subnet_ids": [FIRST],
            "admin_network_id": NETWORK, "admin_subnet_id": FIRST,
        },
    ],
)  # fmt: skip
def test_half_a_default_network_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"default_(network_id|subnet_ids)"):
        make_settings(tmp_path, backends={"one": {"cloud": "simulated", **values}})
