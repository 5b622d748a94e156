"""Print what failed in a JUnit report of pytest, a short paragraph for each test: its name and why.

usage: show_failures.py REPORT...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

MOST: Final = 40  # tests of a report
LENGTH: Final = 500  # characters of a reason


def main() -> int:
    for report in map(Path, sys.argv[1:]):
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # noqa: S314 (our own file)
        failures = [(case, bad) for case in cases for bad in case if bad.tag in ("failure", "error")]
        print(f"{report.stem}: {len(failures)} of {len(cases)} failed")  # noqa: T201
        reasons: dict[str, list[str]] = {}  # many tests may wait for the same thing
        for case, bad in failures:
            reasons.setdefault(bad.get("message", "")[:LENGTH], []).append(
                f"{case.get('classname')}.{case.get('name')}"
            )
        for reason, names in list(reasons.items())[:MOST]:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print(f"  {names[0]}{others}\n    {reason}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
