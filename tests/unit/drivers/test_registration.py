"""Which driver a backend's configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsync_driver import RSYNC
from sharewright.configuration_file import parse
from sharewright.drivers.generic.driver import GENERIC
from sharewright.drivers.registration import find_driver_kind
from sharewright.errors import ConfigurationError
from sharewright.operations.assembly import assemble
from sharewright.settings import Backend, Settings
from sharewright.store.database import Store


def test_by_name() -> None:
    assert find_driver_kind("generic") is GENERIC
    assert find_driver_kind("rsync_driver:RSYNC") is RSYNC


def test_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package offers it."""
    installed = tmp_path / "example-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[sharewright.drivers]\nrsync = rsync_driver:RSYNC\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_driver_kind("rsync") is RSYNC
    with pytest.raises(ConfigurationError, match=r"no share driver 'nfs'; known are: generic, rsync"):
        find_driver_kind("nfs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "cannot be loaded"),
        ("rsync_driver:NOTHING", "cannot be loaded"),
        ("rsync_driver:RsyncDriver", "not a DriverKind"),
    ],
)
def test_what_is_no_driver(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        find_driver_kind(name)


def test_the_setting() -> None:
    assert parse({"backends": {"a": {"driver": "x.y:Z"}}}).backends["a"].driver == "x.y:Z"
    with pytest.raises(ConfigurationError, match=r"backends\.a\.driver"):
        parse({"backends": {"a": {"driver": "os.system('x')"}}})


def test_backends_share_a_cloud_and_not_a_guest_program(sqlite_store: Store, tmp_path: Path) -> None:
    backends = {
        "a": Backend(cloud="simulated"),
        "b": Backend(cloud="simulated"),
        "c": Backend(cloud="simulated", driver="rsync_driver:RSYNC"),
    }
    assembly = assemble(Settings(state_dir=str(tmp_path), backends=backends), sqlite_store)
    try:
        assert assembly.clouds["a"] is assembly.clouds["c"]
        assert assembly.channels["a"] is assembly.channels["b"]
        assert assembly.channels["a"] is not assembly.channels["c"]
    finally:
        assembly.close()
