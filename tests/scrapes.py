"""Reading metrics as Prometheus does."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families


class Series(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """The answer to one scrape."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {family.name: family for family in text_string_to_metric_families(text)}

    def series(self, name: str, **labels: str) -> Iterator[Series]:
        """Those of a name that have these labels."""
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    yield Series(sample.name, dict(sample.labels), sample.value)

    def sum(self, name: str, **labels: str) -> float:
        """Of their values; 0 when there are none."""
        return sum(each.value for each in self.series(name, **labels))


def scrape(url: str) -> Scrape:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return Scrape(answer.read().decode())


def scrape_registry(registry: CollectorRegistry) -> Scrape:
    return Scrape(generate_latest(registry).decode())
