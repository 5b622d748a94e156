"""``./check`` looks for the tests of each stage in directories of that stage only; here is that none is elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = re.findall(r'tests (\w+) ("[^"]+"|\S+) "?(?:not )?\w+', (ROOT / "check").read_text())


@pytest.mark.parametrize("stage", ["chaos", "e2e", "openstack"])
def test_no_test_of_a_stage_is_elsewhere(stage: str) -> None:
    (directories,) = [named.strip('"').split() for name, named in STAGES if name == stage]
    marked = {
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(rf"\bmark\.{stage}\b", path.read_text())
    }
    assert marked, stage
    assert not [path for path in marked if not any(path.is_relative_to(each) for each in directories)]
