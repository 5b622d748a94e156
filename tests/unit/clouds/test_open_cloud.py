"""From the configuration to a cloud."""

from __future__ import annotations

from pathlib import Path

from sharewright.clouds.contract import Cloud, TenantNetworks
from sharewright.clouds.open import open_cloud, simulated_path
from sharewright.clouds.simulated import SimulatedCloud
from sharewright.operations.assembly import with_cloud
from sharewright.settings import Backend, Settings


def test_backends_choose_their_cloud(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "state"), deployment="d")
    cloud: Cloud = open_cloud(settings, Backend(cloud="simulated"))
    assert isinstance(cloud, SimulatedCloud)
    assert cloud.deployment == "d"
    assert simulated_path(settings).exists()
    assert isinstance(cloud.networks, TenantNetworks)
    cloud.close()


def test_opening_contacts_nobody(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "state"), deployment="d")
    for name, backend in (("libvirt", Backend(cloud="libvirt")), ("openstack", Backend(cloud="openstack", flavor="f"))):
        cloud: Cloud = open_cloud(settings, backend)
        assert cloud.name == name
        assert isinstance(cloud.networks, TenantNetworks)
        cloud.close()


def test_an_openstack_backend_can_be_simulated() -> None:
    settings = Settings(backends={"a": Backend(cloud="openstack", flavor="f", image="service")})
    assert with_cloud(settings, "simulated").backends["a"] == Backend(cloud="simulated", flavor="f")


def test_volume_types_of_another_cloud_are_none_of_libvirts() -> None:
    backend = Backend(cloud="openstack", flavor="f", volume_type="rbd", volume_types=("fast",))
    settings = Settings(backends={"a": backend})
    assert with_cloud(settings, "libvirt").backends["a"] == Backend(cloud="libvirt", flavor="f")
    assert with_cloud(settings, "simulated").backends["a"].volume_types == ("fast",)
