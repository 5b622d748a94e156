"""The configuration reference is complete and current."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from sharewright.cli.reference import keys, reference, toml
from sharewright.cli.upstream_options import OPTIONS, upstream_options
from sharewright.configuration_file import load, parse
from sharewright.setting_descriptions import DESCRIPTIONS
from sharewright.settings import Settings

ROOT = Path(__file__).parents[3]


def test_every_key_is_described_and_nothing_else() -> None:
    assert keys() == set(DESCRIPTIONS)


def test_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference(), "Run: sharewright config reference > docs/configuration.md"


def test_the_page_of_upstreams_options_is_current() -> None:
    page = (ROOT / "docs" / "upstream-options.md").read_text()
    assert page == upstream_options(), "Run: sharewright config upstream > docs/upstream-options.md"


def test_every_upstream_option_has_an_answer_that_exists() -> None:
    """The list beside this file is of the options that upstream's modules have."""
    lines = Path(__file__).with_name("upstream_options.txt").read_text().splitlines()
    wanted = [tuple(line.split(": ")) for line in lines if line and not line.startswith("#")]
    answered = [(title, name) for title, options in OPTIONS.items() for name in options]
    assert sorted(wanted) == sorted(answered)
    for options in OPTIONS.values():
        for name, (_, answer) in options.items():
            named = re.findall(r"`((?:[a-z_]+\.)?[A-Za-z_]+(?:\.[a-z_]+)*)`", answer)
            if not re.match(r"(Always|Fixed|Dropped|Open)[:,]", answer):
                assert named, f"{name}: neither a key of ours nor a reason"
                assert named[0] in DESCRIPTIONS, name
            for key in named:
                assert "." not in key or key in DESCRIPTIONS, f"{name}: there is no {key}"


def test_example_is_right() -> None:
    settings = load(ROOT / "docs" / "examples" / "sharewright.toml")
    assert set(settings.backends) == {"standard", "large"}


def test_toml_reads_back() -> None:
    settings = parse(
        {
            "state_dir": '/srv/a "quoted" \\ path\twith\u00e4',
            "identity": {"roles": ["reader"]},
            "backends": {"a.b": {"cloud": "simulated"}, "c": {"max_over_subscription_ratio": 1.5}},
        }
    )
    assert parse(tomllib.loads(toml(msgspec.to_builtins(settings)))) == settings
    assert parse(tomllib.loads(toml(msgspec.to_builtins(Settings())))) == Settings()
