"""Requests are counted under their routes: a caller cannot make new series, and no id gets into one."""

from __future__ import annotations

import uuid

from site_for_tests import Site

from scrapes import scrape_registry
from sharewright.instruments import REGISTRY

COUNT = "sharewright_http_requests_total"


def series() -> dict[tuple[str, str, str], float]:
    return {
        (each.labels["method"], each.labels["route"], each.labels["status"]): each.value
        for each in scrape_registry(REGISTRY).series(COUNT)
    }


def test_requests_by_route_and_status(site: Site) -> None:
    before = series()
    for _ in range(3):
        site.ask("GET", f"/v2/shares/{uuid.uuid4()}")
    site.ask("GET", "/v2/blue/shares")
    site.ask("GET", "/v2/shares", user=None)
    site.ask("GET", "/healthcheck")
    after = series()
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key)}
    assert grown == {
        ("GET", "/v2/shares/{share_id}", "404"): 3,
        ("GET", "/v2/shares", "200"): 1,
        ("GET", "none", "401"): 1,
        ("GET", "/healthcheck", "200"): 1,
    }


def test_callers_cannot_make_series(site: Site) -> None:
    site.ask("GET", "/v2/nothing")
    site.ask("BREW", "/v2/shares")
    before = series()
    for number in range(20):
        site.ask("GET", f"/v2/nothing/{number}")
        site.ask(f"BREW{number}", "/v2/shares")
        site.ask("GET", f"/{number}")
    assert series().keys() - before.keys() <= {("GET", "none", "404")}
    assert not any(method.startswith("BREW") for method, _, _ in series())
