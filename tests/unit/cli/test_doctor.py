"""doctor: each thing that a host can lack is told with a way to get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from sharewright.cli.doctor import (
    PROGRAMS,
    Finding,
    examine_api,
    examine_database,
    examine_image,
    examine_libvirt,
    examine_programs,
    examine_python,
    examine_room,
    examine_state_dir,
)
from sharewright.cli.host import FileFacts, ThisHost
from sharewright.settings import Api, Backend, Database, Identity, Libvirt, Settings, VolumeDirectory


@dataclass
class FakeHost:
    """A host with everything, minus what a test takes away."""

    version: tuple[int, int] = (3, 11)
    uid: int = 0
    lacks_programs: set[str] = field(default_factory=set)
    lacks_modules: set[str] = field(default_factory=set)
    files: dict[str, FileFacts] = field(
        default_factory=lambda: {
            "/": FileFacts(is_directory=True, mode=0o755, owner=0, writable=True),
            "/state": FileFacts(is_directory=True, mode=0o711, owner=0, writable=True),
        }
    )
    free: int = 100 * 2**30
    memory: int = 8000
    port: str = "free"
    libvirt: str = ""
    kvm: str = ""

    def python(self) -> tuple[int, int]:
        return self.version

    def user(self) -> int:
        return self.uid

    def has_program(self, name: str) -> bool:
        return name not in self.lacks_programs

    def has_module(self, name: str) -> bool:
        return name not in self.lacks_modules

    def file(self, path: Path) -> FileFacts | None:
        return self.files.get(str(path))

    def free_bytes(self, path: Path) -> int:
        return self.free

    def available_memory_mib(self) -> int:
        return self.memory

    def port_owner(self, address: str, port: int) -> str:
        return self.port

    def libvirt_failure(self, uri: str) -> str:
        return self.libvirt

    def kvm_failure(self, kernel: Path) -> str:
        return self.kvm


SETTINGS = Settings(state_dir="/state", backends={"a": Backend()})


def everything(host: FakeHost, settings: Settings = SETTINGS) -> list[Finding]:
    """Every examination that needs no real image and database."""
    return [
        *examine_python(host),
        *examine_state_dir(host, settings),
        *examine_programs(host),
        *examine_libvirt(host, settings),
        *examine_room(host, settings),
        *examine_api(host, settings),
    ]


def test_a_good_host_has_no_findings_but_good_ones() -> None:
    assert {finding.level for finding in everything(FakeHost())} == {"ok"}


@pytest.mark.parametrize(
    ("host", "subject", "level", "fix"),
    [
        (FakeHost(version=(3, 9)), "Python", "problem", "Debian 12"),
        (FakeHost(uid=1000), "user", "problem", "sudo"),
        (FakeHost(lacks_programs={"nft", "qemu-img"}), "programs", "problem", "apt-get install nftables qemu-utils"),
        (FakeHost(lacks_programs={"mmdebstrap"}), "programs", "warning", "apt-get install mmdebstrap"),
        (FakeHost(lacks_modules={"libvirt"}), "libvirt", "problem", "pip install"),
        (FakeHost(kvm="it hung"), "KVM", "warning", "nested"),
        (FakeHost(free=2**30), "disk", "problem", "state_dir"),
        (FakeHost(free=10 * 2**30), "disk", "warning", ""),
        (FakeHost(memory=200), "memory", "warning", "memory_mib"),
        (FakeHost(port="other"), "API", "problem", "api.port"),
    ],
)
def test_what_is_missing_is_told_with_a_fix(host: FakeHost, subject: str, level: str, fix: str) -> None:
    (finding,) = [each for each in everything(host) if each.level != "ok"]
    assert (finding.subject, finding.level) == (subject, level)
    assert fix in finding.fix


def test_a_volume_type_without_its_directory() -> None:
    types = {"fast": VolumeDirectory(directory="/srv/fast"), "large": VolumeDirectory(directory="/srv/large")}
    settings = msgspec.structs.replace(SETTINGS, libvirt=Libvirt(volume_types=types))
    host = FakeHost()
    host.files["/srv/large"] = host.files["/state"]
    levels = {each.subject: each.level for each in examine_room(host, settings)}
    assert (levels["volume type fast"], levels["volume type large"]) == ("problem", "ok")


def test_every_program_names_its_package() -> None:
    for program, (package, _) in PROGRAMS.items():
        (finding,) = examine_programs(FakeHost(lacks_programs={program}))
        assert program in finding.text
        assert package in finding.fix


def test_a_libvirtd_that_is_down() -> None:
    host = FakeHost(libvirt="connection refused")
    assert [finding.level for finding in examine_libvirt(host, SETTINGS)] == ["ok", "ok"]  # it will be started
    settings = msgspec.structs.replace(SETTINGS, libvirt=Libvirt(start_daemons=False))
    (finding,) = [each for each in examine_libvirt(host, settings) if each.level == "problem"]
    assert "connection refused" in finding.text


def test_kvm_that_was_asked_for_is_essential() -> None:
    settings = msgspec.structs.replace(SETTINGS, libvirt=Libvirt(accelerator="kvm"))
    levels = {each.subject: each.level for each in examine_libvirt(FakeHost(kvm="it hung"), settings)}
    assert levels["KVM"] == "problem"


@pytest.mark.parametrize(
    ("files", "level", "fix"),
    [
        ({"/state": FileFacts(is_directory=True, mode=0o777, owner=0, writable=True)}, "problem", "chmod 711 /state"),
        ({"/state": FileFacts(is_directory=True, mode=0o711, owner=0, writable=False)}, "problem", "state_dir"),
        ({"/state": FileFacts(is_directory=False, mode=0o600, owner=0, writable=True)}, "problem", "state_dir"),
        ({"/": FileFacts(is_directory=True, mode=0o755, owner=0, writable=False)}, "problem", "state_dir"),
        ({"/": FileFacts(is_directory=True, mode=0o755, owner=0, writable=True)}, "ok", ""),
        (
            {
                "/state": FileFacts(is_directory=True, mode=0o711, owner=0, writable=True),
                "/state/master.key": FileFacts(is_directory=False, mode=0o644, owner=0, writable=True),
            },
            "problem",
            "chmod 600 /state/master.key",
        ),
    ],
)
def test_state_directory(files: dict[str, FileFacts], level: str, fix: str) -> None:
    finding = list(examine_state_dir(FakeHost(files=files), SETTINGS))[-1]
    assert finding.level == level
    assert fix in finding.fix


def test_open_to_the_network_without_identity() -> None:
    settings = msgspec.structs.replace(SETTINGS, api=Api(listen="0.0.0.0"))
    findings = list(examine_api(FakeHost(), settings))
    assert [(each.subject, each.level) for each in findings] == [("API", "ok"), ("identity", "problem")]


def test_users_file(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, state_dir=str(tmp_path), identity=Identity(mode="builtin"))
    assert list(examine_api(FakeHost(), settings))[-1].fix.startswith("Make it with: sharewright user add")


def test_database(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, state_dir=str(tmp_path))
    (finding,) = examine_database(settings)
    assert finding.level == "ok"
    (tmp_path / "sharewright.db").touch()
    (finding,) = examine_database(settings)
    assert (finding.level, finding.fix.split(" (")[0]) == ("warning", "sharewright db upgrade")
    (tmp_path / "sharewright.db").write_bytes(b"this is no database, and quite long enough to tell" * 100)
    (finding,) = examine_database(settings)
    assert finding.level == "problem"
    down = msgspec.structs.replace(settings, database=Database(url="postgresql://u:hunter2@127.0.0.1:9/d"))
    (finding,) = examine_database(down)
    assert finding.level == "problem"
    assert "hunter2" not in finding.text


def test_no_image(tmp_path: Path) -> None:
    (finding,) = examine_image(tmp_path / "absent")
    assert (finding.level, finding.fix) == ("problem", "sharewright image build")


def test_this_host_answers(tmp_path: Path) -> None:
    host = ThisHost()
    assert host.has_program("sh")
    assert not host.has_program("no-such-program-anywhere")
    assert host.has_module("json")
    facts = host.file(tmp_path)
    assert facts is not None
    assert facts.is_directory
    assert host.file(tmp_path / "absent") is None
    assert host.free_bytes(tmp_path / "absent" / "deeper") > 0
    assert host.available_memory_mib() > 0
