"""SMB shares on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.smb import Smb


@pytest.mark.e2e
class TestSmb(Smb): ...
