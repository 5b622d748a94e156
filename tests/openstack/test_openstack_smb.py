"""SMB shares on a real OpenStack."""

from __future__ import annotations

import pytest

from stories_on_clouds.smb import Smb

pytestmark = pytest.mark.openstack


class TestSmb(Smb): ...
