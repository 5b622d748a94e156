"""/snapshots and /snapshot-instances: what is accepted and shown, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select, update
from test_api_clients import tenant_network

from sharewright.states import ShareStatus, SnapshotStatus
from sharewright.store.tables import operations, share_snapshot_instances, share_snapshots, shares

NOBODY = "7d0d9d8e-0000-4000-8000-000000000000"


def type_with_snapshots(site: Site, name: str = "snapping") -> str:
    specs = {"driver_handles_share_servers": True, "snapshot_support": True}
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": name, "extra_specs": specs}}, user="root")
    return name


def a_share(site: Site, size: int = 2, **values: Any) -> str:
    with site.store.read() as tx:
        known = tx.execute(select(shares.c.id)).first() is not None
    share_type = "snapping" if known else type_with_snapshots(site)
    return str(site.served_share(size=size, share_type=share_type, **values)["id"])


def snap(site: Site, share_id: str, status: int = 202, user: str = "alice", **values: Any) -> Any:
    version = values.pop("version", "2.81")
    answer = site.expect(
        status, "POST", "/v2/snapshots", {"snapshot": {"share_id": share_id, **values}}, user=user, version=version
    )
    return answer["snapshot"] if status == 202 else answer


def settle(site: Site, snapshot_id: str, status: str = "available") -> None:
    with site.store.begin() as tx:
        tx.execute(update(share_snapshots).where(share_snapshots.c.id == snapshot_id).values(status=status))
        tx.execute(
            update(share_snapshot_instances)
            .where(share_snapshot_instances.c.snapshot_id == snapshot_id)
            .values(status=status, provider_location="cloud-snapshot")
        )


def enqueued(site: Site) -> list[tuple[str, str]]:
    with site.store.read() as tx:
        rows = tx.execute(select(operations.c.kind, operations.c.key).where(operations.c.key.like("share_snapshot:%")))
        return [(row.kind, row.key) for row in rows]


def in_use(site: Site, query: str = "") -> tuple[int, int]:
    detail = site.expect(200, "GET", f"/v2/quota-sets/blue/detail{query}")["quota_set"]
    return detail["snapshots"]["in_use"], detail["snapshot_gigabytes"]["in_use"]


class TestCreate:
    def test_accepted_with_its_quota_and_operation(self, any_site: Site) -> None:
        share = a_share(any_site)
        made = snap(any_site, share, name="monday", description="before", metadata={"a": "1"})
        assert made == {
            "id": made["id"], "name": "monday", "description": "before", "share_id": share, "share_size": 2, "size": 2,
            "share_proto": "NFS", "status": "creating", "created_at": made["created_at"], "project_id": "blue",
            "user_id": "alice", "metadata": {"a": "1"}, "links": made["links"],
        }  # fmt: skip
        assert [link["rel"] for link in made["links"]] == ["self", "bookmark"]
        assert enqueued(any_site) == [("create_snapshot", f"share_snapshot:{made['id']}")]
        for query in ("", "?user_id=alice", "?share_type=snapping"):
            assert in_use(any_site, query) == (1, 2)

    def test_the_old_names_of_keys(self, site: Site) -> None:
        made = snap(site, a_share(site), display_name="n", display_description="d", force=True, version="2.0")
        assert (made["name"], made["description"]) == ("n", "d")
        assert {"project_id", "user_id", "metadata"}.isdisjoint(made)

    @pytest.mark.parametrize("status", sorted(set(ShareStatus.ALL) - {"available"}))
    def test_statuses_that_do_not_allow_it(self, site: Site, status: str) -> None:
        share = a_share(site)
        site.finish_status(share, status)
        assert f"'{status}'" in snap(site, share, 400)["badRequest"]["message"]
        assert enqueued(site) == []
        assert in_use(site) == (0, 0)

    def test_a_share_type_without_snapshots(self, site: Site) -> None:
        share = site.served_share()
        answer = snap(site, share["id"], 422)
        assert "does not have that capability" in answer["computeFault"]["message"]
        assert in_use(site) == (0, 0)

    @pytest.mark.parametrize(
        ("quota", "part"),
        [
            ({"snapshots": 1}, "SnapshotLimitExceeded"),
            ({"snapshot_gigabytes": 3}, "SnapshotSizeExceedsAvailableQuota"),
        ],
    )
    def test_quotas(self, site: Site, quota: dict[str, int], part: str) -> None:
        share = a_share(site)
        for query in ("", "?user_id=alice", "?share_type=snapping"):
            snapshot = snap(site, share)
            site.expect(200, "PUT", f"/v2/quota-sets/blue{query}", {"quota_set": quota}, user="root")
            assert part in snap(site, share, 413)["overLimit"]["message"]
            assert in_use(site) == (1, 2)
            site.expect(202, "DELETE", f"/v2/quota-sets/blue{query}", user="root")
            with site.store.begin() as tx:  # as its deletion does
                tx.execute(share_snapshots.delete().where(share_snapshots.c.id == snapshot["id"]))
                tx.exec_driver_sql("UPDATE quota_usages SET in_use = 0 WHERE resource LIKE 'snapshot%'")

    @pytest.mark.parametrize(
        "values",
        [
            {"name": 5},
            {"name": "x" * 256},
            {"metadata": {"a": 1}},
            {"metadata": {"": "x"}},
            {"metadata": []},
            {"odd": 1},
            {"force": "perhaps"},
        ],
    )
    def test_bad_values_change_nothing(self, site: Site, values: dict[str, Any]) -> None:
        snap(site, a_share(site), 400, **values)
        assert enqueued(site) == []
        assert in_use(site) == (0, 0)

    def test_bodies_without_a_share(self, site: Site) -> None:
        site.expect(400, "POST", "/v2/snapshots", {"snapshot": {}})
        site.expect(400, "POST", "/v2/snapshots", {"share": {}})
        snap(site, NOBODY, 404)
        snap(site, "no-id", 404)

    def test_who_may(self, site: Site) -> None:
        share = a_share(site)
        snap(site, share, 403, user="rita")
        snap(site, share, 404, user="bob")
        with site.store.begin() as tx:
            tx.execute(update(shares).values(is_public=True))
        snap(site, share, 403, user="bob")
        assert enqueued(site) == []


class TestShow:
    def test_by_microversion_and_caller(self, site: Site) -> None:
        snapshot = snap(site, a_share(site))["id"]
        settle(site, snapshot)
        path = f"/v2/snapshots/{snapshot}"

        def keys(version: str, user: str = "alice") -> set[str]:
            return set(site.expect(200, "GET", path, version=version, user=user)["snapshot"])

        oldest = keys("2.0")
        assert keys("2.12", "root") - oldest == {"provider_location"}
        assert keys("2.12") == oldest
        assert keys("2.17") - oldest == {"project_id", "user_id"}
        assert keys("2.73") - oldest == {"project_id", "user_id", "metadata"}
        shown = site.expect(200, "GET", path, user="root")["snapshot"]
        assert (shown["provider_location"], shown["status"]) == ("cloud-snapshot", "available")

    def test_others_do_not_see_it(self, site: Site) -> None:
        snapshot = snap(site, a_share(site))["id"]
        site.expect(404, "GET", f"/v2/snapshots/{snapshot}", user="bob")
        site.expect(200, "GET", f"/v2/snapshots/{snapshot}", user="rita")
        site.expect(404, "GET", f"/v2/snapshots/{NOBODY}")
        site.expect(404, "GET", "/v2/snapshots/no-id")
        assert site.expect(200, "GET", "/v2/snapshots", user="bob")["snapshots"] == []
        assert len(site.expect(200, "GET", "/v2/snapshots?all_tenants=1", user="root")["snapshots"]) == 1
        assert site.expect(200, "GET", "/v2/snapshots?all_tenants=1", user="bob")["snapshots"] == []

    def test_lists(self, site: Site) -> None:
        first, second = a_share(site), a_share(site, size=3)
        one = snap(site, first, name="alpha", description="x", metadata={"k": "v"})["id"]
        two = snap(site, second, name="beta")["id"]
        settle(site, two)

        def ids(query: str = "", path: str = "/v2/snapshots/detail", **options: Any) -> list[str]:
            return [each["id"] for each in site.expect(200, "GET", f"{path}?{query}", **options)["snapshots"]]

        assert ids() == [two, one]
        assert ids("sort_dir=asc&sort_key=size", path="/v2/snapshots") == [one, two]
        for query in ("name=alpha", "display_name=alpha", "name~=lph", "description=x", "status=creating", "size=2",
                      f"share_id={first}", "metadata={'k': 'v'}"):  # fmt: skip
            assert ids(query) == [one], query
        assert ids("size=2&name=beta") == []
        assert ids("limit=1&sort_dir=asc") == [one]
        assert ids("offset=1") == [one]
        assert ids(f"marker={two}") == [one]
        summary = site.expect(200, "GET", "/v2/snapshots")["snapshots"][0]
        assert set(summary) == {"id", "name", "links"}
        assert site.expect(200, "GET", "/v2/snapshots?with_count=true&limit=1")["count"] == 2
        assert "count" not in site.expect(200, "GET", "/v2/snapshots?with_count=true", version="2.78")
        site.expect(400, "GET", "/v2/snapshots?sort_key=colour")
        site.expect(400, "GET", "/v2/snapshots?limit=-1")

    def test_a_list_costs_two_statements(self, site: Site) -> None:
        share = a_share(site)
        for _ in range(3):
            snap(site, share)
        with site.statements() as statements:
            site.expect(200, "GET", "/v2/snapshots/detail")
        assert len(statements) == 2

    def test_the_stock_list_of_shares_made_from_one(self, site: Site) -> None:
        a_share(site)
        assert site.expect(200, "GET", f"/v2/shares?snapshot_id={NOBODY}")["shares"] == []


class TestChange:
    def test_name_and_description(self, site: Site) -> None:
        path = f"/v2/snapshots/{snap(site, a_share(site), name='a')['id']}"
        changed = site.expect(200, "PUT", path, {"snapshot": {"display_name": "b", "description": "c"}})["snapshot"]
        assert (changed["name"], changed["description"]) == ("b", "c")
        assert site.expect(200, "PUT", path, {"snapshot": {"share_id": NOBODY}})["snapshot"]["name"] == "b"
        site.expect(403, "PUT", path, {"snapshot": {"name": "b"}}, user="rita")
        site.expect(404, "PUT", path, {"snapshot": {"name": "b"}}, user="bob")

    def test_metadata(self, site: Site) -> None:
        path = f"/v2/snapshots/{snap(site, a_share(site), metadata={'a': '1'})['id']}/metadata"
        assert site.expect(200, "POST", path, {"metadata": {"b": "2"}})["metadata"] == {"a": "1", "b": "2"}
        assert site.expect(200, "PUT", path, {"metadata": {"c": "3"}})["metadata"] == {"c": "3"}
        assert site.expect(200, "PUT", f"{path}/c", {"meta": {"c": "4"}})["meta"] == {"c": "4"}
        assert site.expect(200, "GET", f"{path}/c")["meta"] == {"c": "4"}
        site.expect(200, "DELETE", f"{path}/c")
        site.expect(404, "DELETE", f"{path}/c")
        site.expect(404, "GET", f"{path}/c")
        assert site.expect(200, "GET", path)["metadata"] == {}
        site.expect(404, "GET", path, version="2.72")
        site.expect(403, "POST", path, {"metadata": {"b": "2"}}, user="rita")
        site.expect(400, "POST", path, {"metadata": {"b": 2}})


class TestDelete:
    @pytest.mark.parametrize("status", ["available", "error", "error_deleting", "manage_error", "unmanage_error"])
    def test_accepted(self, site: Site, status: str) -> None:
        snapshot = snap(site, a_share(site))["id"]
        settle(site, snapshot, status)
        answer = site.ask("DELETE", f"/v2/snapshots/{snapshot}")
        assert (answer.status_code, answer.content) == (202, b"")
        assert enqueued(site)[-1] == ("delete_snapshot", f"share_snapshot:{snapshot}")
        assert site.expect(200, "GET", f"/v2/snapshots/{snapshot}")["snapshot"]["status"] == "deleting"

    @pytest.mark.parametrize("status", ["creating", "deleting", "restoring", "manage_starting", "unmanage_starting"])
    def test_not_while_it_is_worked_on(self, site: Site, status: str) -> None:
        snapshot = snap(site, a_share(site))["id"]
        settle(site, snapshot, status)
        path = f"/v2/snapshots/{snapshot}"
        assert f"'{status}'" in site.expect(400, "DELETE", path)["badRequest"]["message"]
        assert len(enqueued(site)) == 1
        site.expect(403, "POST", f"{path}/action", {"force_delete": {}})
        site.expect(202, "POST", f"{path}/action", {"force_delete": {}}, user="root")
        assert enqueued(site)[-1][0] == "delete_snapshot"

    def test_who_may(self, site: Site) -> None:
        snapshot = snap(site, a_share(site))["id"]
        settle(site, snapshot)
        site.expect(403, "DELETE", f"/v2/snapshots/{snapshot}", user="rita")
        site.expect(404, "DELETE", f"/v2/snapshots/{snapshot}", user="bob")
        site.expect(404, "DELETE", f"/v2/snapshots/{NOBODY}")

    def test_a_share_with_snapshots_stays(self, site: Site) -> None:
        share = a_share(site)
        snapshot = snap(site, share)["id"]
        for status in ("creating", "available", "error"):
            settle(site, snapshot, status)
            message = site.expect(403, "DELETE", f"/v2/shares/{share}")["forbidden"]["message"]
            assert "Share still has 1 dependent snapshots" in message
            site.expect(403, "POST", f"/v2/shares/{share}/action", {"force_delete": {}}, user="root")
        assert site.expect(200, "GET", f"/v2/shares/{share}")["share"]["status"] == "available"


class TestAdministrators:
    @pytest.mark.parametrize(("version", "prefix"), [("2.6", "os-"), ("2.7", "")])
    def test_reset_status(self, site: Site, version: str, prefix: str) -> None:
        snapshot = snap(site, a_share(site))["id"]
        path = f"/v2/snapshots/{snapshot}/action"
        body = {f"{prefix}reset_status": {"status": "error"}}
        site.expect(403, "POST", path, body, version=version)
        site.expect(202, "POST", path, body, version=version, user="root")
        assert site.expect(200, "GET", f"/v2/snapshots/{snapshot}")["snapshot"]["status"] == "error"
        site.expect(400, "POST", path, {f"{prefix}reset_status": {"status": "odd"}}, version=version, user="root")
        site.expect(202, "POST", path, {f"{prefix}force_delete": {}}, version=version, user="root")

    def test_instances(self, site: Site) -> None:
        share = a_share(site)
        one, two = snap(site, share)["id"], snap(site, share)["id"]
        settle(site, one)
        site.expect(403, "GET", "/v2/snapshot-instances")
        site.expect(404, "GET", "/v2/snapshot-instances", user="root", version="2.18")
        summaries = site.expect(200, "GET", "/v2/snapshot-instances", user="root")["snapshot_instances"]
        assert {each["snapshot_id"] for each in summaries} == {one, two}
        assert set(summaries[0]) == {"id", "snapshot_id", "status"}
        (detail,) = site.expect(200, "GET", f"/v2/snapshot-instances/detail?snapshot_id={one}", user="root")[
            "snapshot_instances"
        ]
        assert (detail["share_id"], detail["provider_location"], detail["status"]) == (
            share, "cloud-snapshot", "available",
        )  # fmt: skip
        path = f"/v2/snapshot-instances/{detail['id']}"
        assert site.expect(200, "GET", path, user="root")["snapshot_instance"] == detail
        site.expect(403, "GET", path)
        site.expect(404, "GET", f"/v2/snapshot-instances/{NOBODY}", user="root")
        site.expect(202, "POST", f"{path}/action", {"reset_status": {"status": "error"}}, user="root")
        assert site.expect(200, "GET", f"/v2/snapshots/{one}")["snapshot"]["status"] == "error"
        site.expect(400, "POST", f"{path}/action", {"reset_status": {"status": "odd"}}, user="root")
        site.expect(403, "POST", f"{path}/action", {"reset_status": {"status": "error"}})


def test_every_status_is_known() -> None:
    named = {value for name, value in vars(SnapshotStatus).items() if name.isupper() and isinstance(value, str)}
    assert named <= set(SnapshotStatus.ALL)


def test_on_a_working_site(working_site: Site) -> None:
    """The whole way: request, worker, simulated cloud."""
    site = working_site
    net, subnet = tenant_network(site)
    network = site.network(neutron_net_id=net, neutron_subnet_id=subnet)["id"]
    share = site.share(network=network, share_type=type_with_snapshots(site))["id"]
    site.wait(f"/v2/shares/{share}", "share", "status", "available")
    snapshot = snap(site, share)["id"]
    site.wait(f"/v2/snapshots/{snapshot}", "snapshot", "status", "available")
    site.expect(403, "DELETE", f"/v2/shares/{share}")
    site.expect(202, "DELETE", f"/v2/snapshots/{snapshot}")
    site.wait_gone(f"/v2/snapshots/{snapshot}")
    site.expect(202, "DELETE", f"/v2/shares/{share}")
