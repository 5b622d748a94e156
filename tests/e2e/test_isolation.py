"""Tenants on libvirt's networks are hostile to each other and to us."""

from __future__ import annotations

import pytest

from deployment import Deployment
from stories_on_clouds.isolation import Isolation
from tenants import Shares


@pytest.mark.e2e
class TestIsolation(Isolation):
    def test_no_tenant_reaches_the_controller(self, red: Shares, blue: Shares, deployment: Deployment) -> None:
        """On libvirt the gateway of a tenant's network is this host."""
        for shares in (red, blue):
            gateway = shares.tenant.cidr.replace("0/24", "1")
            assert shares.client.opens((gateway, port) for port in (22, deployment.port, 16509)) == set(), gateway
