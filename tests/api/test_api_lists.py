"""Lists: pages, order, filters, counts, number of SQL statements. Messages, zones, services, pools."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from site_for_tests import Site
from sqlalchemy import insert, update
from test_api_recycle_bin import act
from test_api_share_transfers import accept, free_share, offer

from sharewright.identifiers import utcnow
from sharewright.operations import delete_share
from sharewright.operations.messages import Action, Detail, write_message
from sharewright.operations.registration import register
from sharewright.operations.share_rows import read_shares_to_delete
from sharewright.store.tables import pools, share_counts, share_instances, shares, workers


def fill(site: Site, count: int, user: str = "alice", **values: Any) -> list[str]:
    """Shares named s0, s1, …, each a second younger than the one before; two have no name."""
    network = site.network(user)["id"]
    made = []
    for number in range(count):
        name = None if number in (3, 4) else f"s{number}"
        made.append(site.share(user, network=network, name=name, size=1 + number % 3, **values)["id"])
    start = utcnow() - timedelta(hours=1)
    with site.store.begin() as tx:
        for number, identifier in enumerate(made):
            moment = start + timedelta(seconds=number // 2 * 2)  # pairs of the same age
            tx.execute(update(shares).where(shares.c.id == identifier).values(created_at=moment))
    return made


def listed(site: Site, query: str = "", **options: Any) -> list[str]:
    answer = site.expect(200, "GET", f"/v2/shares?{query}", **options)
    return [share["id"] for share in answer["shares"]]


@pytest.mark.parametrize("key", ["created_at", "name", "size", "id", "share_proto", "host"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_following_the_next_links_shows_everything_once(any_site: Site, key: str, direction: str) -> None:
    fill(any_site, 7)
    everything = listed(any_site, f"sort_key={key}&sort_dir={direction}")
    assert len(everything) == 7
    seen: list[str] = []
    url = f"/v2/shares/detail?limit=2&sort_key={key}&sort_dir={direction}"
    pages = 0
    while url:
        page = any_site.expect(200, "GET", url)
        seen += [share["id"] for share in page["shares"]]
        links = page.get("shares_links", [])
        assert all(link["rel"] == "next" for link in links)
        url = links[0]["href"].removeprefix(any_site.url) if links else ""
        pages += 1
    assert seen == everything
    assert pages == 4


def test_order(site: Site) -> None:
    made = fill(site, 6)
    newest_first = listed(site)
    assert set(newest_first[:2]) == set(made[4:])
    assert set(newest_first[4:]) == set(made[:2])
    assert newest_first == list(reversed(listed(site, "sort_dir=asc")))
    by_name = listed(site, "sort_key=display_name&sort_dir=asc")
    assert set(by_name[:2]) == {made[3], made[4]}  # nameless first
    assert by_name[2:] == [made[0], made[1], made[2], made[5]]


def test_limit_and_offset(site: Site) -> None:
    fill(site, 5)
    everything = listed(site)
    assert listed(site, "limit=2") == everything[:2]
    assert listed(site, "limit=2&offset=2") == everything[2:4]
    assert listed(site, "limit=2&offset=4") == everything[4:]
    assert listed(site, "limit=0") == listed(site, "limit=5000") == everything
    assert listed(site, f"marker={everything[2]}") == everything[3:]
    assert "shares_links" not in site.expect(200, "GET", "/v2/shares")
    assert "shares_links" not in site.expect(200, "GET", "/v2/shares?limit=6")
    (link,) = site.expect(200, "GET", "/v2/blue/shares?limit=2&name~=s")["shares_links"]
    assert link["href"].startswith(f"{site.url}/v2/blue/shares?")
    assert "marker=" in link["href"]
    assert "limit=2" in link["href"]
    assert "name~=s" in link["href"].replace("%7E", "~")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=-1", "limit param must be positive"),
        ("limit=x", "limit param must be an integer"),
        ("offset=-1", "offset param must be positive"),
        ("offset=1.5", "offset param must be an integer"),
        ("sort_key=foo", "Invalid input received: Wrong sorting key provided - 'foo'."),
        ("sort_dir=foo", "Invalid input received: Wrong sorting direction provided - 'foo'."),
        (f"marker={uuid.UUID(int=0)}", "The marker"),
        ("is_public=perhaps", "is_public"),
        ("all_tenants=perhaps", "all_tenants"),
        ("metadata=nonsense", "metadata"),
        ("with_count=perhaps", "with_count"),
    ],
)
def test_bad_queries_are_refused(site: Site, query: str, message: str) -> None:
    fault = site.expect(400, "GET", f"/v2/shares?{query}")["badRequest"]
    assert message in fault["message"]


def test_the_count_is_of_all(site: Site) -> None:
    fill(site, 4)
    for path in ("/v2/shares", "/v2/shares/detail"):
        answer = site.expect(200, "GET", f"{path}?limit=1&with_count=true")
        assert (len(answer["shares"]), answer["count"]) == (1, 4)
        assert "count" not in site.expect(200, "GET", f"{path}?limit=1&with_count=true", version="2.41")
        assert "count" not in site.expect(200, "GET", f"{path}?limit=1")


def counted(site: Site, query: str = "", **options: Any) -> int:
    return int(site.expect(200, "GET", f"/v2/shares?limit=1&with_count=true&{query}", **options)["count"])


def test_the_count_follows_the_shares(any_site: Site) -> None:
    site = any_site

    def counts() -> tuple[int, ...]:
        """alice's, those in her recycle bin, bob's, everybody's, and bob's as an administrator sees them."""
        all_of_bob = counted(site, "all_tenants=1&project_id=green", user="root")
        own, bobs = counted(site), counted(site, user="bob")
        return own, counted(site, "is_soft_deleted=true"), bobs, counted(site, "all_tenants=1", user="root"), all_of_bob

    assert counts() == (0, 0, 0, 0, 0)
    fill(site, 3)
    fill(site, 2, user="bob")
    share = free_share(site)
    assert counts() == (4, 0, 2, 6, 2)
    act(site, 202, share, "soft_delete")
    assert counts() == (3, 1, 2, 5, 2)
    act(site, 202, share, "restore")
    assert counts() == (4, 0, 2, 6, 2)
    accept(site, 202, offer(site, share))
    assert counts() == (3, 0, 3, 6, 3)
    with site.store.begin() as tx:
        instances, _ = read_shares_to_delete(tx, share)
        delete_share.finish(tx, share, instances)
    assert counts() == (3, 0, 2, 5, 2)


def test_only_shares_that_a_filter_chooses_are_counted_one_by_one(any_site: Site) -> None:
    site = any_site
    fill(site, 3)
    fill(site, 2, user="bob")
    public = site.share("bob", name="public")["id"]
    site.expect(200, "PUT", f"/v2/shares/{public}", {"share": {"is_public": True}}, user="root")
    with site.store.begin() as tx:  # shows where the number comes from
        for project, number in (("blue", 100), ("green", 1000)):
            tx.execute(insert(share_counts).values(project_id=project, is_soft_deleted=False, slot=-1, number=number))
    for query, user, expected in (
        ("", "alice", 103),
        ("", "bob", 1003),
        ("is_public=false&is_soft_deleted=false&project_id=green", "alice", 103),
        ("is_soft_deleted=true", "alice", 0),
        ("is_public=true", "alice", 4),
        ("name~=s", "alice", 3),
        ("name=s1", "alice", 1),
        ("status=creating", "alice", 3),
        ("all_tenants=1", "alice", 103),
        ("all_tenants=1", "root", 1106),
        ("all_tenants=1&is_public=true", "root", 1106),
        ("all_tenants=1&project_id=green&is_public=true", "root", 1003),
        ("all_tenants=1&status=creating", "root", 6),
        ("all_tenants=1&project_id=green&status=creating", "root", 3),
    ):
        assert counted(site, query, user=user) == expected, query


def test_filters(any_site: Site) -> None:
    made = fill(any_site, 5, metadata={"color": "red", "n": "1"})
    any_site.finish(made[0])
    network = any_site.network()["id"]
    other = any_site.share(network=network, name="100%_real", description="words")["id"]
    type_id = any_site.expect(200, "GET", "/v2/types/default")["share_type"]["id"]
    for query, expected in (
        ("name=s1", {made[1]}),
        ("display_name=s1", {made[1]}),
        ("name~=s", {made[0], made[1], made[2]}),
        ("name~=%25_", {other}),
        ("name~=_", {other}),
        ("description=words", {other}),
        ("description~=ord", {other}),
        ("status=available", {made[0]}),
        (f"share_network_id={network}", {other}),
        (f"share_type_id={type_id}", {*made, other}),
        ("share_type_id=x", set()),
        ("snapshot_id=x", set()),
        ("share_group_id=x", set()),
        ("is_soft_deleted=true", set()),
        ("is_soft_deleted=false", {*made, other}),
        ("is_public=false", {*made, other}),
        ("metadata={'color': 'red'}", set(made)),
        ("metadata={'color': 'red', 'n': '2'}", set()),
        ("extra_specs={'driver_handles_share_servers': 'True'}", {*made, other}),
        ("extra_specs={'driver_handles_share_servers': 'False'}", set()),
        ("export_location_path~=10.0.0.5", {made[0]}),
        ("export_location_path=nowhere", set()),
        ("frob=1", {*made, other}),
        ("name=' OR 1=1 --", set()),
    ):
        assert set(listed(any_site, query)) == expected, query
    assert set(listed(any_site, "name~=s", version="2.35")) == {*made, other}
    (location,) = any_site.expect(200, "GET", f"/v2/shares/{made[0]}/export_locations")["export_locations"]
    assert listed(any_site, f"export_location_id={location['id']}") == [made[0]]
    assert listed(any_site, f"export_location_path={location['path']}") == [made[0]]
    assert listed(any_site, "host=node1@one%23pool&all_tenants=1", user="root") == [made[0]]
    assert any_site.expect(403, "GET", "/v2/shares?share_server_id=x")
    assert any_site.expect(403, "GET", "/v2/shares?host=elsewhere")
    assert listed(any_site, "share_server_id=x&all_tenants=1", user="root") == []


def test_whose_shares_are_listed(site: Site) -> None:
    mine, theirs = site.share(name="mine")["id"], site.share("bob", name="theirs")["id"]
    public = site.share("bob", name="public")["id"]
    site.expect(200, "PUT", f"/v2/shares/{public}", {"share": {"is_public": True}}, user="root")
    assert listed(site) == [mine]
    assert listed(site, "all_tenants=1") == [mine]
    assert set(listed(site, "is_public=True")) == {mine, public}
    assert set(listed(site, user="bob")) == {theirs, public}
    assert listed(site, user="root") == []
    assert set(listed(site, "all_tenants=1", user="root")) == {mine, theirs, public}
    assert listed(site, "all_tenants=1&project_id=blue", user="root") == [mine]
    assert set(listed(site, "all_tenants=1&is_public=true", user="root")) == {mine, theirs, public}


def test_the_number_of_statements_is_constant(any_site: Site) -> None:
    expected = {
        "/v2/shares": 1,
        "/v2/shares?with_count=true": 2,
        "/v2/shares/detail": 1,
        "/v2/shares/detail?limit=3": 1,
        "/v2/shares/detail?with_count=true": 2,
        "/v2/shares/detail?metadata={'a':'b'}&name~=s&status=available&sort_key=name&sort_dir=asc&offset=1": 2,
        "/v2/types": 2,
        "/v2/messages": 1,
        "/v2/availability-zones": 1,
        "/v2/limits": 2,
    }
    for _ in range(2):
        ids = fill(any_site, 4, metadata={"a": "b"})
        for share in ids:
            any_site.finish(share)
        counts = {}
        for path in expected:
            with any_site.statements() as seen:
                any_site.expect(200, "GET", path)
            counts[path] = len(seen)
        assert counts == expected
        with any_site.statements() as seen:
            any_site.expect(200, "GET", f"/v2/shares/detail?limit=2&marker={ids[2]}")
        assert len(seen) == 2  # one for the marker's place in the order


def test_export_locations_in_lists_cost_one_statement_where_they_are_shown(any_site: Site) -> None:
    """Up to 2.8 a share shows them itself."""
    for share in fill(any_site, 3):
        any_site.finish(share)
    for version, expected in (("2.8", 2), ("2.9", 1)):
        with any_site.statements() as seen:
            found = any_site.expect(200, "GET", "/v2/shares/detail", version=version)["shares"]
        assert len(seen) == expected
        assert [len(share.get("export_locations", [])) for share in found] == [1 if version == "2.8" else 0] * 3


def test_one_share_takes_one_statement_with_its_metadata(any_site: Site) -> None:
    for metadata in ({"b": "2", "a": '"1"\n'}, {}):
        share = any_site.served_share(metadata=metadata)
        with any_site.statements() as seen:
            shown = any_site.expect(200, "GET", f"/v2/shares/{share['id']}")["share"]
        assert len(seen) == 1
        assert list(shown["metadata"].items()) == sorted(metadata.items())


def test_messages(any_site: Site) -> None:
    share = any_site.share()
    moments = []
    for number, (project, detail, error) in enumerate(
        (
            ("blue", Detail.NO_VALID_HOST, "one: no room."),
            ("blue", Detail.UNKNOWN_ERROR, "It broke."),
            ("green", Detail.UNKNOWN_ERROR, "x"),
        )
    ):
        with any_site.store.begin() as tx:
            write_message(
                tx, None, project_id=project, resource_id=share["id"] if number == 0 else str(uuid.uuid4()),
                action=Action.ALLOCATE_HOST, detail=detail, error=error,
            )  # fmt: skip
        moments.append(utcnow().isoformat())
    messages = any_site.expect(200, "GET", "/v2/messages")["messages"]
    assert len(messages) == 2
    (message,) = any_site.expect(200, "GET", f"/v2/messages?resource_id={share['id']}")["messages"]
    assert set(message) == {
        "id", "project_id", "action_id", "detail_id", "message_level", "request_id", "resource_type", "resource_id",
        "user_message", "created_at", "expires_at", "links",
    }  # fmt: skip
    assert (message["action_id"], message["detail_id"], message["resource_type"]) == ("001", "002", "SHARE")
    assert message["user_message"].endswith("one: no room.")
    assert any_site.expect(200, "GET", f"/v2/messages/{message['id']}")["message"] == message
    for query, count in (
        ("message_level=ERROR", 2), ("message_level=INFO", 0), ("detail_id=001", 1), ("action_id=001", 2),
        (f"message_id={message['id']}", 1), ("resource_type=SHARE", 2), (f"created_since={moments[0]}", 1),
        (f"created_before={moments[0]}", 1), ("limit=1", 1), ("sort_key=detail_id&sort_dir=asc", 2),
    ):  # fmt: skip
        assert len(any_site.expect(200, "GET", f"/v2/messages?{query}")["messages"]) == count, query
    any_site.expect(400, "GET", "/v2/messages?created_since=soon")
    assert len(any_site.expect(200, "GET", "/v2/messages", user="root")["messages"]) == 3
    any_site.expect(404, "GET", f"/v2/messages/{message['id']}", user="bob")
    any_site.expect(404, "DELETE", f"/v2/messages/{message['id']}", user="bob")
    any_site.expect(403, "DELETE", f"/v2/messages/{message['id']}", user="rita")
    answer = any_site.ask("DELETE", f"/v2/messages/{message['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    any_site.expect(404, "DELETE", f"/v2/messages/{message['id']}")


def test_availability_zones(site: Site) -> None:
    (zone,) = site.expect(200, "GET", "/v2/availability-zones")["availability_zones"]
    assert set(zone) == {"id", "name", "created_at", "updated_at"}
    assert zone["name"] == "zone-1"
    assert site.expect(200, "GET", "/v2/os-availability-zone", version="2.6")["availability_zones"] == [zone]


def test_services(any_site: Site) -> None:
    register(any_site.store, "manila-share", "node1@one", "zone-1")
    register(any_site.store, "manila-scheduler", "node1", "zone-1")

    def services(query: str = "") -> list[Any]:
        return list(any_site.expect(200, "GET", f"/v2/services?{query}", user="root")["services"])

    share, scheduler = services()
    new = {"disabled_reason", "ensuring"}
    assert set(share) == {"id", "binary", "host", "zone", "status", "state", "updated_at"} | new
    assert (share["binary"], share["host"], share["status"], share["state"]) == (
        "manila-share", "node1@one", "enabled", "up",
    )  # fmt: skip
    assert isinstance(share["id"], int)
    assert [found["id"] for found in services("binary=manila-scheduler")] == [scheduler["id"]]
    assert services("zone=nowhere") == services("state=down") == services("host=x") == []
    body = {"host": "node1@one", "binary": "manila-share"}
    answer = any_site.expect(200, "PUT", "/v2/services/disable", body, user="root")
    assert answer == {**body, "status": "disabled", "disabled_reason": None}
    assert [found["id"] for found in services("status=disabled")] == [share["id"]]
    any_site.expect(200, "PUT", "/v2/os-services/enable", body, user="root", version="2.6")
    assert services("status=disabled") == []
    with any_site.store.begin() as tx:
        tx.execute(update(workers).values(heartbeat_at=utcnow() - timedelta(minutes=5)))
    assert len(services("state=down")) == 2
    any_site.expect(404, "PUT", "/v2/services/disable", {**body, "host": "x"}, user="root")
    any_site.expect(404, "PUT", "/v2/services/frob", body, user="root")
    for bad in ({}, {"host": "x"}, {**body, "odd": 1}, {"host": 5, "binary": "x"}):
        any_site.expect(400, "PUT", "/v2/services/disable", bad, user="root")
    any_site.expect(403, "GET", "/v2/services")
    any_site.expect(403, "PUT", "/v2/services/disable", body)


def test_pools(any_site: Site) -> None:
    with any_site.store.begin() as tx:
        for backend, thin in (("alpha", True), ("beta", False)):
            tx.execute(
                pools.insert().values(
                    host=f"node1@{backend}#pool", backend=backend, availability_zone="zone-1", total_capacity=100.0,
                    free_capacity=40.0 if thin else None, provisioned_capacity=70.0, reserved_percentage=5,
                    capabilities={"thin_provisioning": thin, "driver_handles_share_servers": True},
                    reported_at=utcnow(),
                )
            )  # fmt: skip

    for size in (1, 2):
        share = any_site.share(size=size)
        with any_site.store.begin() as tx:
            placed = share_instances.update().where(share_instances.c.share_id == share["id"])
            tx.execute(placed.values(host="node1@alpha#pool"))

    def names(query: str = "", path: str = "/v2/scheduler-stats/pools") -> list[str]:
        found = any_site.expect(200, "GET", f"{path}?{query}", user="root")["pools"]
        return [pool["name"] for pool in found]

    both = ["node1@alpha#pool", "node1@beta#pool"]
    assert names() == names(path="/v2/scheduler-stats/pools/detail") == both
    assert names("backend=al.*") == both[:1]
    assert names("host=node1&pool=.*") == names("backend=alpha|beta") == both
    assert names("backend=alph") == names("host=other") == []
    assert names("capabilities={'thin_provisioning': '<is> False'}") == both[1:]
    assert names("share_type=default") == both
    detail = any_site.expect(200, "GET", "/v2/scheduler-stats/pools/detail?backend=alpha", user="root")["pools"][0]
    assert (detail["host"], detail["backend"], detail["pool"]) == ("node1", "alpha", "pool")
    shown = detail["capabilities"]
    assert (shown["total_capacity_gb"], shown["free_capacity_gb"], shown["reserved_percentage"]) == (100.0, 40.0, 5)
    assert shown["share_backend_name"] == "alpha"
    assert (shown["provisioned_capacity_gb"], shown["allocated_capacity_gb"]) == (70.0, 3.0)
    (summary,) = any_site.expect(200, "GET", "/v2/scheduler-stats/pools?backend=alpha", user="root")["pools"]
    assert set(summary) == {"name", "host", "backend", "pool"}
    any_site.expect(400, "GET", "/v2/scheduler-stats/pools?backend=(", user="root")
    any_site.expect(404, "GET", "/v2/scheduler-stats/pools?share_type=none", user="root")
    any_site.expect(403, "GET", "/v2/scheduler-stats/pools")
    any_site.expect(403, "GET", "/v2/scheduler-stats/pools/detail")


def test_there_are_no_extensions(site: Site) -> None:
    assert site.expect(200, "GET", "/v2/extensions") == {"extensions": []}
    site.expect(404, "GET", "/v2/extensions/os-frob")
