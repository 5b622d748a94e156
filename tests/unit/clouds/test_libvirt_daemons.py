"""Starting libvirtd where no init system does: the order of events, without a libvirtd."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharewright.clouds.libvirt import daemons
from sharewright.errors import CloudUnavailable


class Host:
    """What runs: ``ending`` rounds pass until a killed libvirtd is gone, whose process seems to run until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ending: int, mortal: int = 0) -> None:
        self.started: list[str] = []
        self._ending = ending
        self._mortal = mortal  # how many started ones die at once
        monkeypatch.setattr(daemons, "_answers", self._answers)
        monkeypatch.setattr(daemons, "_listens", lambda path: "virtlogd" in self.started)
        monkeypatch.setattr(daemons, "_process_of", self._process_of)
        monkeypatch.setattr(daemons.Daemons, "_start_one", self._start_one)

    def _answers(self) -> bool:
        return self.started.count("libvirtd") > self._mortal

    def _process_of(self, _: Path, name: str) -> tuple[int, int] | None:
        if name == "virtlogd":
            return (9, 1) if name in self.started else None
        if self._ending > 0:
            self._ending -= 1
            return 7, 1
        return (8, 2) if self._answers() else None

    def _start_one(self, name: str, _file: Path) -> None:
        self.started.append(name)


def test_what_runs_not_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host(monkeypatch, ending=0)
    daemons.Daemons(tmp_path / "started.json").start()
    assert host.started == ["virtlogd", "libvirtd"]
    daemons.Daemons(tmp_path / "started.json").start()
    assert host.started == ["virtlogd", "libvirtd"]


def test_one_that_is_just_ending_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host(monkeypatch, ending=3)
    daemons.Daemons(tmp_path / "started.json").start()
    assert host.started == ["virtlogd", "libvirtd"]


def test_one_that_dies_as_it_starts_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host(monkeypatch, ending=0, mortal=2)
    daemons.Daemons(tmp_path / "started.json").start()
    assert host.started == ["virtlogd", "libvirtd", "libvirtd", "libvirtd"]


def test_one_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(daemons, "START_SECONDS", 0.3)
    Host(monkeypatch, ending=1_000_000)
    with pytest.raises(CloudUnavailable, match="did not answer"):
        daemons.Daemons(tmp_path / "started.json").start()
