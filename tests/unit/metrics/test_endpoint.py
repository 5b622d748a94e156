"""The address that Prometheus scrapes."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from scrapes import scrape
from sharewright.errors import ConfigurationError
from sharewright.metrics.endpoint import MetricsEndpoint
from sharewright.settings import Metrics
from sharewright.store.database import Store


def status(url: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1"])
def test_two_pages_and_nothing_else(sqlite_store: Store, listen: str) -> None:
    with MetricsEndpoint(sqlite_store, Metrics(listen=listen)) as endpoint:
        before = scrape(f"{endpoint.url}/metrics")
        assert "process_cpu_seconds" in before.families
        assert "sharewright_shares" in scrape(f"{endpoint.url}/deployment").families
        after = scrape(f"{endpoint.url}/metrics")
        name = "sharewright_database_statements_total"
        assert after.sum(name) > before.sum(name), "the scrape's own statements"
        for path in ("/", "/metrics/", "/metrics/x", "/v2"):
            assert status(endpoint.url + path) == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert status(f"{endpoint.url}/metrics", method) == 405


def test_a_database_that_does_not_answer_is_an_error_not_an_empty_page(sqlite_store: Store) -> None:
    with MetricsEndpoint(sqlite_store, Metrics()) as endpoint:
        with sqlite_store.begin() as tx:
            tx.exec_driver_sql("ALTER TABLE pools RENAME TO gone")
        assert status(f"{endpoint.url}/deployment") == 503
        assert status(f"{endpoint.url}/metrics") == 200
        with sqlite_store.begin() as tx:
            tx.exec_driver_sql("ALTER TABLE gone RENAME TO pools")
        assert status(f"{endpoint.url}/deployment") == 200


def test_one_answer_about_the_deployment_is_made_at_a_time(sqlite_store: Store) -> None:
    asking: list[int] = []
    event.listen(sqlite_store._reader, "before_cursor_execute", lambda *_: asking.append(threading.get_ident()))
    with MetricsEndpoint(sqlite_store, Metrics()) as endpoint, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(status, [f"{endpoint.url}/deployment"] * 24)) == {200}
    each = len(asking) // 24
    assert each >= 5
    turns = [set(asking[start : start + each]) for start in range(0, len(asking), each)]
    assert [len(threads) for threads in turns] == [1] * 24, "no two at once"


def test_a_taken_port_is_told(sqlite_store: Store) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 port \d+ cannot be listened on: Address .* in use"):
            MetricsEndpoint(sqlite_store, Metrics(port=holder.getsockname()[1]))


def test_it_ends_with_its_block(sqlite_store: Store) -> None:
    with MetricsEndpoint(sqlite_store, Metrics()) as endpoint:
        url = endpoint.url
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/metrics", timeout=5)
