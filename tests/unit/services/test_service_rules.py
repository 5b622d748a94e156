"""Rules without a database: validation, policy, transitions, pages."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharewright.context import RequestContext
from sharewright.errors import Forbidden, InvalidInput
from sharewright.services import policy
from sharewright.services.lists import Page, parse_page
from sharewright.services.transitions import SHARE
from sharewright.services.validation import check_address, check_extra_specs, check_metadata, parse_boolean_spec
from sharewright.states import ShareStatus


@given(st.text(max_size=60))
def test_an_accepted_address_is_one_and_stays_what_it_is(text: str) -> None:
    try:
        kept = check_address(text)
    except InvalidInput:
        return
    assert ip_network(kept) == ip_network(text.strip())
    assert check_address(kept) == kept
    assert set(kept) <= set("0123456789abcdef.:/")


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_networks_with_bits_behind_the_prefix_are_refused(number: int, prefix: int) -> None:
    address = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    has_host_bits = number & (2 ** (32 - prefix) - 1)
    if has_host_bits:
        with pytest.raises(InvalidInput):
            check_address(f"{address}/{prefix}")
    else:
        assert check_address(f"{address}/{prefix}") == (address if prefix == 32 else f"{address}/{prefix}")


@given(st.integers(0, 2**125 - 1), st.integers(0, 128), st.integers(0, 3))
def test_ipv6_networks_have_one_text_however_they_are_written(number: int, prefix: int, style: int) -> None:
    address = IPv6Address((1 << 125 | number) >> (128 - prefix) << (128 - prefix))
    written = (address.compressed, address.exploded, address.compressed.upper(), f" {address.exploded} ".strip())[style]
    if prefix < 128 and number & 1:
        with pytest.raises(InvalidInput, match="host bits"):
            check_address(f"{IPv6Address(int(address) | 1)}/{prefix}")
    kept = check_address(f"{written}/{prefix}")
    assert kept == (address.compressed if prefix == 128 else f"{address.compressed}/{prefix}")


@pytest.mark.parametrize(
    ("text", "why"), [("fe80::1%eth0", "zone"), ("::ffff:10.0.0.1", "IPv4"), ("::ffff:10.0.0.0/104", "IPv4")]
)
def test_ipv6_addresses_that_mean_nothing_to_a_server(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        check_address(text)


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=3))
def test_metadata_is_kept_as_it_is_or_refused(values: dict[str, object]) -> None:
    try:
        kept = check_metadata(values)
    except InvalidInput:
        return
    assert kept == values
    assert all(isinstance(value, str) and key.strip() and value.strip() for key, value in kept.items())
    assert "\0" not in str(kept)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("<is> False", False), ("1", True), (True, True)])
def test_boolean_specs(text: object, value: bool) -> None:
    assert parse_boolean_spec("snapshot_support", text) is value


def test_extra_specs_become_strings() -> None:
    assert check_extra_specs({"driver_handles_share_servers": True}) == {"driver_handles_share_servers": "True"}


def person(*roles: str) -> RequestContext:
    return RequestContext(project_id="blue", user_id="u", roles=frozenset(roles))


@pytest.mark.parametrize("rule", sorted(policy.RULES))
def test_each_rule_is_for_its_role_in_its_project(rule: str) -> None:
    needed = policy.RULES[rule]
    allowed = {
        "reader": {"reader", "member", "admin"},
        "member": {"member", "admin"},
        "admin": {"admin"},
    }[needed]
    for role in ("reader", "member", "admin", "stranger"):
        assert policy.allows(person(role), rule, "blue") is (role in allowed)
        assert policy.allows(person(role), rule, "green") is (role == "admin")
    with pytest.raises(Forbidden, match=rule):
        policy.authorize(person(), rule)


def test_an_unknown_rule_is_a_defect_that_shows() -> None:
    with pytest.raises(KeyError):
        policy.allows(person("member"), "share:frob")


def test_every_state_of_rest_can_be_deleted_and_every_state_forced() -> None:
    under_way = {
        "creating", "creating_from_snapshot", "deleting", "deleted", "manage_starting", "unmanage_starting",
        "unmanaged", "extending", "shrinking", "migrating", "migrating_to", "replication_change", "reverting",
        "restoring", "awaiting_transfer", "backup_creating", "backup_restoring", "server_migrating",
        "server_migrating_to", "ensuring", "network_change",
    }  # fmt: skip
    unmanaged_only = {"manage_error"}  # as in Manila: its volume is somebody else's
    assert SHARE["delete"].sources == set(ShareStatus.ALL) - under_way - unmanaged_only
    assert SHARE["force_delete"].sources == set(ShareStatus.ALL)
    assert "error" in SHARE["deny_access"].sources - SHARE["allow_access"].sources
    for action in SHARE.values():
        assert action.sources <= set(ShareStatus.ALL)
        assert action.target is None or action.target in ShareStatus.ALL


def test_pages() -> None:
    keys = {"name": "name", "display_name": "name"}
    assert parse_page({}, keys, 100) == Page(limit=100)
    assert parse_page({"limit": "5000", "offset": "3"}, keys, 100) == Page(limit=100, offset=3)
    page = parse_page({"limit": "7", "sort_key": "display_name", "sort_dir": "ASC", "marker": "m"}, keys, 100)
    assert page == Page(limit=7, order="name", descending=False, marker="m")
    for query in ({"limit": "-1"}, {"offset": "x"}, {"sort_key": "size"}, {"sort_dir": "up"}, {"limit": "9" * 5000}):
        with pytest.raises(InvalidInput):
            parse_page(query, keys, 100)
