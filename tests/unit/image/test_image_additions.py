"""What a driver's author adds to the image."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_image_build import make_installed_tree
from test_image_recipe import make_recipe

from sharewright.cli.main import main
from sharewright.errors import ConfigurationError
from sharewright.image import customize
from sharewright.image.additions import NO_ADDITIONS, read_additions

EXAMPLE = Path(__file__).parents[3] / "examples/rsync_driver/image.toml"


def test_the_examples() -> None:
    additions = read_additions(EXAMPLE)
    assert additions.packages == ("rsync",)
    assert additions.enabled_units == ("rsync-shares.service",)
    (file,) = additions.files
    assert (file.path, file.mode) == ("etc/systemd/system/rsync-shares.service", 0o644)
    assert b"ExecStart=/usr/bin/rsync" in file.content


def test_they_are_in_the_tree_and_in_the_hash(tmp_path: Path) -> None:
    (tmp_path / "files/usr/bin").mkdir(parents=True)
    (tmp_path / "files/usr/bin/tool").write_text("#!/bin/sh\n")
    (tmp_path / "files/usr/bin/tool").chmod(0o700)
    (tmp_path / "files/etc/systemd/system").mkdir(parents=True)
    (tmp_path / "files/etc/systemd/system/tool.service").write_text("[Service]\nExecStart=/usr/bin/tool\n")
    (tmp_path / "image.toml").write_text('packages = ["tool"]\nfiles = "files"\nenabled_units = ["tool.service"]\n')
    recipe = make_recipe(additions=read_additions(tmp_path / "image.toml"))
    assert recipe.all_packages[-1] == "tool"
    before = {make_recipe().hash(), make_recipe(additions=NO_ADDITIONS).hash(), recipe.hash()}
    assert len(before) == 2
    (tmp_path / "files/usr/bin/tool").chmod(0o600)
    assert make_recipe(additions=read_additions(tmp_path / "image.toml")).hash() not in before

    tree = make_installed_tree(tmp_path / "tree")
    customize.customize(tree, recipe)
    assert (tree / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    assert (wants / "tool.service").readlink() == Path("/etc/systemd/system/tool.service")
    assert (wants / "ssh.service").is_symlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('package = ["rsync"]', "unknown field"),
        ('packages = ["rsync --allow"]', "matching regex"),
        ('enabled_units = ["../x"]', "matching regex"),
        ('files = "nowhere"', "not a directory"),
        ("packages = [", "does not say what to add"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "image.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_additions(tmp_path / "image.toml")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/shadow").symlink_to("/etc/shadow")
    (tmp_path / "image.toml").write_text('files = "files"')
    with pytest.raises(ConfigurationError, match="neither a file nor a directory"):
        read_additions(tmp_path / "image.toml")


def test_they_never_change_the_deployments_own_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "build", "--additions", str(EXAMPLE)]) != 0
    assert "An image with additions is one of its own" in capsys.readouterr().err
