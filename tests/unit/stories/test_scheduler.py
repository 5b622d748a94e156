"""Which pool a share goes to, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from sharewright.drivers.contract import PoolStats
from sharewright.errors import CloudError, CloudUnavailable, NoValidBackend
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.extra_specs import satisfies, unsatisfied
from sharewright.operations.pool_checks import pool_failure, weight
from sharewright.operations.pool_rows import Pool, Request, write_pools
from sharewright.operations.scheduler import Scheduler
from sharewright.settings import Backend, Settings
from sharewright.store.database import Store
from sharewright.store.tables import pools, share_instances, share_types, shares, workers
from story_world import make_settings, make_world


class TestExtraSpecs:
    @pytest.mark.parametrize(
        ("value", "wanted", "expected"),
        [
            ("NFS", "NFS", True),
            ("NFS", "CIFS", False),
            (True, "True", True),
            (True, "true", True),
            (False, "True", False),
            (True, "<is> True", True),
            (False, "<is> False", True),
            (True, "<is> False", False),
            (10, ">= 5", True),
            (10, "<= 5", False),
            (10, "= 10", True),
            (9, "= 10", False),
            (10, "== 10", True),
            (10, "!= 10", False),
            ("ten", ">= 5", False),
            (10, ">= five", False),
            (10, ">=", False),
            ("gold", "s== gold", True),
            ("gold", "s!= gold", False),
            ("b", "s> a", True),
            ("b", "s>= c", False),
            ("b", "s< c", True),
            ("c", "s<= c", True),
            ("NFS_CIFS", "<in> CIFS", True),
            ("NFS", "<in> CIFS", False),
            ("NFS", "<in>", False),
            ("ssd", "<or> ssd <or> nvme", True),
            ("hdd", "<or> ssd <or> nvme", False),
            ([True, False], "<is> False", True),
            (["a", "b"], "c", False),
            (None, "None", True),
        ],
    )
    def test_operators(self, value: object, wanted: str, expected: bool) -> None:
        assert satisfies(value, wanted) is expected

    @pytest.mark.parametrize(
        ("specs", "failure"),
        [
            ({"vendor:anything": "<is> True"}, ""),
            ({"capabilities:qos": "<is> False"}, ""),
            ({"capabilities:qos": "<is> True"}, "extra spec qos = <is> True: the backend has False"),
            ({"dedupe": "True"}, "extra spec dedupe = True: the backend has no such capability"),
            ({"capabilities:group:consistent": "yes"}, ""),
            ({"capabilities:group:other": "yes"}, "extra spec group:other = yes: the backend has no such capability"),
            ({"snapshot_support": "False"}, ""),
            ({"snapshot_support": "<is> False"}, ""),
            ({"snapshot_support": "True"}, "extra spec snapshot_support = True: the backend has no such capability"),
            ({"availability_zones": "a,b"}, ""),
            ({"sharewright:filesystem": "xfs"}, ""),
            (
                {"sharewright:filesystem": "ext4"},
                "extra spec sharewright:filesystem = ext4: the backend offers xfs",
            ),
            ({"sharewright:volume_type": "any"}, ""),
            (
                {"sharewright:squash": "all_squash"},
                "extra spec sharewright:squash = all_squash: the backend does not know it",
            ),
        ],
    )
    def test_against_capabilities(self, specs: dict[str, str], failure: str) -> None:
        offers = {"filesystems": ["xfs"], "volume_types": None}
        assert unsatisfied(specs, {"qos": False, "group": {"consistent": "yes"}, **offers}) == failure


def pool(**values: Any) -> Pool:
    capabilities = {"storage_protocol": "NFS", "driver_handles_share_servers": True} | values.pop("capabilities", {})
    row: dict[str, Any] = {
        "host": "node@alpha#alpha",
        "backend": "alpha",
        "availability_zone": "nova",
        "total_capacity": 100.0,
        "free_capacity": 50.0,
        "provisioned_capacity": 0.0,
        "reserved_percentage": 0,
    } | values
    return Pool(capabilities=capabilities, **row)


def request(**values: Any) -> Request:
    row: dict[str, Any] = {
        "share_instance_id": new_id(),
        "size": 10,
        "protocol": "NFS",
        "share_type": "default",
        "extra_specs": {},
        "share_network_id": new_id(),
        "zones": frozenset({None}),
    } | values
    return Request(**row)


FAST: Mapping[str, Any] = {"volume_types": ["fast"], "volume_type_required": True}
THIN: Mapping[str, Any] = {"thin_provisioning": True, "max_over_subscription_ratio": 2.0}


class TestChecks:
    @pytest.mark.parametrize(
        ("of_pool", "of_request", "failure"),
        [
            ({}, {}, ""),
            ({}, {"availability_zone": "nova"}, ""),
            ({}, {"availability_zone": "mars"}, "availability zone mars: the backend is in nova"),
            ({}, {"extra_specs": {"availability_zones": "mars, nova"}}, ""),
            ({}, {"extra_specs": {"availability_zones": "mars"}}, "for availability zones mars, not nova"),
            ({}, {"group_backend": "alpha"}, ""),
            ({}, {"group_backend": "beta"}, "share group: its shares are on backend beta"),
            ({}, {"protocol": "CIFS"}, "protocol CIFS: the backend offers NFS"),
            ({"capabilities": FAST}, {"extra_specs": {"sharewright:volume_type": "fast"}}, ""),
            ({"capabilities": FAST}, {}, "the share type has no sharewright:volume_type"),
            (
                {"capabilities": FAST},
                {"extra_specs": {"sharewright:volume_type": "slow"}},
                "sharewright:volume_type = slow: the backend offers fast",
            ),
            ({"capabilities": {"storage_protocol": "NFS_CIFS"}}, {"protocol": "cifs"}, ""),
            ({}, {"extra_specs": {"driver_handles_share_servers": "False"}}, "driver_handles_share_servers = False"),
            ({}, {"share_network_id": None}, "share network: none is given"),
            ({}, {"zones": frozenset({"mars"})}, "no subnet for availability zone nova"),
            ({}, {"zones": frozenset({"nova"})}, ""),
            ({}, {"size": 50}, ""),
            ({}, {"size": 51}, "capacity: 51 GiB asked for, 50.0 GiB available"),
            ({"promised": 45.0}, {}, "capacity: 10 GiB asked for, 5.0 GiB available"),
            ({"reserved_percentage": 45}, {}, "capacity: 10 GiB asked for, 5.0 GiB available"),
            ({"free_capacity": None}, {"size": 10**6}, ""),
            ({"capabilities": THIN}, {"size": 100}, ""),
            ({"capabilities": THIN}, {"size": 101}, "capacity: 101 GiB asked for, 100.0 GiB available"),
            ({"capabilities": THIN, "provisioned_capacity": 195.0}, {}, "5.0 GiB available"),
            ({"capabilities": {**THIN, "free_quota_gb": 8.0}, "promised": 1.0}, {}, "7.0 GiB available"),
            ({"capabilities": {"free_quota_gb": 9.0}, "free_capacity": None}, {}, "9.0 GiB available"),
            ({"capabilities": THIN, "provisioned_capacity": 180.0, "promised": 15.0}, {}, "5.0 GiB available"),
            ({"capabilities": THIN}, {"size": 60, "extra_specs": {"thin_provisioning": "False"}}, "thin_provisioning"),
        ],
    )
    def test_the_first_check_that_fails(
        self, of_pool: dict[str, Any], of_request: dict[str, Any], failure: str
    ) -> None:
        found = pool_failure(pool(**of_pool), request(**of_request))
        assert (found == "") if failure == "" else (failure in found)

    def test_more_room_weighs_more_and_unknown_least(self) -> None:
        small, large = pool(free_capacity=10.0), pool(free_capacity=40.0)
        unknown = pool(free_capacity=None)
        assert sorted([large, unknown, small], key=weight) == [unknown, small, large]


class Reporting:
    """A driver that only reports."""

    def __init__(self, backend: str, free: float, error: CloudError | None = None, **capabilities: Any) -> None:
        self.backend = backend
        self._free = free
        self._error = error
        self._capabilities = capabilities

    def pools(self) -> Sequence[PoolStats]:
        if self._error is not None:
            raise self._error
        capabilities = {"storage_protocol": "NFS", "driver_handles_share_servers": True} | self._capabilities
        return [
            PoolStats(
                pool=self.backend,
                total_capacity=100.0,
                free_capacity=self._free,
                provisioned_capacity=0.0,
                capabilities=capabilities,
            )
        ]


class TestChoice:
    """On real rows."""

    @staticmethod
    def settings(state_dir: Path) -> Settings:
        import msgspec

        backends = {
            "alpha": Backend(cloud="simulated"),
            "beta": Backend(cloud="simulated", availability_zone="mars"),
        }
        return msgspec.structs.replace(make_settings(state_dir), backends=backends)

    def choose(self, world: Any, drivers: list[Reporting], share: str) -> Pool:
        by_name: Any = {driver.backend: driver for driver in drivers}
        return Scheduler(world.store, by_name, self.settings(world.settings.state_path)).choose(share)

    def test_most_room_wins_then_what_is_promised_counts(self, store: Store, tmp_path: Path) -> None:
        with make_world(store, tmp_path / "state") as world:
            drivers = [Reporting("alpha", 60.0), Reporting("beta", 50.0)]
            first = world.request_share(size=20)
            chosen = self.choose(world, drivers, first)
            assert (chosen.backend, chosen.host) == ("alpha", "sharewright@alpha#alpha")
            with store.begin() as tx:
                tx.execute(
                    update(share_instances)
                    .where(share_instances.c.share_id == first)
                    .values(backend="alpha", host=chosen.host)
                )
            # Not made yet, so the pool's report does not know it; the scheduler does.
            assert self.choose(world, drivers, world.request_share(size=20)).backend == "beta"

    def test_the_share_type_decides(self, sqlite_store: Store, tmp_path: Path) -> None:
        with make_world(sqlite_store, tmp_path / "state") as world:
            drivers = [Reporting("alpha", 60.0, qos=False), Reporting("beta", 50.0, qos=True)]
            quality = world.add_share_type("quality", qos="<is> True")
            assert self.choose(world, drivers, world.request_share(share_type_id=quality)).backend == "beta"
            there = world.request_share(availability_zone="mars")
            assert self.choose(world, drivers, there).backend == "beta"

    def test_the_refusal_names_each_backend_and_its_check(self, sqlite_store: Store, tmp_path: Path) -> None:
        with make_world(sqlite_store, tmp_path / "state") as world:
            drivers = [Reporting("alpha", 5.0), Reporting("beta", 50.0)]
            share = world.request_share(size=10, availability_zone="nova")
            with pytest.raises(NoValidBackend) as caught:
                self.choose(world, drivers, share)
            assert "10 GiB, NFS, type default" in caught.value.message
            assert "alpha: capacity: 10 GiB asked for, 5.0 GiB available" in caught.value.message
            assert "beta: availability zone nova: the backend is in mars" in caught.value.message

    def test_no_backend_at_all(self, sqlite_store: Store, tmp_path: Path) -> None:
        with (
            make_world(sqlite_store, tmp_path / "state") as world,
            pytest.raises(NoValidBackend, match="no backend is configured"),
        ):
            self.choose(world, [], world.request_share())

    def test_a_silent_backend_is_waited_for_only_when_no_other_will_do(
        self, sqlite_store: Store, tmp_path: Path
    ) -> None:
        with make_world(sqlite_store, tmp_path / "state") as world:
            silent = Reporting("alpha", 0.0, error=CloudUnavailable("libvirtd is down."))
            share = world.request_share()
            with pytest.raises(CloudUnavailable, match="libvirtd is down; beta: capacity"):
                self.choose(world, [silent, Reporting("beta", 0.0)], share)
            with sqlite_store.begin() as tx:
                tx.execute(pools.delete())
            assert self.choose(world, [silent, Reporting("beta", 9.0)], share).backend == "beta"
            broken = Reporting("alpha", 0.0, error=CloudError("no such pool."))
            with pytest.raises(NoValidBackend, match="no such pool"):
                self.choose(world, [broken], share)

    def test_a_fresh_report_is_not_asked_for_again(self, sqlite_store: Store, tmp_path: Path) -> None:
        with make_world(sqlite_store, tmp_path / "state") as world:
            settings = self.settings(tmp_path / "state")
            with sqlite_store.begin() as tx:
                write_pools(tx, settings, "alpha", Reporting("alpha", 7.0).pools())
                write_pools(tx, settings, "alpha", Reporting("alpha", 8.0).pools())  # replaces
            silent = Reporting("alpha", 0.0, error=CloudUnavailable("away"))
            assert self.choose(world, [silent], world.request_share()).free_capacity == 8.0
            with sqlite_store.begin() as tx:
                tx.execute(update(pools).values(reported_at=utcnow() - timedelta(hours=1)))
            assert self.choose(world, [silent], world.request_share()).free_capacity == 8.0  # old is better than none

    @pytest.mark.parametrize(
        ("disabled", "age", "failure"),
        [(False, 0, ""), (True, 0, "its service is disabled (maintenance)"), (False, 600, "its service is down")],
    )
    def test_services(self, sqlite_store: Store, tmp_path: Path, disabled: bool, age: int, failure: str) -> None:
        with make_world(sqlite_store, tmp_path / "state") as world:
            with sqlite_store.begin() as tx:
                tx.execute(
                    workers.insert().values(
                        id="w",
                        number=1,
                        binary="manila-share",
                        host="sharewright@alpha",
                        availability_zone="nova",
                        disabled=disabled,
                        disabled_reason="maintenance" if disabled else None,
                        heartbeat_at=utcnow() - timedelta(seconds=age),
                        started_at=utcnow(),
                    )
                )
            share = world.request_share()
            if failure:
                with pytest.raises(NoValidBackend) as caught:
                    self.choose(world, [Reporting("alpha", 50.0)], share)
                assert failure in caught.value.message
            else:
                assert self.choose(world, [Reporting("alpha", 50.0)], share).backend == "alpha"

    def test_a_request_is_read_whole(self, sqlite_store: Store, tmp_path: Path) -> None:
        from sharewright.operations.pool_rows import read_request

        with make_world(sqlite_store, tmp_path / "state") as world:
            zoned = world.add_share_network(cidr="10.30.0.0/24", zone="mars")
            share = world.request_share(size=4, share_network_id=zoned, availability_zone="mars")
            with sqlite_store.read() as tx:
                found = read_request(tx, share)
            assert (found.size, found.protocol, found.availability_zone) == (4, "NFS", "mars")
            assert found.zones == {"mars"}
            assert found.extra_specs == {"driver_handles_share_servers": "True"}
            assert world.rows(share_types)[0].name == found.share_type
            assert world.rows(shares)[0].id == share
