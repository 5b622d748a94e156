"""store/quotas.py: reserving, releasing, limits, on each database."""

from __future__ import annotations

import pytest

from sharewright.errors import OverQuota
from sharewright.settings import Quotas
from sharewright.store import quotas
from sharewright.store.database import Store

OWNER = {"project_id": "p", "user_id": "u", "share_type_id": "t"}


def used(store: Store, **scope: str) -> dict[str, int]:
    with store.read() as tx:
        usage = quotas.read_usage(tx, "p", **scope)
    return {name: usage[name] for name in ("shares", "gigabytes")}


def test_what_is_reserved_can_be_released(store: Store) -> None:
    with store.begin() as tx:
        for size in (5, 7):
            quotas.reserve(tx, Quotas(), **OWNER, amounts={"shares": 1, "gigabytes": size})
    for scope in ({}, {"user_id": "u"}, {"share_type_id": "t"}):
        assert used(store, **scope) == {"shares": 2, "gigabytes": 12}
    with store.begin() as tx:
        quotas.release(tx, **OWNER, amounts={"shares": 1, "gigabytes": 5})
    for scope in ({}, {"user_id": "u"}, {"share_type_id": "t"}):
        assert used(store, **scope) == {"shares": 1, "gigabytes": 7}


def test_usage_never_goes_below_zero(store: Store) -> None:
    with store.begin() as tx:
        quotas.release(tx, **OWNER, amounts={"shares": 1})
    assert used(store) == {"shares": 0, "gigabytes": 0}
    with store.begin() as tx:
        quotas.reserve(tx, Quotas(), **OWNER, amounts={"shares": 1})
        quotas.release(tx, **OWNER, amounts={"shares": 5})
    assert used(store) == {"shares": 0, "gigabytes": 0}


def test_a_refusal_leaves_nothing_behind(store: Store) -> None:
    limits = Quotas(shares=1, gigabytes=-1)
    with store.begin() as tx:
        quotas.reserve(tx, limits, **OWNER, amounts={"shares": 1, "gigabytes": 10_000})
    with pytest.raises(OverQuota, match=r"^ShareLimitExceeded: .*\(1\)"), store.begin() as tx:
        quotas.reserve(tx, limits, **OWNER, amounts={"gigabytes": 1, "shares": 1})
    assert used(store) == {"shares": 1, "gigabytes": 10_000}


def test_what_a_share_type_has_no_quota_of_is_not_counted_for_it(store: Store) -> None:
    with store.begin() as tx:
        quotas.reserve(tx, Quotas(), **OWNER, amounts={"share_networks": 1})
        assert quotas.read_usage(tx, "p", share_type_id="t")["share_networks"] == 0
        assert quotas.read_usage(tx, "p")["share_networks"] == 1
