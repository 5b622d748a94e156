"""Rules that change under clients, on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.access import Access


@pytest.mark.e2e
class TestAccess(Access): ...
