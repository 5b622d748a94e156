"""Shares that change their size, on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.resize import Resize

pytestmark = pytest.mark.openstack


class TestResize(Resize): ...
