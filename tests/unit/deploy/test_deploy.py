"""What deploy/ holds is right: the units, the example, and the steps of the container image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharewright.configuration_file import expectation, field_types, parse
from sharewright.secret_files import CREDENTIAL
from sharewright.settings import Backend, Identity, Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
NOBODY = 65534


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="sharewright-deploy-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("sharewright")
    names = []
    for unit in UNITS:
        text = unit.read_text().replace("/usr/local/bin/sharewright", str(program))
        for name in {unit.name, unit.name.replace("@.", "@1.")}:  # an instance, as the socket names one
            (tmp_path / name).write_text(text)
            names.append(f"./{name}")
    done = subprocess.run(
        ["systemd-analyze", "verify", *names], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "sharewright" in line]  # it reads this host's units, too
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda unit: unit.name)
def test_the_services_are_hardened(unit: Path) -> None:
    """systemd's own measure of what a service could still do: 0 is nothing, 10 everything."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def example() -> dict[str, Any]:
    with (DEPLOY / "sharewright-openstack.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_example_is_right() -> None:
    """Every key that this version has is right; the OpenStack cloud and Keystone are not part of every build."""
    data = example()
    if "openstack" not in expectation(field_types(Backend)["cloud"]):
        del data["openstack"]
        for backend in data["backends"].values():
            for name in backend.keys() - field_types(Backend).keys():
                del backend[name]
            del backend["cloud"]
    if "keystone" not in field_types(Identity):
        del data["identity"]
    settings = parse(data)
    assert set(settings.backends) == {"standard", "fast"}
    assert not Settings(database=settings.database).keeps_files


def test_the_units_load_every_credential_that_the_example_names() -> None:
    named = set(re.findall(f'"{CREDENTIAL}([^"]+)"', (DEPLOY / "sharewright-openstack.toml").read_text()))
    assert named == {"database-password", "master.key", "access.key", "openstack-password"}
    (worker,) = (unit for unit in UNITS if unit.name.startswith("sharewright-worker"))
    assert set(re.findall(r"^#?LoadCredential=([^:]+):", worker.read_text(), re.MULTILINE)) == named


def container_steps() -> tuple[list[list[str]], str]:
    """What the Containerfile copies (sources, then target) and what pip installs."""
    text = (DEPLOY / "Containerfile").read_text()
    copied = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    found = re.search(r"pip install --no-cache-dir '([^']+)'", text)
    assert found is not None
    assert "USER 10001:10001" in text
    return copied, found[1]


def test_the_steps_of_the_container_image(open_directory: Path) -> None:
    """The same files, an environment of its own, a user without any rights; the dependencies are this test's own."""
    copied, wanted = container_steps()
    source, environment = open_directory / "source", open_directory / "environment"
    source.mkdir()
    for *names, target in copied:
        for name in names:
            place = source / target
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, place / Path(name).name)
    extras = wanted.removeprefix(".[").removesuffix("]").split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - {"openstack"} <= set(known)
    venv.create(environment, with_pip=True)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [environment / "bin" / "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, source], check=True)
    unprivileged: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    config = open_directory / "sharewright.toml"
    config.write_text('[database]\nurl = "postgresql://h/d"\nmaster_key_file = "/run/secrets/master.key"\n')
    for arguments in (["--help"], ["--config", str(config), "config", "check"]):
        done = subprocess.run(
            [environment / "bin" / "sharewright", *arguments], cwd="/", env={"PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False, **unprivileged,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    where = "import sharewright; print(sharewright.__file__)"
    done = subprocess.run([environment / "bin" / "python", "-c", where], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(environment))
