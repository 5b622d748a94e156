"""Fixtures of the guest's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_machines import Machine, Session


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def session(machine: Machine) -> Iterator[Session]:
    running = Session(machine)
    yield running
    running.process.kill()
    running.close()
