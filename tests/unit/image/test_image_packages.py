"""Packages that were installed for an earlier image are used again, for a day and unless a fresh build is asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sharewright.errors import SharewrightError
from sharewright.image.additions import Additions
from sharewright.image.packages import KEPT_SECONDS, install_packages
from sharewright.image.recipe import Recipe, sources_for


class Host:
    """Runs tar for real, also as mmdebstrap's hook; mmdebstrap is an archive of Debian's that grows by an update with
    every system that is installed."""

    def __init__(self) -> None:
        self.installed = 0
        self.broken = False

    def run(self, what: str, command: list[str], environment: dict[str, str]) -> None:
        if command[0] == "tar":
            subprocess.run(command, check=True)
            return
        assert command[0] == "mmdebstrap"
        assert environment == {"INITRD": "No"}
        if self.broken:
            raise SharewrightError("no archive")
        given = dict(item.split("=", 1) for item in command if item.startswith("--") and "=" in item)
        root = Path(next(item for item in command[1:] if item.startswith("/")))
        if given["--variant"] == "custom":
            root.mkdir()
            subprocess.run(["sh", "-c", given["--setup-hook"], "exec", str(root)], check=True)
            (root / "bin" / given["--include"]).touch()
            return
        self.installed += 1
        (root / "bin").mkdir(parents=True)
        (root / "bin/program").write_text(f"update {self.installed}")
        (root / "bin/program").chmod(0o4755)
        (root / "bin/link").symlink_to("program")
        os.utime(root / "bin/program", (1, 1_000_000))


def recipe(*packages: str) -> Recipe:
    return Recipe(
        sources=sources_for("http://x/debian"), program=b"", program_identity="x",
        additions=Additions(packages=packages),
    )  # fmt: skip


def install(host: Host, directory: Path, name: str, *packages: str, fresh: bool = False) -> str:
    root = directory / name / "ro ot"
    root.parent.mkdir()
    install_packages(root, recipe(*packages), directory, host.run, fresh=fresh)
    assert (root / "bin/link").readlink() == Path("program")
    status = (root / "bin/program").stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o4755, 1_000_000)
    assert {path.name for path in (root / "bin").iterdir()} == {"program", "link", *packages}
    return (root / "bin/program").read_text()


@pytest.mark.parametrize("packages", [[(), (), ("rsync",)], [("rsync",), ("rsync",), ()]])
def test_the_next_image_begins_with_them(tmp_path: Path, packages: list[tuple[str, ...]]) -> None:
    """Also one with additions, and one after it."""
    host = Host()
    for number, each in enumerate(packages):
        assert install(host, tmp_path, f"build '{number}'", *each) == "update 1"


def test_a_fresh_build_does_not(tmp_path: Path) -> None:
    host = Host()
    install(host, tmp_path, "a")
    assert install(host, tmp_path, "b", fresh=True) == "update 2"
    assert install(host, tmp_path, "c") == "update 2"


def test_they_are_kept_for_a_day(tmp_path: Path) -> None:
    host = Host()
    install(host, tmp_path, "a")
    (kept,) = tmp_path.glob(".packages.*")
    kept.with_name(".packages.of-another-recipe.tar").touch()
    for path in tmp_path.glob(".packages.*"):
        past = path.stat().st_mtime - KEPT_SECONDS - 1
        os.utime(path, (past, past))
    assert install(host, tmp_path, "b") == "update 2"
    assert list(tmp_path.glob(".packages.*")) == [kept]


def test_nothing_is_kept_of_what_failed(tmp_path: Path) -> None:
    host = Host()
    host.broken = True
    with pytest.raises(SharewrightError, match="no archive"):
        install(host, tmp_path, "a")
    assert list(tmp_path.glob(".packages.*")) == []
