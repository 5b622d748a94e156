"""Share types that choose, on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.group_snapshots import GroupSnapshots
from stories_on_clouds.kinds import ShareTypes


@pytest.mark.e2e
class TestShareTypes(GroupSnapshots, ShareTypes): ...
