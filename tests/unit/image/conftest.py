"""Fixtures for the service image's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_help import make_service_tree


@pytest.fixture
def service_tree(tmp_path: Path) -> Path:
    return make_service_tree(tmp_path / "tree")
