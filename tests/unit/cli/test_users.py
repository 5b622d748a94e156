"""``sharewright user``: the file that the identity modes read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest

from sharewright.api.identity.users import read_users
from sharewright.cli.main import main

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    path = tmp_path / "sharewright.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n')

    def run(*arguments: str, password: str = "") -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
        return main(["--config", str(path), "user", *arguments])

    return run


def test_add_list_remove(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("add", "alice", "--project", "research", "--password-stdin", password="wonderland") == 0
    assert run("add", "bob", "--project", "ops", "--role=admin", "--role=member", "--password-stdin", password="b") == 0
    path = tmp_path / "state" / "users.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "wonderland" not in path.read_text()
    alice = read_users(path).get("alice")
    assert alice is not None
    assert alice.roles == {"research": ("member",)}
    assert bcrypt.checkpw(b"wonderland", alice.password_hash.encode())
    capsys.readouterr()
    assert run("list") == 0
    assert "bob    ops       admin member  yes" in capsys.readouterr().out
    assert run("remove", "alice") == 0
    assert read_users(path).get("alice") is None
    assert read_users(path).get("bob") is not None


def test_adding_again_changes_the_password_and_adds_roles(run: Run, tmp_path: Path) -> None:
    run("add", "alice", "--project", "one", "--password-stdin", password="old")
    run("add", "alice", "--project", "two", "--role", "reader", "--password-stdin", password="new")
    users = read_users(tmp_path / "state" / "users.json").users
    assert len(users) == 1
    assert users[0].roles == {"one": ("member",), "two": ("reader",)}
    assert bcrypt.checkpw(b"new", users[0].password_hash.encode())


@pytest.mark.parametrize(
    ("arguments", "password", "expected"),
    [
        (["add", "a b", "--project", "p", "--password-stdin"], "x", "cannot be a user"),
        (["add", "alice", "--project", "p/q", "--password-stdin"], "x", "cannot be a user"),
        (["add", "alice", "--project", "p", "--password-stdin"], "", "A password needs 1 to 72 bytes"),
        (["add", "alice", "--project", "p", "--password-stdin"], "x" * 73, "A password needs 1 to 72 bytes"),
        (["add", "alice", "--project", "p"], "", "no terminal"),
        (["remove", "nobody"], "", "There is no user nobody"),
    ],
)
def test_refusals_change_nothing(
    run: Run, tmp_path: Path, arguments: list[str], password: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "carol", "--project", "p", "--password-stdin", password="kept")
    before = (tmp_path / "state" / "users.json").read_bytes()
    assert run(*arguments, password=password) == 1
    assert expected in capsys.readouterr().err
    assert (tmp_path / "state" / "users.json").read_bytes() == before


def test_a_readable_file_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "carol", "--project", "p", "--password-stdin", password="kept")
    (tmp_path / "state" / "users.json").chmod(0o644)
    assert run("list") == 2
    assert "chmod 600" in capsys.readouterr().err
