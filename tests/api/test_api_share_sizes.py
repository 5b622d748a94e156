"""The actions extend and shrink: what is accepted, and every refusal with Manila's status."""

from __future__ import annotations

from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import select
from test_api_clients import tenant_network

from sharewright.states import ShareStatus
from sharewright.store.tables import operations, shares


def extend(site: Site, status: int, share_id: str, size: Any, **options: Any) -> Any:
    values = {"new_size": size, **options.pop("values", {})}
    return site.expect(status, "POST", f"/v2/shares/{share_id}/action", {"extend": values}, **options)


def in_use(site: Site, query: str = "") -> int:
    detail = site.expect(200, "GET", f"/v2/quota-sets/blue/detail{query}")["quota_set"]
    return int(detail["gigabytes"]["in_use"])


def extensions(site: Site) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == "extend_share")).all())


def test_accepted_with_its_quota_and_operation(any_site: Site) -> None:
    share = any_site.served_share(size=2)
    answer = any_site.ask("POST", f"/v2/shares/{share['id']}/action", {"extend": {"new_size": 5}})
    assert (answer.status_code, answer.content) == (202, b"")
    shown = any_site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]
    assert (shown["status"], shown["size"]) == ("extending", 2)  # it grows when it has grown
    (operation,) = extensions(any_site)
    assert (operation.key, operation.state) == (f"share:{share['id']}", "queued")
    assert operation.payload == {"size": 5, "reserved": 3, "force": False, "status": "available"}
    assert in_use(any_site) == in_use(any_site, "?user_id=alice") == in_use(any_site, "?share_type=default") == 5


@pytest.mark.parametrize(("version", "action"), [("2.6", "os-extend"), ("2.7", "extend"), ("2.63", "extend")])
def test_names_by_microversion(site: Site, version: str, action: str) -> None:
    share = site.served_share()
    wrong = "extend" if action == "os-extend" else "os-extend"
    path = f"/v2/shares/{share['id']}/action"
    site.expect(404, "POST", path, {wrong: {"new_size": 2}}, version=version)
    # Of no meaning before 2.64, not even to those who may not use it.
    site.expect(202, "POST", path, {action: {"new_size": "2", "force": "perhaps"}}, version=version)
    assert extensions(site)[0].payload["force"] is False


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "must be specified as an integer"),
        ({"new_size": None}, "must be specified as an integer"),
        ({"new_size": "big"}, "must be specified as an integer"),
        ({"new_size": 2.5}, "must be specified as an integer"),
        ({"new_size": True}, "must be specified as an integer"),
        ({"new_size": [3]}, "must be specified as an integer"),
        ({"new_size": 2}, "must be greater than current size. (current: 2, extended: 2)"),
        ({"new_size": 1}, "must be greater"),
        ({"new_size": -3}, "must be greater"),
        ({"new_size": 2**31}, "expected at most"),
        ({"new_size": 10**30}, "new_size|integer"),
        ({"new_size": 3, "force": "perhaps"}, "force"),
        ({"new_size": 3, "force": None}, "force"),
        ("three", "Malformed"),
    ],
)
def test_bad_values_change_nothing(site: Site, body: Any, part: str) -> None:
    share = site.served_share(size=2)
    answer = site.expect(400, "POST", f"/v2/shares/{share['id']}/action", {"extend": body})
    message = answer["badRequest"]["message"]
    assert any(each in message for each in part.split("|"))
    assert site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["status"] == "available"
    assert extensions(site) == []
    assert in_use(site) == 2


@pytest.mark.parametrize("status", sorted(set(ShareStatus.ALL) - {"available", "extending_error"}))
def test_statuses_that_do_not_allow_it(site: Site, status: str) -> None:
    share = site.served_share()
    site.finish_status(share["id"], status)
    message = extend(site, 400, share["id"], 2)["badRequest"]["message"]
    assert f"'{status}'" in message
    assert extensions(site) == []


def test_extending_error_may_be_tried_again_and_deleted(site: Site) -> None:
    share = site.served_share()
    site.finish_status(share["id"], "extending_error")
    extend(site, 202, share["id"], 2)
    assert extensions(site)[0].payload["status"] == "extending_error"
    site.finish_status(share["id"], "extending_error")
    site.expect(202, "DELETE", f"/v2/shares/{share['id']}")


