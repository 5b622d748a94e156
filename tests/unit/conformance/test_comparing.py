"""The lists of the conformance suite: complete, without contradictions, and compared as they say."""

from __future__ import annotations

from io import StringIO

import comparing
import pytest

LISTS = comparing.MODES + comparing.CLIENTS


@pytest.mark.parametrize("mode", LISTS)
def test_every_test_that_upstream_passes_is_expected_or_has_its_reason(mode: str) -> None:
    assert comparing.without_reason(mode) == []


@pytest.mark.parametrize("mode", LISTS)
def test_every_reason_is_needed(mode: str) -> None:
    left = comparing.passed_elsewhere(mode) - comparing.expected(mode)
    unused = [
        pattern.pattern for pattern, _ in comparing.reasons(mode) if not any(pattern.search(test) for test in left)
    ]
    assert unused == []


@pytest.mark.parametrize("client", comparing.CLIENTS)
def test_only_tests_that_there_are_are_expected(client: str) -> None:
    assert comparing.expected(client) <= comparing.passed_elsewhere(client)


def test_what_was_expected_and_did_not_pass_is_told() -> None:
    results = {"a": "success", "b": "failure", "d": "success", "e": "skip"}
    comparison = comparing.compare(["a", "b", "c"], results)
    assert comparison.missing == {"b": "failure", "c": "not run"}
    assert comparison.new == {"d"}
    assert not comparison.is_good
    assert comparing.compare(["a"], results).is_good


def test_results_are_read_without_the_tags_of_tests() -> None:
    text = 'test,status,start_time,stop_time\n"a.b.test_c[id-1,smoke]",success,1,2\nd,skip,1,2\n'
    assert comparing.read_results(StringIO(text)) == {"a.b.test_c": "success", "d": "skip"}
