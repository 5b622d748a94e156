"""Share types that choose, on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.group_snapshots import GroupSnapshots
from stories_on_clouds.kinds import ShareTypes

pytestmark = pytest.mark.openstack


class TestShareTypes(GroupSnapshots, ShareTypes):
    MANY = 30  # volumes of Ceph on one machine, each attached by Nova: a hundred take longer than all the rest
