"""Snapshots of shares, on virtual machines of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.snapshots import Snapshots


@pytest.mark.e2e
class TestSnapshots(Snapshots): ...
