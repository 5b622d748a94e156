"""Policy rules have Manila's names and defaults: a policy.yaml written for Manila means the same here."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharewright.context import RequestContext
from sharewright.services.policy import RULES, allows
from sharewright.services.policy_file import BASE


def _upstream() -> dict[str, str]:
    lines = Path(__file__).with_name("manila_policy_rules.txt").read_text().splitlines()
    pairs = (line.split("  ", 1) for line in lines if not line.startswith("#"))
    return {pair[0]: pair[1] for pair in pairs}


UPSTREAM = _upstream()
# Rules of Manila's that nothing here asks for, and why.
NOT_ASKED = {
    "share:list_shares_in_deferred_deletion_states": "there is no deferred deletion: what is deleted is deleted",
    "share_snapshot:list_snapshots_in_deferred_deletion_states": "there is no deferred deletion",
    "share_export_location:update_admin_only_metadata": "no metadata of export locations is for administrators only",
    "share_network:show_network_details": "a share network's details are its project's",
    "share_replica:get_metadata": "there are no replicas, and no operations on their metadata",
    "share_replica:update_metadata": "as above",
    "share_replica:delete_metadata": "as above",
}
# Rules that Manila has not.
OURS = {
    "share:create_on_host": "a share that names its host: Manila has no rule of its own for it",
    "share_group:list_all_projects": "who lists groups of all projects: Manila has no rule of its own for it",
    "share_group_snapshot:list_all_projects": "who lists groups of all projects: Manila has no rule of its own for it",
}


def caller(*roles: str, project: str = "blue", user: str = "alice") -> RequestContext:
    return RequestContext(project_id=project, user_id=user, roles=frozenset(roles), request_id="req-1", checks={})


def test_every_rule_has_its_place() -> None:
    known = {*RULES, *BASE}
    assert set(UPSTREAM) - known == set(NOT_ASKED)
    assert known - set(UPSTREAM) == set(OURS)


def test_what_rules_are_made_of_is_the_same() -> None:
    assert {name: UPSTREAM[name] for name in BASE} == dict(BASE)


@pytest.mark.parametrize("name", sorted(set(UPSTREAM) & set(RULES)))
def test_who_may_by_default(name: str) -> None:
    role, _, service = UPSTREAM[name].partition("+")
    lowest = "member" if role == "owner" else role
    assert RULES[name] == lowest
    assert allows(caller("admin"), name, "blue")
    assert allows(caller("admin", project="green"), name, "blue")
    assert allows(caller("member", "reader"), name, "blue") == (lowest != "admin")
    assert allows(caller("reader"), name, "blue") == (lowest == "reader")
    assert not allows(caller("member", "reader", project="green"), name, "blue")
    assert not allows(caller(), name, "blue")
    assert allows(caller("service", project="services"), name, "blue") == bool(service)
