"""The main job on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.spine import Spine


@pytest.mark.e2e
class TestSpine(Spine): ...
