"""Share types that choose, on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.kinds import ShareTypes

pytestmark = pytest.mark.openstack


class TestShareTypes(ShareTypes): ...
