"""Shares that change their size, on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.resize import Resize


@pytest.mark.e2e
class TestResize(Resize): ...
