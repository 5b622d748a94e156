"""The life of shares, told by the real engine on the simulated cloud: success, refusal, and what is left afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from sharewright.errors import CloudCapacityExceeded, CloudError, CloudUnavailable, GuestUnreachable
from sharewright.identifiers import new_id
from sharewright.store.database import Store
from sharewright.store.tables import operations, share_access_rules, share_instances, share_servers, shares
from story_world import BACKEND, World, make_world


def create(world: World, count: int = 1) -> list[str]:
    made = [world.request_share() for _ in range(count)]
    world.run()
    assert [world.share(share).status for share in made] == ["available"] * count
    return made


class TestSpine:
    def test_from_the_first_share_to_an_empty_cloud(self, world: World) -> None:
        share = world.request_share(size=3)
        world.run()
        row, instance = world.share(share), world.instance(share)
        assert (row.status, row.progress, row.access_rules_status) == ("available", "100%", "active")
        assert instance.status == "available"
        assert row.host == f"sharewright@{BACKEND}#{BACKEND}"
        assert row.availability_zone == instance.availability_zone == "nova"
        (server,) = world.rows(share_servers)
        assert (server.status, server.healthy, server.unused_since) == ("active", True, None)
        assert row.share_server_id == server.id
        (location,) = world.locations(share)
        assert location.endswith(f":/shares/share-{instance.id}")
        assert world.exports(share) == []
        world.check_consistent()

        rule = world.request_rule(share, "10.20.0.0/24", "ro")
        world.run()
        assert world.rules(share) == {"10.20.0.0/24": "active"}
        assert world.exports(share) == [["10.20.0.0/24", "ro"]]

        world.request_deny(share, rule)
        world.run()
        assert world.rules(share) == {}
        assert world.exports(share) == []

        world.request_rule(share, "10.20.0.7")
        world.request_delete(share)
        world.run()
        assert world.rows(shares) == []
        assert world.rows(share_access_rules) == []
        assert world.usage() == (0, 0)
        (server,) = world.rows(share_servers)
        assert server.unused_since is not None
        world.check_consistent()

        world.request_server_operation("delete_share_server", server.id)
        world.run()
        assert world.rows(share_servers) == []
        world.check_empty()
        assert world.cloud.state.violations() == []
        assert {row.state for row in world.rows(operations)} == {"succeeded"}

    def test_the_journal_tells_the_story(self, sqlite_world: World) -> None:
        create(sqlite_world)
        assert sqlite_world.steps("create_share") == [
            "schedule",
            "volume",
            "attach",
            "guest",
        ]
        with sqlite_world.store.read() as tx:
            row = tx.execute(select(operations).where(operations.c.kind == "create_share")).one()
        assert row.guest_round_trips == 1

    def test_the_next_share_uses_the_same_server(self, sqlite_world: World) -> None:
        made = create(sqlite_world, 12)
        assert len(sqlite_world.rows(share_servers)) == 1
        assert len(sqlite_world.cloud.volumes.list_volumes()) == 12
        sqlite_world.check_consistent()
        for share in made:
            sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.cloud.volumes.list_volumes() == []
        assert sqlite_world.cloud.state.violations() == []

    def test_a_warm_share_and_a_rule_cost_one_round_trip_each(self, sqlite_world: World) -> None:
        create(sqlite_world)
        (share,) = create(sqlite_world)
        for last in range(1, 21):
            sqlite_world.request_rule(share, f"10.20.0.{last}")
        sqlite_world.run()
        assert set(sqlite_world.rules(share).values()) == {"active"}
        rows = {row.resource_id + row.kind: row for row in sqlite_world.rows(operations)}
        assert rows[share + "create_share"].guest_round_trips == 1
        assert rows[share + "update_access"].guest_round_trips == 1

    def test_limits_of_a_server_make_another(self, sqlite_store: Store, tmp_path: Path) -> None:
        with make_world(sqlite_store, tmp_path / "state", max_shares_per_share_server=2) as world:
            create(world, 5)
            counts = sorted(
                len(world.rows(share_instances, share_server_id=server.id)) for server in world.rows(share_servers)
            )
            assert counts == [1, 2, 2]
            world.check_consistent()

    def test_two_networks_two_servers(self, sqlite_world: World) -> None:
        other = sqlite_world.add_share_network(cidr="10.21.0.0/24")
        sqlite_world.request_share()
        sqlite_world.request_share(share_network_id=other)
        sqlite_world.run()
        assert len(sqlite_world.rows(share_servers)) == 2
        sqlite_world.check_consistent()


class TestConcurrency:
    def test_ten_shares_at_once_on_a_fresh_network_get_one_server(self, world: World) -> None:
        world.cloud.set_delay("ensure_instance", 0.3)
        made = [world.request_share() for _ in range(10)]
        world.run_worker()
        assert {world.share(share).status for share in made} == {"available"}
        assert len(world.rows(share_servers)) == 1
        assert len(world.cloud.compute.list_instances()) == 1
        assert world.cloud.calls()["ensure_volume"] == 10
        world.check_consistent()

    def test_everything_at_once(self, world: World) -> None:
        """Creates, rules and deletes of many shares on one server, on all threads."""
        old = create(world, 4)
        new = [world.request_share() for _ in range(4)]
        for share in old[:2]:
            for last in range(1, 6):
                world.request_rule(share, f"10.20.0.{last}")
        for share in old[2:]:
            world.request_delete(share)
        world.run_worker()
        assert {world.share(share).status for share in old[:2] + new} == {"available"}
        for share in old[:2]:
            assert set(world.rules(share).values()) == {"active"}
            assert len(world.exports(share) or []) == 5
        assert len(world.rows(shares)) == 6
        assert world.cloud.state.violations() == []
        world.check_consistent()


class TestFailedCreation:
    def test_no_backend_says_which_check_failed(self, sqlite_world: World) -> None:
        fancy = sqlite_world.add_share_type("fancy", dedupe="<is> True")
        share = sqlite_world.request_share(share_type_id=fancy)
        sqlite_world.run()
        row = sqlite_world.share(share)
        assert (row.status, row.host, row.share_server_id) == ("error", None, None)
        (message,) = sqlite_world.messages(share)
        assert (message.action_id, message.detail_id) == ("001", "002")
        assert f"{BACKEND}: extra spec dedupe = <is> True" in message.detail
        (operation,) = sqlite_world.rows(operations)
        assert message.request_id == operation.request_id
        sqlite_world.check_empty()
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.usage() == (0, 0)

    def test_a_missing_network(self, sqlite_world: World) -> None:
        nowhere = sqlite_world.add_share_network(exists=False)
        share = sqlite_world.request_share(share_network_id=nowhere)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error"
        (message,) = sqlite_world.messages(share)
        assert message.detail_id == "004"
        assert "which the cloud does not have" in message.detail
        assert sqlite_world.rows(share_servers) == []
        sqlite_world.check_empty()

    def test_a_server_that_cannot_be_made_fails_all_who_wait_and_the_next_gets_a_new_one(self, world: World) -> None:
        world.cloud.fail("ensure_instance", CloudCapacityExceeded, message="no host has room")
        made = [world.request_share() for _ in range(3)]
        while world.run_one("create_share"):
            pass  # until all three wait for one server
        assert len(world.rows(share_servers)) == 1
        world.run()
        for share in made:
            assert world.share(share).status == "error"
            assert world.share(share).share_server_id is None
            (message,) = world.messages(share)
            assert "no host has room" in message.detail
        assert world.rows(share_servers) == []
        world.check_empty()
        assert world.usage() == (3, 3)
        create(world)
        for share in made:
            world.request_delete(share)
        world.run()
        assert world.usage() == (1, 1)

    def test_a_failed_share_leaves_the_server_to_the_others(self, sqlite_world: World) -> None:
        create(sqlite_world)
        sqlite_world.cloud.fail("guest.mkfs", CloudError, message="bad blocks")
        share = sqlite_world.request_share()
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error"
        assert "bad blocks" in sqlite_world.messages(share)[0].detail
        (server,) = sqlite_world.rows(share_servers)
        assert (server.status, server.unused_since) == ("active", None)
        sqlite_world.check_consistent()

    def test_what_cannot_be_undone_now_is_undone_by_delete(self, sqlite_world: World) -> None:
        create(sqlite_world)
        sqlite_world.cloud.fail("guest.mkfs", CloudError, message="bad blocks")
        sqlite_world.cloud.fail("delete_volume", CloudError, times=-1)
        share = sqlite_world.request_share()
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error"
        assert "not complete" in sqlite_world.messages(share)[0].detail
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error_deleting"
        assert sqlite_world.usage() == (2, 2)
        sqlite_world.cloud.forgive()
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.usage() == (1, 1)
        sqlite_world.check_consistent()

    def test_a_server_whose_debris_stays_is_cleaned_up_later(self, sqlite_world: World) -> None:
        sqlite_world.cloud.fail("ensure_instance", CloudError, moment="after")
        sqlite_world.cloud.fail("delete_instance", CloudError, times=3)
        share = sqlite_world.request_share()
        sqlite_world.run()  # also tells the clean-up that the failure asked for
        assert sqlite_world.share(share).status == "error"
        assert sqlite_world.rows(share_servers) == []
        sqlite_world.check_empty()

    def test_a_share_deleted_while_it_is_created(self, sqlite_world: World) -> None:
        """A forced delete behind a running creation: the creation stops, the share goes."""
        share = sqlite_world.request_share()
        sqlite_world.request_delete(share, force=True)
        sqlite_world.run()
        assert sqlite_world.rows(shares) == []
        assert sqlite_world.usage() == (0, 0)
        sqlite_world.check_consistent()

    def test_a_backend_that_was_taken_out_of_the_configuration(self, sqlite_world: World) -> None:
        (share,) = create(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(share_instances).values(backend="gone"))
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error_deleting"
        assert "not in this worker's configuration" in sqlite_world.messages(share)[0].detail


class TestPassingFaults:
    def test_a_cloud_that_is_down_for_a_while(self, sqlite_world: World) -> None:
        for method in ("ensure_volume", "ensure_instance", "attach_volume", "ensure_port"):
            sqlite_world.cloud.fail(method, CloudUnavailable, times=2)
        create(sqlite_world)
        sqlite_world.check_consistent()

    def test_a_cloud_that_stays_down(self, sqlite_world: World) -> None:
        create(sqlite_world)
        sqlite_world.cloud.fail("attach_volume", CloudUnavailable, times=-1, message="the cloud is down")
        share = sqlite_world.request_share()
        sqlite_world.run()
        assert sqlite_world.share(share).status == "error"
        assert "the cloud is down" in sqlite_world.messages(share)[0].detail
        sqlite_world.check_consistent()


class TestAccess:
    def test_one_bad_rule_does_not_stop_the_others(self, world: World) -> None:
        (share,) = create(world)
        world.request_rule(share, "10.20.0.1")
        world.request_rule(share, "10.20.0.1/8")  # the API refuses host bits; the guest does too
        world.run()
        assert world.rules(share) == {"10.20.0.1": "active", "10.20.0.1/8": "error"}
        assert world.share(share).access_rules_status == "error"
        (message,) = world.messages(share)
        assert message.action_id == "010"
        assert "not an address" in message.detail
        (bad,) = world.rows(share_access_rules, access_to="10.20.0.1/8")
        assert "not an address" in bad.error
        world.request_deny(share, bad.id)
        world.run()
        assert world.rules(share) == {"10.20.0.1": "active"}
        assert world.share(share).access_rules_status == "active"

    def test_rules_that_come_during_creation_are_in_force_after_it(self, sqlite_world: World) -> None:
        share = sqlite_world.request_share()
        sqlite_world.request_rule(share, "10.20.0.1")
        sqlite_world.run()
        assert sqlite_world.rules(share) == {"10.20.0.1": "active"}
        assert sqlite_world.exports(share) == [["10.20.0.1/32", "rw"]]

    def test_rules_of_a_share_that_failed(self, sqlite_world: World) -> None:
        sqlite_world.cloud.fail("ensure_instance", CloudError)
        share = sqlite_world.request_share()
        rule = sqlite_world.request_rule(share, "10.20.0.1")
        sqlite_world.run()
        assert sqlite_world.rules(share) == {"10.20.0.1": "error"}
        sqlite_world.request_deny(share, rule)
        sqlite_world.run()
        assert sqlite_world.rules(share) == {}

    def test_a_rule_that_is_denied_while_it_is_applied(self, sqlite_world: World) -> None:
        (share,) = create(sqlite_world)
        rule = sqlite_world.request_rule(share, "10.20.0.1")
        driver = sqlite_world.assembly.drivers[BACKEND]
        real = driver.update_access

        def update_and_change_the_mind(*arguments: object):
            driver.update_access = real  # type: ignore[method-assign]
            outcomes = real(*arguments)  # type: ignore[arg-type]
            sqlite_world.request_deny(share, rule)
            return outcomes

        driver.update_access = update_and_change_the_mind  # type: ignore[method-assign]
        sqlite_world.run()
        assert sqlite_world.rules(share) == {}
        assert sqlite_world.exports(share) == []

    def test_an_unreachable_server_delays_and_then_fails_a_rule(self, sqlite_world: World) -> None:
        (share,) = create(sqlite_world)
        sqlite_world.cloud.fail("guest.apply", GuestUnreachable, times=-1, message="no route to guest")
        sqlite_world.request_rule(share, "10.20.0.1")
        assert sqlite_world.run_one("update_access")
        assert sqlite_world.rules(share) == {"10.20.0.1": "applying"}  # parked: no thread waits for it
        sqlite_world.run()
        assert sqlite_world.rules(share) == {"10.20.0.1": "error"}
        (message,) = sqlite_world.messages(share)
        assert "did not finish within its time" in message.detail
        (operation,) = sqlite_world.rows(operations, kind="update_access")
        assert operation.attempts > 3


class TestDeletion:
    @pytest.mark.parametrize("status", ["error", "available", "error_deleting", "extending_error", "creating"])
    def test_from_any_status(self, sqlite_world: World, status: str) -> None:
        (share,) = create(sqlite_world)
        with sqlite_world.store.begin() as tx:
            tx.execute(update(shares).values(status=status))
            tx.execute(update(share_instances).values(status=status))
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.rows(shares) == []
        assert sqlite_world.usage() == (0, 0)
        sqlite_world.check_consistent()

    def test_with_the_vm_and_the_volume_gone(self, sqlite_world: World) -> None:
        (share,) = create(sqlite_world)
        volume = sqlite_world.instance(share).volume_id
        (vm,) = sqlite_world.cloud.compute.list_instances()
        sqlite_world.cloud.compute.delete_instance(vm.id, timeout=1)
        sqlite_world.cloud.volumes.delete_volume(volume, timeout=1)
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.usage() == (0, 0)
        (server,) = sqlite_world.rows(share_servers)
        sqlite_world.request_server_operation("delete_share_server", server.id)
        sqlite_world.run()
        sqlite_world.check_empty()

    def test_twice(self, sqlite_world: World) -> None:
        (share,) = create(sqlite_world)
        sqlite_world.request_delete(share)
        sqlite_world.request_delete(share)
        sqlite_world.run()
        assert sqlite_world.usage() == (0, 0)
        assert {row.state for row in sqlite_world.rows(operations)} == {"succeeded"}


class TestServers:
    def test_one_with_shares_stays(self, world: World) -> None:
        (share,) = create(world)
        (server,) = world.rows(share_servers)
        with world.store.begin() as tx:
            tx.execute(update(share_servers).values(status="deleting"))  # the API's part of DELETE
        operation = world.request_server_operation("delete_share_server", server.id)
        world.run()
        assert world.rows(operations, id=operation)[0].state == "failed"
        assert world.rows(share_servers)[0].status == "active"
        assert world.exports(share) == []
        world.check_consistent()

    def test_from_every_state_of_being_made(self, sqlite_world: World) -> None:
        for method in ("ensure_service_subnet", "ensure_port", "ensure_instance"):
            for moment in ("before", "after"):
                sqlite_world.cloud.fail(method, CloudError, moment=moment)  # type: ignore[arg-type]
                share = sqlite_world.request_share()
                sqlite_world.run()
                assert sqlite_world.share(share).status == "error"
                assert sqlite_world.rows(share_servers) == []
                sqlite_world.check_empty()

    def test_healing_starts_a_stopped_one_and_says_so(self, world: World) -> None:
        (share,) = create(world)
        world.request_rule(share, "10.20.0.1")
        world.run()
        (vm,) = world.cloud.compute.list_instances()
        world.cloud.compute.stop_instance(vm.id)
        assert world.exports(share) is None
        with world.store.begin() as tx:
            tx.execute(update(share_servers).values(status="error", healthy=False))
        (server,) = world.rows(share_servers)
        world.request_server_operation("heal_server", server.id)
        world.run()
        (server,) = world.rows(share_servers)
        assert (server.status, server.healthy) == ("active", True)
        assert server.last_seen is not None
        assert world.exports(share) == [["10.20.0.1/32", "rw"]]

    def test_one_that_cannot_be_healed_takes_no_new_share(self, sqlite_world: World) -> None:
        create(sqlite_world)
        (server,) = sqlite_world.rows(share_servers)
        for call in ("guest.wait_ready", "guest.observe"):
            sqlite_world.cloud.fail(call, GuestUnreachable, times=-1)
        sqlite_world.request_server_operation("heal_server", server.id)
        sqlite_world.run()
        assert sqlite_world.rows(share_servers)[0].healthy is False
        sqlite_world.cloud.forgive()
        (share,) = create(sqlite_world)
        assert sqlite_world.share(share).share_server_id != server.id

    def test_operations_on_one_that_is_gone(self, sqlite_world: World) -> None:
        for kind in ("create_share_server", "delete_share_server", "heal_server"):
            sqlite_world.request_server_operation(kind, new_id())
        sqlite_world.run()
        assert {row.state for row in sqlite_world.rows(operations)} == {"succeeded"}
