"""The command line: help, exit codes, errors as text without a traceback."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sharewright.cli import main as command
from sharewright.errors import CloudUnavailable


def subcommands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found += subcommands(inner, (*path, name))
    return found


def test_the_commands_are_all_there() -> None:
    assert {" ".join(path) for path in subcommands(command.parser())} >= {
        "serve", "api", "worker", "db upgrade", "db current", "image build", "image check", "network create",
        "network list", "network delete", "user add", "user list", "user remove", "keystone register", "doctor",
        "config show", "config check", "config reference", "config metrics", "config upstream", "purge", "version",
    }  # fmt: skip


@pytest.mark.parametrize("path", subcommands(command.parser()), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*path, "--help"])
    assert ended.value.code == 0
    assert f"usage: sharewright {' '.join(path)}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["frob"], ["network"], ["network", "create", "x", "10.0.0.1/24"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert "usage: sharewright" in capsys.readouterr().err


def test_a_wrong_configuration_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[api]\nport = 0\n")
    for arguments in (["--config", str(path), "config", "show"], ["config", "check", str(path), "--config", str(path)]):
        assert command.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {path}: api.port = 0: expected a whole number, 1 to 65535.\n       ")
        assert "Traceback" not in captured.err
        assert captured.out == ""


def test_the_environment_names_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.toml"
    path.write_text('deployment = "one"\n')
    monkeypatch.setenv("SHAREWRIGHT_CONFIG", str(path))
    assert command.main(["config", "show"]) == 0
    assert 'deployment = "one"' in capsys.readouterr().out


def test_config_show_hides_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.toml"
    path.write_text(
        '[database]\nurl = "postgresql://user:hunter2@host/db"\n[identity.keystone]\npassword = "two hunter2"\n'
    )
    assert command.main(["--config", str(path), "config", "show"]) == 0
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert 'password = "[hidden]"' in out
    assert "postgresql://user:" in out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CloudUnavailable("libvirtd is down.", hint="Start it."), 1, "error: libvirtd is down.\n       Start it.\n"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "error: No such file: /x.\n"),
        (ValueError("postgresql://u:hunter2@h"), 70, "error: Unexpected ValueError: postgresql://u:[hidden]@h\n"),
    ],
)
def test_errors_are_text(error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.report(error, debug=False) == code
    assert capsys.readouterr().err.startswith(text)


def test_debug_shows_the_traceback_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    code = 0
    try:
        raise ValueError("postgresql://u:hunter2@h")
    except ValueError as error:
        code = command.report(error, debug=True)
    assert code == 70
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "hunter2" not in text


def test_db_upgrade_and_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    config = ["--config", str(path)]
    assert command.main([*config, "db", "current"]) == 1
    assert command.main([*config, "db", "upgrade"]) == 0
    assert command.main([*config, "db", "current"]) == 0
    assert "(newest)" in capsys.readouterr().out
    state = tmp_path / "state"
    assert (state / "sharewright.db").stat().st_mode & 0o077 == 0
    assert state.stat().st_mode & 0o777 == 0o711


def test_a_database_that_cannot_be_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.toml"
    path.write_text(f'state_dir = "{tmp_path}"\n[database]\nurl = "sqlite:///{tmp_path}/absent/x.db"\n')
    assert command.main(["--config", str(path), "db", "upgrade"]) == 2
    assert "absent/x.db cannot be used" in capsys.readouterr().err
