"""The configuration reference is complete and current."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from sharewright.cli.reference import UPSTREAM, keys, reference, toml
from sharewright.setting_descriptions import DESCRIPTIONS
from sharewright.settings import Settings, load, parse

ROOT = Path(__file__).parents[3]


def test_every_key_is_described_and_nothing_else() -> None:
    assert keys() == set(DESCRIPTIONS)


def test_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference(), "Run: sharewright config reference > docs/configuration.md"


def test_every_upstream_option_has_an_answer_that_exists() -> None:
    assert len(UPSTREAM) == 12 + 28
    for answer in UPSTREAM.values():
        for key in re.findall(r"`([a-z_]+\.[A-Za-z_.]+)`", answer):
            assert key in DESCRIPTIONS


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
