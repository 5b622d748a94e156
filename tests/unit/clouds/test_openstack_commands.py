"""doctor and image upload with a small OpenStack on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from neutron_fake import FakeNeutron
from openstack_fake import PASSWORD

from sharewright.cli.doctor import Finding, examine_openstack
from sharewright.cli.host import ThisHost
from sharewright.cli.image import image_path, image_source
from sharewright.cli.main import main
from sharewright.cli.options import CommandFailed
from sharewright.cli.reference import toml
from sharewright.errors import NotFound
from sharewright.settings import Backend, OpenStack, Settings

ROUTER = "management"


@pytest.fixture
def fake() -> Iterator[FakeNeutron]:
    fake = FakeNeutron()
    fake.add("routers", name=ROUTER)
    yield fake
    fake.close()


def settings_for(fake: FakeNeutron, tmp_path: Path, **values: str) -> Settings:
    given = {"auth_url": f"{fake.url}/identity/v3", "username": "sharewright", "password": PASSWORD, **values}
    openstack = OpenStack(management_router=ROUTER, management_cidrs=("192.0.2.0/24",), **given)  # type: ignore[arg-type]
    backends = {"b": Backend(cloud="openstack", flavor="tiny")}
    return Settings(state_dir=str(tmp_path), deployment="tests", openstack=openstack, backends=backends)


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_openstack(ThisHost(), settings)}


def qcow2(path: Path) -> Path:
    path.write_bytes(b"QFI\xfb" + bytes(20) + (2**31).to_bytes(8, "big") + bytes(100))
    return path


def test_doctor_names_what_is_wrong(fake: FakeNeutron, tmp_path: Path) -> None:
    settings = settings_for(fake, tmp_path)
    found = findings(settings)
    assert found["OpenStack"].level == "ok"
    assert found["volumes"].level == "ok"
    assert found["backend b"].level == "problem"
    assert "image upload" in found["backend b"].fix

    unknown = msgspec.structs.replace(settings, backends={"b": Backend(cloud="openstack", flavor="none such")})
    assert "none such" in findings(unknown)["backend b"].text

    fake.pools = []
    backend = Backend(cloud="openstack", flavor="tiny", volume_types=("fast",))
    typed = msgspec.structs.replace(settings, backends={"b": backend})
    assert "no volume type fast" in findings(typed)["backend b"].text

    fake.quota = 0
    assert findings(settings)["volumes"].level == "warning"

    wrong = findings(settings_for(fake, tmp_path, password="wrong"))["OpenStack"]
    assert wrong.level == "problem"
    assert "password" in wrong.fix


def test_upload_is_enough_for_a_backend(fake: FakeNeutron, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for(fake, tmp_path)
    file = tmp_path / "sharewright.toml"
    file.write_text(toml(msgspec.to_builtins(settings)))
    disk = qcow2(tmp_path / "disk.qcow2")
    outputs = []
    for _ in range(2):
        assert main(["--config", str(file), "image", "upload", str(disk)]) == 0
        outputs.append(capsys.readouterr().out.split()[-1])
    assert outputs[0] == outputs[1]
    assert list(fake.images) == [outputs[0]]
    assert findings(settings)["backend b"].level == "ok"


def test_what_is_uploaded(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        image_source(tmp_path, kernel=False)
    with pytest.raises(CommandFailed):
        image_source(qcow2(tmp_path / "disk.qcow2"), kernel=True)


def test_a_glance_name_is_no_path(tmp_path: Path) -> None:
    backends = {"a": Backend(cloud="openstack", flavor="f", image="service"), "b": Backend(image="/srv/image")}
    assert image_path(Settings(backends=backends)) == Path("/srv/image")
    assert image_path(Settings(state_dir="/s", backends={"a": backends["a"]})) == Path("/s/images/service")
