"""doctor: the machine that a backend has its shares on; and what an operator is given for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from operators_machine import SECONDS, make_machine, operators_cloud
from sharewright.cli.doctor_named import examine_named
from sharewright.cli.main import main
from sharewright.service_instance.keys import new_key_pair
from sharewright.settings import Settings
from story_world import BACKEND, make_settings


def told(settings: Settings) -> list[tuple[str, str]]:
    """Level and text of each finding."""
    return [(level, text) for level, _, text, _ in examine_named(settings, {"simulated"})]


def named(tmp_path: Path, **changes: Any) -> Settings:
    settings = make_settings(tmp_path / "state")
    _, server = make_machine(settings)
    server = msgspec.structs.replace(server, **changes)
    return make_settings(tmp_path / "state", driver_handles_share_servers=False, server=server)


def test_a_machine_that_is_fit(tmp_path: Path) -> None:
    ((level, text),) = told(named(tmp_path))
    assert level == "ok"
    assert "answers at 192.0.2.2 with its host key" in text
    assert list(examine_named(named(tmp_path), {"libvirt"})) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"instance": "other"}, "the cloud has no machine other"),
        ({"host_key": new_key_pair().public}, "is not the pinned one"),
        ({"management_address": "nowhere"}, "no address on nowhere; it is on office"),
        ({"key_file": "/nonexistent/key"}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    ((level, text),) = told(named(tmp_path, **changes))
    assert level == "problem"
    assert why in text


def test_a_stopped_machine(tmp_path: Path) -> None:
    settings = named(tmp_path)
    with operators_cloud(settings) as operator:
        (machine,) = operator.compute.list_instances()
        operator.compute.stop_instance(machine.id)
        assert told(settings) == [("problem", "machine nas does not run.")]
        operator.compute.start_instance(machine.id, timeout=SECONDS)


def test_the_key_and_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, key = tmp_path / "sharewright.toml", tmp_path / "key"
    config.write_text(
        f"""
[backends.{BACKEND}]
cloud = "simulated"
driver_handles_share_servers = false
[backends.{BACKEND}.server]
instance = "nas"
management_address = "192.0.2.2"
ssh_user = "keeper"
key_file = "{key}"
host_key = "{new_key_pair().public} root@nas"
"""
    )
    command = ["--config", str(config), "server"]
    assert main([*command, "key", BACKEND]) == 0
    first = capsys.readouterr().out
    assert first.startswith('restrict,command="sudo -n /usr/lib/sharewright/sharewright-guest serve" ssh-ed25519 ')
    assert key.stat().st_mode & 0o777 == 0o600
    assert main([*command, "key", BACKEND]) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "key", "other"]) == 1
    assert main([*command, "program", str(tmp_path / "guest")]) == 0
    assert (tmp_path / "guest").read_bytes().startswith(b"#!/usr/bin/env")
