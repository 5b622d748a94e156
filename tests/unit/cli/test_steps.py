"""Progress of long work: beginning, signs of life, end, and which step failed."""

from __future__ import annotations

import io
import time

import pytest

from sharewright.cli.quickstart import export_path, parser
from sharewright.cli.steps import Steps
from sharewright.errors import SharewrightError


def test_signs_of_life_while_it_lasts() -> None:
    output = io.StringIO()
    steps = Steps(output, sign_of_life=0.05)
    with steps.step("Work"):
        time.sleep(0.3)
    lines = output.getvalue().splitlines()
    assert lines[0] == "[  0 s] Work …"
    assert 2 <= sum("so far" in line for line in lines) <= 6
    count = len(lines)
    time.sleep(0.15)
    assert len(output.getvalue().splitlines()) == count


def test_the_first_step_that_failed_is_remembered() -> None:
    steps = Steps(io.StringIO())
    with pytest.raises(ValueError, match="no"), steps.step("Outer"), steps.step("Inner"):
        raise ValueError("no")
    assert steps.failed == "Inner"


@pytest.mark.parametrize(
    "locations",
    [
        [{"path": "10.0.0.2:/b", "preferred": False}, {"path": "10.0.0.1:/a", "preferred": True}],
        "\npath = 10.0.0.1:/a\nid = 1\npreferred = True\n",
    ],
)
def test_export_path(locations: object) -> None:
    assert export_path({"export_locations": locations}) == "10.0.0.1:/a"


def test_no_export_path() -> None:
    with pytest.raises(SharewrightError, match="no export location"):
        export_path({"export_locations": []})


def test_quickstart_refuses_down_and_purge_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--down", "--purge"])
    assert "not allowed with" in capsys.readouterr().err
