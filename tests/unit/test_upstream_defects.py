"""docs/upstream-defects.md: every defect once, with an answer, and no test that does not exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/upstream-defects.md").read_text()
ROW = re.compile(r"^\| (D-\d\d) \| (.+?) \| \*\*(impossible|tested|open)\*\*(.*) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
LAST = 79


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions and methods of a file that pytest runs."""
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_defect_has_one_row() -> None:
    assert [row[0] for row in ROW.findall(PAGE)] == [f"D-{number:02}" for number in range(1, LAST + 1)]
    assert PAGE.count("\n| D-") == LAST, "a row is malformed"


def test_every_answer_says_why() -> None:
    for identifier, _, answer, reason in ROW.findall(PAGE):
        assert reason.startswith((": ", " until ")), identifier
        assert len(reason) > 10, identifier
        assert answer != "tested" or TEST.search(reason), f"{identifier} names no test"


def test_every_named_test_exists() -> None:
    named = TEST.findall(PAGE)
    assert len(named) == PAGE.count(".py::")
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / "tests" / path).is_file() or name not in names_in(ROOT / "tests" / path)
    ]
    assert missing == []
