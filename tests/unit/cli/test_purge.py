"""purge removes what is ours, all of it, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sharewright.cli.main import main
from sharewright.cli.options import MARKER, CommandFailed, state_dir_in_use
from sharewright.cli.purge import remove_state_dir
from sharewright.configuration_file import load


def simulated(tmp_path: Path) -> list[str]:
    path = tmp_path / "sharewright.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n[backends.a]\ncloud = "simulated"\n')
    return ["--config", str(path)]


def test_a_simulated_deployment_is_gone_afterwards(tmp_path: Path) -> None:
    config = simulated(tmp_path)
    assert main([*config, "db", "upgrade"]) == 0
    assert main([*config, "network", "create", "blue", "10.99.0.0/24"]) == 0
    assert any((tmp_path / "state").iterdir())
    assert main([*config, "purge", "--yes"]) == 0
    assert not (tmp_path / "state").exists()
    assert main([*config, "purge", "--yes"]) == 0


def test_it_asks_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = simulated(tmp_path)
    assert main([*config, "db", "upgrade"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("sharewright\n"))
    assert main([*config, "purge"]) == 1
    assert "--yes" in capsys.readouterr().err
    assert (tmp_path / "state" / "sharewright.db").exists()


def test_a_database_outside_the_state_directory_goes_too(tmp_path: Path) -> None:
    config = simulated(tmp_path)
    Path(config[1]).write_text(
        f'state_dir = "{tmp_path / "state"}"\n[database]\nurl = "sqlite:///{tmp_path}/elsewhere.db"\n'
        '[backends.a]\ncloud = "simulated"\n'
    )
    assert main([*config, "db", "upgrade"]) == 0
    assert (tmp_path / "elsewhere.db").exists()
    assert main([*config, "purge", "--yes"]) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "sharewright.toml"]


def test_not_while_a_process_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = simulated(tmp_path)
    settings = load(Path(config[1]))
    with state_dir_in_use(settings), state_dir_in_use(settings):
        assert main([*config, "purge", "--yes"]) == 1
        assert "Stop the service first" in capsys.readouterr().err
        assert (tmp_path / "state" / MARKER).exists()
    assert main([*config, "purge", "--yes"]) == 0


def test_a_directory_without_our_mark_stays(tmp_path: Path) -> None:
    (tmp_path / "somebody's").mkdir()
    with pytest.raises(CommandFailed, match="lacks our mark"):
        remove_state_dir(tmp_path)
    assert (tmp_path / "somebody's").exists()


def test_symbolic_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside, state = tmp_path / "outside", tmp_path / "state"
    outside.mkdir()
    (outside / "file").touch()
    state.mkdir()
    (state / MARKER).touch()
    (state / "link").symlink_to(outside)
    remove_state_dir(state)
    assert not state.exists()
    assert (outside / "file").exists()


def test_what_is_not_the_deployments_stays(tmp_path: Path) -> None:
    state = tmp_path / "state"
    volumes = state / "libvirt" / "volumes"
    volumes.mkdir(parents=True)
    (state / MARKER).touch()
    (state / "libvirt" / "records").mkdir()
    (state / "images").mkdir()
    (volumes / "disowned.raw").touch()
    remove_state_dir(state)
    assert sorted(path for path in state.rglob("*") if path.is_file()) == [state / MARKER, volumes / "disowned.raw"]
    assert not (state / "images").exists()
    (volumes / "disowned.raw").unlink()
    remove_state_dir(state)
    assert not state.exists()
