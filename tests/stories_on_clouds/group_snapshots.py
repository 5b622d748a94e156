"""Snapshots of a group whose shares live on two servers, on volumes of two types with two file systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from deployment import Deployment, wait_for
from ordered_writer import counting
from sharewright.clouds.contract import TAG_OWNER
from sharewright.store.tables import operations, share_snapshot_instances
from stories_on_clouds.machines import cloud_of, share_instance
from tenants import Shares

NAMES = ("a", "b", "c")  # the order in which the client counts; the second one is of the type that chooses


class GroupSnapshots:
    """Fixtures: ``red``, ``deployment``, and those of ShareTypes: its share keeps the second server."""

    @pytest.fixture(scope="class")
    def group(self, red: Shares, deployment: Deployment, type_id: str, share: str) -> Iterator[tuple[str, list[str]]]:
        types = {"a": "two_nics", "b": "chosen", "c": "two_nics"}
        with group_of(red, deployment, types, share_network_id=red.tenant.share_network_id) as made:
            yield made

    def test_no_share_is_ahead_of_another(
        self, red: Shares, group: tuple[str, list[str]], deployment: Deployment
    ) -> None:
        """What a client wrote to one share after it had written to another is in no snapshot without the other."""
        group_id, shares = group
        snapshots = moments(red, group_id, shares)
        assert len({share_instance(deployment, each).share_server_id for each in shares}) == 2
        for snapshot in snapshots:
            told = story(deployment, snapshot)
            assert (told.attempts, told.guest_round_trips) == (1, 6)
            print(f"stood still for {told.facts['frozen_seconds']:.2f} s")
        for snapshot, (least, most) in snapshots.items():
            check_group_from(red, shares, snapshot, least=least, most=most)
        refused = red.api.delete(f"/shares/{shares[0]}?share_group_id={group_id}", raise_exc=False)
        assert (refused.status_code, "share group snapshot members" in refused.text) == (403, True)
        cloud = cloud_of(deployment)
        for snapshot in snapshots:
            places = [row.provider_location for row in members(deployment, snapshot)]
            assert all(cloud.volumes.find_snapshot(place) is not None for place in places)
            delete_snapshot(red, snapshot)
            assert [cloud.volumes.find_snapshot(place) for place in places] == [None] * len(NAMES)
        cloud.close()

    def test_the_controller_is_killed_while_it_takes_one(
        self, red: Shares, group: tuple[str, list[str]], deployment: Deployment
    ) -> None:
        snapshot = red.api.create_share_group_snapshot(group[0], name="killed").id
        wait_for("the story", lambda: story(deployment, snapshot).state != "queued", interval=0.05)
        deployment.kill()
        deployment.start()
        wait_snapshot(red, snapshot)
        cloud = cloud_of(deployment)
        rows = members(deployment, snapshot)
        owners = {f"share_snapshot_instance:{row.id}" for row in rows}
        ours = [each.id for each in cloud.volumes.list_snapshots() if each.tags[TAG_OWNER] in owners]
        assert sorted(ours) == sorted(row.provider_location for row in rows), "each once"
        delete_snapshot(red, snapshot)
        assert not owners & {each.tags[TAG_OWNER] for each in cloud.volumes.list_snapshots()}
        cloud.close()


@contextmanager
def group_of(
    red: Shares, deployment: Deployment, types: Mapping[str, str], **values: Any
) -> Iterator[tuple[str, list[str]]]:
    """A group with a share of each name, of the share type given with it, which the client may mount: ids. ``values``
    are those of the request for the group."""
    with deployment.sdk("admin") as admin:
        body = {
            "name": f"of {len(types)}, {red.protocol}",
            "share_types": sorted(set(types.values())),
            "group_specs": {"consistent_snapshot_support": "host"},
        }
        made = admin.shared_file_system.post(
            "/share-group-types", json={"share_group_type": body}, raise_exc=True
        ).json()["share_group_type"]
    group = red.api.create_share_group(
        name="counted", share_group_type_id=made["id"], share_types=made["share_types"], **values
    )
    assert group.consistent_snapshot_support == "host"
    wait_group(red, group.id)
    shares = []
    for name, share_type in types.items():
        share = {
            "name": name,
            "size": 1,
            "share_proto": red.protocol,
            "share_type": share_type,
            "share_group_id": group.id,
        }
        answer = red.api.post("/shares", json={"share": share}, raise_exc=True)
        shares.append(str(answer.json()["share"]["id"]))
    for each in shares:
        red.wait(each)
        red.allow(each, red.tenant.client.address)
    yield group.id, shares
    for snapshot in red.api.share_group_snapshots():
        delete_snapshot(red, snapshot.id)
    delete_group(red, group.id)
    with deployment.sdk("admin") as admin:
        admin.shared_file_system.delete(f"/share-group-types/{made['id']}")


def moments(red: Shares, group_id: str, shares: list[str]) -> dict[str, tuple[int, int]]:
    """Two snapshots of a group, taken while a client counts in all of its shares, who notices nothing. By id: how far
    it had come before and after."""
    client = red.tenant.client
    folders = [f"/mnt/group-{number}" for number in range(len(shares))]
    for each, folder in zip(shares, folders, strict=True):
        client.mount(red.export(each), folder)
    lines = f"wc -l < {folders[0]}/counter"
    snapshots = {}
    with counting(client, folders) as outcome:
        for number in range(2):
            before = int(client.run(lines))
            snapshot = taken(red, group_id, f"moment-{number}")
            snapshots[snapshot] = (before, int(client.run(lines)))
    (counted,) = outcome
    assert counted.errors == []
    expected = [str(number) for number in range(counted.numbers)]
    assert [client.run(f"cat {folder}/counter").split() for folder in folders] == [expected] * len(shares)
    for folder in folders:
        client.unmount(folder)
    print(f"{counted.numbers} numbers, longest gap between two writes {counted.gap:.2f} s")
    return snapshots


def check_group_from(red: Shares, shares: list[str], snapshot: str, *, least: int, most: int) -> None:
    """The shares of a group that is made of a snapshot hold what one client had counted at that moment: from ``least``
    to ``most``. The group goes again."""
    client = red.tenant.client
    body = {"share_group": {"name": "copy", "source_share_group_snapshot_id": snapshot}}
    copy = red.api.post("/share-groups", json=body, raise_exc=True).json()["share_group"]["id"]
    wait_group(red, copy)
    listed = red.api.share_group_snapshot_members(snapshot)["share_group_snapshot_members"]
    parents = {member["id"]: member["share_id"] for member in listed}
    copies = red.api.get(f"/shares/detail?share_group_id={copy}").json()["shares"]
    copied = {parents[each["source_share_group_snapshot_member_id"]]: each["id"] for each in copies}
    counts = []
    for share in shares:
        red.allow(copied[share], client.address)
        client.mount(red.export(copied[share]), "/mnt/copy")
        numbers = client.run("cat /mnt/copy/counter").split()
        assert numbers == [str(number) for number in range(len(numbers))]
        counts.append(len(numbers))
        client.run("echo more >> /mnt/copy/counter; sync /mnt/copy")
        client.unmount("/mnt/copy")
    print(f"the snapshot's shares hold {counts}, of between {least} and {most}")
    assert counts == sorted(counts, reverse=True)
    assert counts[0] - counts[-1] <= 1
    assert least <= counts[0] <= most + 1
    delete_group(red, copy)


def taken(shares: Shares, group_id: str, name: str) -> str:
    """The id of a new group snapshot that is available."""
    snapshot = shares.api.create_share_group_snapshot(group_id, name=name).id
    wait_snapshot(shares, snapshot)
    return str(snapshot)


def wait_snapshot(shares: Shares, snapshot_id: str) -> None:
    def reached() -> bool:
        now = shares.api.get_share_group_snapshot(snapshot_id).status
        if now in ("error", "error_deleting"):
            messages = [m.user_message for m in shares.api.user_messages() if m.resource_id == snapshot_id]
            raise AssertionError(f"share group snapshot {snapshot_id} is {now}: {messages}")
        return bool(now == "available")

    wait_for(f"share group snapshot {snapshot_id}", reached, seconds=240)


def wait_group(shares: Shares, group_id: str) -> None:
    def reached() -> bool:
        now = shares.api.get_share_group(group_id).status
        if now == "error":
            raise AssertionError([m.user_message for m in shares.api.user_messages()])
        return bool(now == "available")

    wait_for(f"share group {group_id}", reached, seconds=240)


def delete_snapshot(shares: Shares, snapshot_id: str) -> None:
    shares.api.delete_share_group_snapshot(snapshot_id)
    wait_for(
        f"share group snapshot {snapshot_id} gone",
        lambda: snapshot_id not in {each.id for each in shares.api.share_group_snapshots()},
        seconds=120,
    )


def delete_group(shares: Shares, group_id: str) -> None:
    found = [each["id"] for each in shares.api.get(f"/shares?share_group_id={group_id}").json()["shares"]]
    for each in found:
        shares.api.delete(f"/shares/{each}?share_group_id={group_id}", raise_exc=True)
    for each in found:
        shares.wait_gone(each)
    shares.api.delete_share_group(group_id)


def members(deployment: Deployment, snapshot_id: str) -> list[Any]:
    query = share_snapshot_instances.select().where(share_snapshot_instances.c.share_group_snapshot_id == snapshot_id)
    with deployment.store() as store, store.read() as tx:
        return list(tx.execute(query).all())


def story(deployment: Deployment, snapshot_id: str) -> Any:
    """The operation that took a group snapshot."""
    columns = operations.c
    query = operations.select().where(columns.resource_id == snapshot_id, columns.kind == "create_group_snapshot")
    with deployment.store() as store, store.read() as tx:
        return tx.execute(query).one()
