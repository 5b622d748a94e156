"""No statement of the hot paths reads a large table from end to end: PostgreSQL's own count of sequential scans, on a
database that is large enough for its planner to care."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from databases import PostgresCluster
from large_deployment import BACKEND, Server, load, make_driver, make_settings, make_stories_of, plan
from sharewright.context import RequestContext
from sharewright.identifiers import derived_id
from sharewright.operations import leases
from sharewright.operations.journal import Journal, clock
from sharewright.operations.maintenance import Maintenance
from sharewright.operations.reconciler import reconcile
from sharewright.operations.runner import Runner
from sharewright.operations.sweeper import Sweeper
from sharewright.services import access_rules, new_shares, shares
from sharewright.services.bootstrap import ensure_defaults
from sharewright.services.deployment import Deployment
from sharewright.services.lists import Page
from sharewright.store.database import Store
from sharewright.store.secrets import SecretBox
from twin_cloud import TwinCloud

SERVERS, SHARES = 1000, 10_000
LARGE = ("operations", "operation_steps", "shares", "share_instances", "share_access_rules", "share_export_locations")
ADMIN = ("admin", "member", "reader")


class Large:
    """A deployment with many shares, and one of its servers to ask about."""

    def __init__(self, url: str, key_file: Path, servers: list[Server]) -> None:
        self.url = url
        self.store = Store(url)
        self.servers = servers
        self.server = servers[len(servers) // 2]
        self.settings = make_settings()
        self.deployment = Deployment(store=self.store, settings=self.settings)
        self.context = RequestContext(project_id=self.server.project_id, user_id="u", roles=ADMIN)
        self.driver = make_driver(self.store, key_file, TwinCloud("scale"), 0.0)
        self.stories = make_stories_of(self.store, self.driver)

    def work(self) -> int:
        """Do everything that is queued; return how much that was."""
        runner, done = Runner(self.store, self.stories), 0
        while claim := leases.claim(self.store, "w", lease_seconds=600, kinds=self.stories):
            runner.run(claim, Journal(self.store, claim.operation, valid_until=clock() + 600, steps=claim.steps))
            done += 1
        return done

    def scans(self) -> dict[str, int]:
        self.store.hang_up()  # sessions tell all they know when they end
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = connection.execute("SELECT relname, seq_scan FROM pg_stat_user_tables").fetchall()
        return {name: count for name, count in rows if name in LARGE}

    def scanned(self, action: Callable[[], object]) -> dict[str, int]:
        """The large tables that were read from end to end meanwhile, and how often."""
        before = self.scans()
        action()
        return {name: count - before[name] for name, count in self.scans().items() if count > before[name]}


@pytest.fixture(scope="module")
def large(postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    url = postgres.create_database()
    key_file = tmp_path_factory.mktemp("large") / "master.key"
    servers = plan(SERVERS, SHARES)
    store = Store(url)
    ensure_defaults(store, make_settings())
    store.close()
    load(url, servers, derived_id("share_type", "default"), SecretBox(key_file))
    deployment = Large(url, key_file, servers)
    yield deployment
    deployment.store.close()
    postgres.drop_database(url)


def test_rule_changes(large: Large) -> None:
    def act() -> None:
        for number, share in enumerate(large.server.share_ids):
            values = {"access_type": "ip", "access_to": f"10.1.1.{number}", "access_level": "rw"}
            access_rules.allow(large.deployment, large.context, share, values)
        assert large.work() == len(large.server.share_ids)

    assert large.scanned(act) == {}


def test_share_creations(large: Large) -> None:
    def act() -> None:
        for _ in range(10):
            values = {"size": 1, "protocol": "NFS", "share_network_id": large.server.network_id}
            new_shares.create(large.deployment, large.context, values)
        assert large.work() == 10

    assert large.scanned(act) == {}


def test_the_reconciler_and_looks_at_servers(large: Large) -> None:
    def act() -> None:
        for _ in range(3):
            assert reconcile(large.store, large.settings, backends=[BACKEND]) == {"heal_server": 150}
            assert large.work() == 150

    assert large.scanned(act) == {}


def test_a_queue_that_is_long_and_not_ready(large: Large) -> None:
    def act() -> None:
        for server in large.servers[:200]:
            values = {"access_type": "ip", "access_to": "10.1.2.3", "access_level": "rw"}
            context = RequestContext(project_id=server.project_id, user_id="u", roles=ADMIN)
            access_rules.allow(large.deployment, context, server.share_ids[0], values)
        assert large.work() == 200

    assert large.scanned(act) == {}


def test_purging(large: Large) -> None:
    keeper = Maintenance(large.store, large.settings, drivers={BACKEND: large.driver}, clouds={}, holder="test")
    assert large.scanned(keeper.purge) == {}
    assert large.scanned(keeper.report) == {}


def test_lists(large: Large) -> None:
    middle = large.server.share_ids[0]

    def act() -> None:
        for page in (Page(limit=100), Page(limit=100, marker=middle), Page(limit=100, marker=middle, descending=False)):
            shares.list_shares(
                large.deployment, large.context, {}, page, all_projects=True, detail=True, with_count=True
            )
        for filters in ({}, {"share_server_id": large.server.id}):
            shares.list_shares(
                large.deployment, large.context, filters, Page(limit=100), all_projects=bool(filters), with_count=True
            )
        shares.show(large.deployment, large.context, middle)
        access_rules.list_rules(large.deployment, large.context, middle)

    assert large.scanned(act) == {}


def test_a_sweep_reads_each_table_of_owners_once(large: Large) -> None:
    scanned = large.scanned(Sweeper(large.store, {BACKEND: TwinCloud("scale")}).sweep)
    assert scanned.get("share_instances", 0) <= 1
    assert scanned.keys() <= {"share_instances"}
