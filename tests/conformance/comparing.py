"""What a run of the suite passed, against what it is expected to pass.

Three lists per mode stand beside this file: ``upstream-MODE.txt`` has the tests that Manila 23.0.1 with its dummy
driver passes, ``expected-MODE.txt`` those that we do, and ``reasons-MODE.txt`` says why not of every other one of
upstream's: a regular expression over the test's id, two spaces or more, the reason. Of the clients' own suites
``all-CLIENT.txt`` has every test, in place of upstream's.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

HERE = Path(__file__).parent
MODES = ("dhss-true", "dhss-false")
CLIENTS = ("manilaclient", "openstacksdk")
_TAGS = re.compile(r"\[[^\]]*\]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``missing``: expected and not passed, with what became of each; ``new``: passed and not expected yet."""

    passed: frozenset[str]
    missing: Mapping[str, str]
    new: frozenset[str]

    @property
    def is_good(self) -> bool:
        return not self.missing


def read_list(path: Path) -> frozenset[str]:
    """The ids in a file, one in each line."""
    return frozenset(line.strip() for line in path.read_text().splitlines() if line.strip() and line[0] != "#")


def upstream(mode: str) -> frozenset[str]:
    return read_list(HERE / f"upstream-{mode}.txt")


def passed_elsewhere(mode: str) -> frozenset[str]:
    """What may be asked of us: the tests that upstream passes, or all that a client's suite has."""
    return read_list(HERE / f"all-{mode}.txt") if mode in CLIENTS else upstream(mode)


def expected(mode: str) -> frozenset[str]:
    return read_list(HERE / f"expected-{mode}.txt")


def reasons(mode: str) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of tests that are not expected to pass, and why. The first that matches counts."""
    found = []
    for line in (HERE / f"reasons-{mode}.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, reason = re.split(r"\s{2,}", line.strip(), maxsplit=1)
            found.append((re.compile(pattern), reason))
    return found


def without_reason(mode: str) -> list[str]:
    """Tests that may be asked of us, that are not expected here, and of which nothing says why."""
    patterns = reasons(mode)
    left = passed_elsewhere(mode) - expected(mode)
    return sorted(test for test in left if not any(pattern.search(test) for pattern, _ in patterns))


def read_results(source: TextIO) -> dict[str, str]:
    """Test id → "success", "fail", "skip"…, from the CSV of subunit2csv."""
    return {_TAGS.sub("", row["test"]): row["status"] for row in csv.DictReader(source)}


def compare(wanted: Iterable[str], results: Mapping[str, str]) -> Comparison:
    """``results``: test id → what became of it."""
    wanted = frozenset(wanted)
    passed = frozenset(test for test, status in results.items() if status == "success")
    missing = {test: results.get(test, "not run") for test in sorted(wanted - passed)}
    return Comparison(passed=passed, missing=missing, new=passed - wanted)
