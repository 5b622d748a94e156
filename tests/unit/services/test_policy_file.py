"""policy.yaml: what checks mean, what is refused, and that a changed file counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sharewright.context import RequestContext
from sharewright.errors import ConfigurationError, Forbidden
from sharewright.services.policy import allows, authorize, authorize_owner
from sharewright.services.policy_file import PolicyFile, read


def caller(path: Path | None, *roles: str, project: str = "blue", user: str = "alice") -> RequestContext:
    checks = read(path) if path else {}
    return RequestContext(project_id=project, user_id=user, roles=frozenset(roles), checks=checks)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("", True),
        ("@", True),
        ("!", False),
        ("role:member", True),
        ("role:MEMBER", True),
        ("role:auditor", False),
        ("not role:auditor", True),
        ("role:auditor or role:member", True),
        ("role:auditor or role:member and role:auditor", False),
        ("(role:auditor or role:member) and not role:auditor", True),
        ("project_id:%(project_id)s", True),
        ("user_id:%(user_id)s", True),
        ("user_id:alice", True),
        ("user_id:bob", False),
        ("is_admin:True", False),
        ("is_admin:False", True),
        ("rule:admin_api", False),
        ("rule:admin_or_owner", True),
        ("rule:project-reader", False),
        ("'blue':%(project_id)s", True),
        ("'green':%(project_id)s", False),
        ("project_id:%(domain_id)s", False),
    ],
)
def test_checks(tmp_path: Path, check: str, expected: bool) -> None:
    path = write(tmp_path / "policy.yaml", f'"share:create": "{check}"\n')
    assert allows(caller(path, "member"), "share:create", "blue") is expected


def test_a_rule_of_another_project_and_of_another_user(tmp_path: Path) -> None:
    path = write(
        tmp_path / "policy.yaml", '"share:get": "role:auditor"\n"resource_lock:delete": "rule:project-member"\n'
    )
    assert allows(caller(path, "auditor", project="green"), "share:get", "blue")
    assert not allows(caller(path, "member"), "share:get", "blue")
    authorize_owner(caller(path, "member"), "resource_lock:delete", project_id="blue", user_id="bob")
    with pytest.raises(Forbidden):
        authorize_owner(caller(None, "member"), "resource_lock:delete", project_id="blue", user_id="bob")


def test_who_is_an_administrator_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml", '"context_is_admin": "role:share_admin"\n')
    boss, admin = caller(path, "share_admin"), caller(path, "admin")
    assert (boss.is_admin, admin.is_admin) == (True, False)
    assert allows(boss, "share:force_delete")
    assert not allows(admin, "share:force_delete")


def test_rules_that_are_not_in_the_file_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml", "# nothing yet\n")
    authorize(caller(path, "member"), "share:create")
    with pytest.raises(Forbidden):
        authorize(caller(path, "reader"), "share:create")


@pytest.mark.parametrize(
    "text",
    [
        '"share:get": "role:"', '"share:get": "role"', '"share:get": "(role:a"', '"share:get": "role:a)"',
        '"share:get": "role:a role:b"', '"share:get": "and role:a"', '"share:get": "role:a or"', '"share:get": "not"',
        '"share:get": "rule:nothing"', '"share:get": "domain_id:%(domain_id)s"', '"share:get": 5',
        '"mine": "rule:mine"', '"a": "rule:b"\n"b": "rule:a"', "- a\n- b", "5: role:a", '"share:get": [["role:a"]]',
        "{", '"share:get": "role:a and %"', "!!python/object/apply:os.system [true]",
    ],
)  # fmt: skip
def test_mistakes_are_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"api\.policy_file"):
        read(write(tmp_path / "policy.yaml", text + "\n"))


def test_a_changed_file_counts_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml", '"share:create": "!"\n')
    policy = PolicyFile(path)

    def may() -> bool:
        context = RequestContext(project_id="blue", user_id="alice", roles=frozenset({"member"}), checks=policy.checks)
        return allows(context, "share:create")

    assert not may()
    write(path, '"share:create": "role:member"\n')
    assert may()
    write(path, '"share:create": "role:member and"\n')
    assert may()
    path.unlink()
    assert may()
    write(path, '"share:create": "!"\n')
    os.utime(path, ns=(1, 1))
    assert not may()


def test_a_missing_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        PolicyFile(tmp_path / "nothing.yaml")