def test_the_quota_of_gigabytes(site: Site) -> None:
    share = site.served_share(size=2)
    for query in ("", "?user_id=alice", "?share_type=default"):
        site.expect(200, "PUT", f"/v2/quota-sets/blue{query}", {"quota_set": {"gigabytes": 4}}, user="root")
        message = extend(site, 403, share["id"], 5)["forbidden"]["message"]
        assert "Requested share exceeds allowed project/user or share type gigabytes quota (4 GiB)" in message
        assert in_use(site) == 2
        site.expect(202, "DELETE", f"/v2/quota-sets/blue{query}", user="root")
    assert extensions(site) == []
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"gigabytes": 4}}, user="root")
    extend(site, 202, share["id"], 4)


def test_the_quota_of_one_share(site: Site) -> None:
    share = site.served_share()
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"per_share_gigabytes": 3}}, user="root")
    message = extend(site, 413, share["id"], 4)["overLimit"]["message"]
    assert "ShareSizeExceedsLimit" in message
    extend(site, 202, share["id"], 3)


def test_an_administrator_uses_the_owner_s_quota(site: Site) -> None:
    share = site.served_share()
    site.expect(200, "PUT", "/v2/quota-sets/blue", {"quota_set": {"gigabytes": 2}}, user="root")
    extend(site, 403, share["id"], 3, user="root")
    extend(site, 202, share["id"], 2, user="root")
    assert in_use(site, "?user_id=alice") == 2


def test_the_share_type_s_limits(site: Site) -> None:
    specs = {
        "driver_handles_share_servers": True,
        "provisioning:min_share_size": "1",
        "provisioning:max_share_size": "4",
        "provisioning:max_share_extend_size": "8",
    }
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": "narrow", "extra_specs": specs}}, user="root")
    share = site.served_share(share_type="narrow")
    assert "max_share_size" in extend(site, 400, share["id"], 5)["badRequest"]["message"]
    assert "max_share_extend_size" in extend(site, 400, share["id"], 9, user="root")["badRequest"]["message"]
    extend(site, 202, share["id"], 4)
    other = site.served_share(share_type="narrow")
    extend(site, 202, other["id"], 8, user="root")  # who may go beyond the ordinary limit


def test_who_may(site: Site) -> None:
    share = site.served_share()
    extend(site, 403, share["id"], 2, user="rita")
    extend(site, 404, share["id"], 2, user="bob")
    extend(site, 403, share["id"], 2, values={"force": True})
    assert extensions(site) == []
    extend(site, 202, share["id"], 2, user="root", values={"force": "true"})
    assert extensions(site)[0].payload["force"] is True
    other = site.served_share()
    extend(site, 202, other["id"], 2, values={"force": False})


def test_of_a_public_share_only_the_owner(site: Site) -> None:
    share = site.served_share()
    with site.store.begin() as tx:
        tx.execute(shares.update().values(is_public=True))
    extend(site, 403, share["id"], 2, user="bob")


def test_no_such_share(site: Site) -> None:
    extend(site, 404, "7d0d9d8e-0000-4000-8000-000000000000", 2)


def test_on_a_working_site(working_site: Site) -> None:
    """The whole way: request, worker, simulated cloud."""
    net, subnet = tenant_network(working_site)
    network = working_site.network(neutron_net_id=net, neutron_subnet_id=subnet)["id"]
    share = working_site.share(network=network)
    path = f"/v2/shares/{share['id']}"
    working_site.wait(path, "share", "status", "available")
    extend(working_site, 202, share["id"], 3)
    working_site.wait(path, "share", "size", 3)
    assert working_site.expect(200, "GET", path)["share"]["status"] == "available"


# ---- shrink ----


def shrink(site: Site, status: int, share_id: str, size: Any, **options: Any) -> Any:
    return site.expect(status, "POST", f"/v2/shares/{share_id}/action", {"shrink": {"new_size": size}}, **options)


def shrinkings(site: Site) -> list[Any]:
    with site.store.read() as tx:
        return list(tx.execute(select(operations).where(operations.c.kind == "shrink_share")).all())


