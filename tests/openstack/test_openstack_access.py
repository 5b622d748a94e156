"""Rules that change under clients, on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.access import Access

pytestmark = pytest.mark.openstack


class TestAccess(Access): ...
