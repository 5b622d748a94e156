"""Fixtures: ``site`` is an API with named users on SQLite; ``any_site`` the same on each database; ``working_site`` has
a real worker on the simulated cloud behind it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from site_for_tests import Site, make_settings, running_site, write_people

from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.store.database import Store


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("waitress").setLevel(logging.ERROR)


@pytest.fixture
def site(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    with running_site(sqlite_store, make_settings(tmp_path, identity=identity)) as site:
        yield site


@pytest.fixture
def any_site(store: Store, tmp_path: Path) -> Iterator[Site]:
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    with running_site(store, make_settings(tmp_path, identity=identity)) as site:
        yield site


@pytest.fixture
def working_site(sqlite_store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Parametrise indirectly with a mode of identity; the default is none."""
    mode = getattr(request, "param", "none")
    identity = {"mode": mode}
    if mode != "none":
        identity["user_file"] = str(write_people(tmp_path / "users.json"))
    settings = make_settings(tmp_path, identity=identity, worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            yield site


@pytest.fixture
def two_backends(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    """A working site whose shares may go to either of two backends."""
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    backends = {name: {"cloud": "simulated", "availability_zone": "zone-1"} for name in ("one", "two")}
    settings = make_settings(tmp_path, identity=identity, backends=backends, worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            yield site


@pytest.fixture
def replicating_site(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    """A working site with two backends, in a zone each, that keep replicas of each other's shares."""
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    driver = "sharewright.drivers.simulated.replicating:REPLICATING"
    backends = {
        name: {"cloud": "simulated", "driver": driver, "availability_zone": f"zone-{name}"} for name in ("one", "two")
    }
    settings = make_settings(tmp_path, identity=identity, backends=backends, worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            yield site
