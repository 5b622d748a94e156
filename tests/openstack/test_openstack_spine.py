"""The main job on a real OpenStack; the stock client finds the service in Keystone's catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloud_deployment import CloudDeployment
from deployment import Deployment
from stories_on_clouds.isolation import Isolation
from stories_on_clouds.spine import Spine
from tenants import Tenant

pytestmark = pytest.mark.openstack


class TestSpine(Spine):
    @pytest.fixture
    def catalogue(self, deployment: CloudDeployment) -> Iterator[None]:
        with deployment.in_the_catalogue():
            yield

    def test_the_stock_command_line_tells_the_whole_story(  # type: ignore[override]
        self, catalogue: None, deployment: Deployment, tenants: dict[str, Tenant]
    ) -> None:
        super().test_the_stock_command_line_tells_the_whole_story(deployment, tenants)


class TestIsolation(Isolation): ...
