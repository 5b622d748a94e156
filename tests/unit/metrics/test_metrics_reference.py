"""docs/metrics.md lists what is told, under names as Prometheus wants them; the alerts use nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from scrapes import scrape_registry
from sharewright.instruments import REGISTRY
from sharewright.metrics.deployment import DeploymentCollector
from sharewright.metrics.reference import deployment_rows, process_rows, reference
from sharewright.store.database import Store

ROOT = Path(__file__).parents[3]
ROWS = [*process_rows(), *deployment_rows(detailed=False), *deployment_rows(detailed=True)]
OF_PYTHON = ("process_", "python_")


def alert_rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus/sharewright.rules.yml").read_text())["groups"]
    return list(group["rules"])


def test_page_is_current() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == reference(), "Run: sharewright config metrics > docs/metrics.md"


def test_it_lists_exactly_what_is_told(sqlite_store: Store) -> None:
    registry = CollectorRegistry()
    registry.register(DeploymentCollector(sqlite_store, most_detailed_shares=10))
    told = {**scrape_registry(REGISTRY).families, **scrape_registry(registry).families}
    listed = {row.name.removesuffix("_total") for row in ROWS}
    assert listed == {name for name in told if not name.startswith(OF_PYTHON)}
    assert len(listed) == len(ROWS)


def test_names_follow_the_conventions() -> None:
    for row in ROWS:
        assert re.fullmatch(r"sharewright(_[a-z0-9]+)+", row.name)
        assert (row.kind == "counter") == row.name.endswith("_total"), row.name
        assert not re.search(r"_(ms|kib|gib|kilobytes|gigabytes|minutes)\b", row.name), "base units"
        if row.kind == "histogram":
            assert row.name.endswith("_seconds")
        assert row.text[0].isupper() or row.text[0].isdigit()
        assert not row.text.endswith(".")


def test_alerts_ask_for_what_is_told() -> None:
    labels = {row.name: set(row.labels) for row in ROWS}
    labels |= {f"{row.name}_bucket": {*row.labels, "le"} for row in ROWS if row.kind == "histogram"}
    for rule in alert_rules():
        for name, selector in re.findall(r"(sharewright_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            assert name in labels, rule["alert"]
            assert set(re.findall(r"(\w+)(?:!=|=~|=)", selector)) <= labels[name], rule["alert"]
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            names = re.findall(r"sharewright_\w+", rule["expr"])
            assert label == "instance" or all(label in labels[name] for name in names), rule["alert"]


def test_the_units_and_the_scrape_configuration_agree() -> None:
    ports = {
        prefix.replace("%i", "1")
        for unit in (ROOT / "deploy/systemd").glob("*.service")
        for prefix in re.findall(r"--metrics-port (\S+)", unit.read_text())
    }
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in scraped["scrape_configs"]}
    targets = [target for job in jobs.values() for group in job["static_configs"] for target in group["targets"]]
    assert {target.partition(":")[2] for target in targets} == ports
    assert jobs["sharewright-deployment"]["metrics_path"] == "/deployment"
    assert scraped["rule_files"] == ["sharewright.rules.yml"]
