"""Snapshots of shares, on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.snapshots import Snapshots

pytestmark = pytest.mark.openstack


class TestSnapshots(Snapshots): ...
