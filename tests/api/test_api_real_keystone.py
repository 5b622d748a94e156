"""A real Keystone, the release from PyPI: the stories that the test bed's Keystone has, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keystone_from_pypi import demo_user, is_installed, running_keystone
from keystone_stories import Identity
from keystone_world import World, known_to_keystone

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not is_installed():
        pytest.skip("there is no Keystone in build/keystone/venv; ./check --unit without --no-install puts it there")
    with running_keystone(tmp_path_factory.mktemp("keystone")) as admin:
        demo = demo_user(admin)
        with known_to_keystone(tmp_path_factory.mktemp("service"), admin, demo) as world:
            yield world


class TestRealKeystone(Identity): ...
