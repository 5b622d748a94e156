"""docs/compatibility.md is what the tables and the lists say now."""

from __future__ import annotations

import comparing
import compatibility
import pytest

from sharewright.api.app import ROUTES


def test_the_page_is_up_to_date() -> None:
    assert compatibility.PAGE.read_text() == compatibility.page(), "run: python tests/conformance/compatibility.py"


def test_every_operation_and_every_test_has_its_resource() -> None:
    """There is no resource without operations, and none that has all the tests."""
    assert {compatibility.subject_of(route) for route in ROUTES} == {name for name, _, _ in compatibility.SUBJECTS}


@pytest.mark.parametrize("mode", comparing.MODES)
def test_no_test_is_counted_twice(mode: str) -> None:
    shown = [compatibility.judged(name, mode) for name, _, _ in compatibility.SUBJECTS]
    assert sum(len(of) for _, of in shown) == len(comparing.upstream(mode))
    assert sum(len(passed) for passed, _ in shown) == len(comparing.upstream(mode) & comparing.expected(mode))
