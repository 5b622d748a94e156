"""The real Keystone of the cloud that an openrc file names.

Needs an administrator's openrc file and, as on the test bed, a user ``demo`` (role member in the project ``demo``)
with the same password.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bed import administrator
from keystone_stories import Identity
from keystone_world import World, known_to_keystone

pytestmark = [pytest.mark.openstack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    admin = administrator()
    demo = admin | {"OS_USERNAME": "demo", "OS_PROJECT_NAME": "demo"}
    with known_to_keystone(tmp_path_factory.mktemp("keystone"), admin, demo) as world:
        yield world


class TestKeystone(Identity): ...
