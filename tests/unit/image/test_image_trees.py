"""Deleting the trees of builds, of which some were killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharewright.errors import SharewrightError
from sharewright.image.trees import OWN_MOUNTS, mounted_in, remove_tree


@pytest.fixture
def tree_with_mount(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """What a killed build leaves: a directory of the host's is mounted in the tree. (Tree, a file of the host's.)"""
    if os.geteuid() != 0:
        pytest.fail("needs root, as the build does")
    hosts = tmp_path / "hosts"
    place = tmp_path / "a build" / "dev"
    hosts.mkdir()
    place.mkdir(parents=True)
    (hosts / "file").write_text("x")
    subprocess.run(["mount", "--bind", hosts, place], check=True)
    try:
        yield tmp_path / "a build", hosts / "file"
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_is_mounted_in_a_tree_is_not_deleted(tree_with_mount: tuple[Path, Path]) -> None:
    tree, file = tree_with_mount
    assert mounted_in(tree) == [tree / "dev"]
    with pytest.raises(SharewrightError, match="mounted") as caught:
        remove_tree(tree)
    assert str(tree / "dev") in caught.value.hint
    assert file.exists()


def test_a_tree_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_mounts_end_with_the_command_that_made_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("needs root, as the build does")
    script = 'mount -t tmpfs none "$0" && touch "$0/file" && kill -9 $$'
    assert subprocess.run([*OWN_MOUNTS, "sh", "-c", script, str(tmp_path)], check=False).returncode == -9
    assert mounted_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
