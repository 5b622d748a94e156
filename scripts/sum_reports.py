"""Add up the JUnit reports of several pytest runs and print pytest's closing line for all of them.

usage: sum_reports.py DIRECTORY SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main() -> int:
    directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
    total = failures = errors = skipped = 0
    reports = sorted(directory.glob("*.xml"))
    for report in reports:
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314 (our own file)
            total += int(suite.get("tests", 0))
            failures += int(suite.get("failures", 0))
            errors += int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    if not reports:
        return 0
    passed = total - failures - errors - skipped
    print(f"{passed} passed, {failures} failed, {errors} errors, {skipped} skipped in {seconds:.0f}s")  # noqa: T201
    return 1 if failures or errors else 0


if __name__ == "__main__":
    sys.exit(main())
