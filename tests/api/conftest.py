"""Fixtures: ``site`` is an API with named users on SQLite; ``any_site`` the same on each database; ``working_site`` has
a real worker on the simulated cloud behind it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from site_for_tests import Site, make_settings, running_site, write_people

from operators_machine import make_machine
from sharewright.operations.assembly import assemble
from sharewright.operations.worker import Worker
from sharewright.store.database import Store


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


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


@pytest.fixture
def mixed_site(sqlite_store: Store, tmp_path: Path) -> Iterator[Site]:
    """A working site with a backend that makes share servers, and one on an operator's machine; share types "servers"
    and "plain"."""
    identity = {"mode": "http_basic", "user_file": str(write_people(tmp_path / "users.json"))}
    _, server = make_machine(make_settings(tmp_path))
    backends: dict[str, Any] = {
        "one": {"cloud": "simulated", "availability_zone": "zone-1"},
        "common": {
            "cloud": "simulated",
            "availability_zone": "zone-1",
            "driver_handles_share_servers": False,
            "server": msgspec.to_builtins(server),
        },
    }
    settings = make_settings(tmp_path, identity=identity, backends=backends, worker={"poll_seconds": 0.2})
    with closing(assemble(settings, sqlite_store)) as assembly:
        worker = Worker(sqlite_store, assembly.stories, settings, drivers=assembly.drivers, clouds=assembly.clouds)
        with worker, running_site(sqlite_store, settings, wake=sqlite_store.bell.ring) as site:
            for name, handled in (("plain", "False"), ("servers", "True")):
                specs = {"driver_handles_share_servers": handled, "snapshot_support": "True"}
                body = {"share_type": {"name": name, "extra_specs": specs}}
                site.expect(200, "POST", "/v2/types", body, user="root")
            yield site