def test_shrink_accepted(any_site: Site) -> None:
    share = any_site.served_share(size=5)
    answer = any_site.ask("POST", f"/v2/shares/{share['id']}/action", {"shrink": {"new_size": 2}})
    assert (answer.status_code, answer.content) == (202, b"")
    shown = any_site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]
    assert (shown["status"], shown["size"]) == ("shrinking", 5)
    (operation,) = shrinkings(any_site)
    assert (operation.key, operation.state) == (f"share:{share['id']}", "queued")
    assert operation.payload == {"size": 2, "status": "available"}
    assert (operation.deadline - operation.created_at).total_seconds() > 1000  # copying takes its time
    assert in_use(any_site) == 5  # until it has shrunk


@pytest.mark.parametrize(("version", "action"), [("2.0", "os-shrink"), ("2.6", "os-shrink"), ("2.7", "shrink")])
def test_shrink_by_microversion(site: Site, version: str, action: str) -> None:
    share = site.served_share(size=2)
    wrong = "shrink" if action == "os-shrink" else "os-shrink"
    path = f"/v2/shares/{share['id']}/action"
    site.expect(404, "POST", path, {wrong: {"new_size": 1}}, version=version)
    site.expect(202, "POST", path, {action: {"new_size": "1"}}, version=version)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "must be specified as an integer"),
        ({"new_size": None}, "must be specified as an integer"),
        ({"new_size": "small"}, "must be specified as an integer"),
        ({"new_size": 2}, "must be less than current size and greater than 0 (current: 2, new: 2)"),
        ({"new_size": 3}, "must be less than current size"),
        ({"new_size": 0}, "greater than 0"),
        ({"new_size": -1}, "greater than 0"),
    ],
)
def test_bad_values_shrink_nothing(site: Site, body: Any, part: str) -> None:
    share = site.served_share(size=2)
    answer = site.expect(400, "POST", f"/v2/shares/{share['id']}/action", {"shrink": body})
    assert part in answer["badRequest"]["message"]
    assert site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]["status"] == "available"
    assert shrinkings(site) == []


SHRINKABLE = {"available", "shrinking_error", "shrinking_possible_data_loss_error"}


@pytest.mark.parametrize("status", sorted(ShareStatus.ALL))
def test_statuses_and_shrink(site: Site, status: str) -> None:
    share = site.served_share(size=2)
    site.finish_status(share["id"], status)
    allowed = status in SHRINKABLE
    shrink(site, 202 if allowed else 400, share["id"], 1)
    assert len(shrinkings(site)) == allowed


def test_the_share_type_s_smallest_size(site: Site) -> None:
    specs = {"driver_handles_share_servers": True, "provisioning:min_share_size": "2"}
    site.expect(200, "POST", "/v2/types", {"share_type": {"name": "wide", "extra_specs": specs}}, user="root")
    share = site.served_share(size=4, share_type="wide")
    assert "min_share_size" in shrink(site, 400, share["id"], 1)["badRequest"]["message"]
    shrink(site, 202, share["id"], 2)


def test_who_may_shrink(site: Site) -> None:
    share = site.served_share(size=2)
    shrink(site, 403, share["id"], 1, user="rita")
    shrink(site, 404, share["id"], 1, user="bob")
    with site.store.begin() as tx:
        tx.execute(shares.update().values(is_public=True))
    shrink(site, 403, share["id"], 1, user="bob")
    assert shrinkings(site) == []
    shrink(site, 404, "7d0d9d8e-0000-4000-8000-000000000000", 1)
    shrink(site, 202, share["id"], 1, user="root")


def test_shrink_on_a_working_site(working_site: Site) -> None:
    net, subnet = tenant_network(working_site)
    network = working_site.network(neutron_net_id=net, neutron_subnet_id=subnet)["id"]
    share = working_site.share(network=network, size=4)
    path = f"/v2/shares/{share['id']}"
    working_site.wait(path, "share", "status", "available")
    shrink(working_site, 202, share["id"], 2)
    working_site.wait(path, "share", "size", 2)
    assert working_site.expect(200, "GET", path)["share"]["status"] == "available"
