"""Polling that adapts, locks by name, tags in the forms that the services keep."""

from __future__ import annotations

import threading

import pytest

from sharewright.clouds.openstack.locks import NamedLocks
from sharewright.clouds.openstack.polling import LEAST_PAUSE, MOST_PAUSE, Deadline, Pace, Wait
from sharewright.clouds.openstack.tags import deployment_tag, from_description, to_description
from sharewright.errors import CloudError, DeadlineExceeded


def test_pauses_are_short_around_the_expected_moment() -> None:
    pace = Pace(10.0)
    assert pace.pause(0.0) == MOST_PAUSE
    assert pace.pause(7.0) == 1.0  # a tenth of what is expected, at the least
    assert pace.pause(10.0) == 1.0
    assert pace.pause(16.0) == 1.5
    assert pace.pause(600.0) == MOST_PAUSE
    assert Pace(0.5).pause(0.5) == LEAST_PAUSE


def test_a_pace_learns() -> None:
    pace = Pace(10.0)
    for _ in range(30):
        pace.learn(2.0)
    assert round(pace.expected, 1) == 2.0


def test_a_wait_ends_with_what_was_seen_last() -> None:
    wait = Wait("volume v to become available", Deadline(0.0), Pace(1.0))
    with pytest.raises(DeadlineExceeded, match="volume v to become available; the last status was creating") as caught:
        wait.pause("creating")
    assert caught.value.hint


def test_locks_by_name() -> None:
    locks = NamedLocks()
    with locks.hold("a", Deadline(1.0)):
        with locks.hold("b", Deadline(0.0)):
            pass
        with pytest.raises(DeadlineExceeded, match="a"), locks.hold("a", Deadline(0.01)):
            pass
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            with locks.hold("a", Deadline(30.0)):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 200


def test_the_deployments_tag_fits() -> None:
    assert deployment_tag("main") == "sharewright=main"
    long = {deployment_tag("d" * 62 + end) for end in "ab"}
    assert len(long) == 2
    assert all(len(tag) <= 60 for tag in long)


def test_tags_in_a_description() -> None:
    tags = {"sharewright": "main", "sharewright_owner": "share_server:1"}
    assert from_description(to_description(tags, "port")) == tags
    for text in (None, "", "a port", "[1]", '{"a": 1}', "{"):
        assert from_description(text) == {}
    with pytest.raises(CloudError, match="port p"):
        to_description({"sharewright": "x" * 300}, "port p")
