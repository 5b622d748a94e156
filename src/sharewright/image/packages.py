"""The installed Debian packages, kept as an archive beside the images for a day.

Installing them is most of a build, and the same for every image: one that is built again because our own files or the
guest program changed, or that has additions, begins with what was installed the last time. ``--force`` does not.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sharewright.image.recipe import EXCLUDED_PATHS, INCLUDED_PATHS, SUITE, Recipe
from sharewright.image.trees import remove_tree

KEPT_SECONDS: Final = 24 * 3600.0  # the archive it came from has new security updates now and then
PREFIX: Final = ".packages."

Run = Callable[[str, list[str], dict[str, str]], None]  # what it does, command, environment; raises SharewrightError


def install_packages(root: Path, recipe: Recipe, directory: Path, run: Run, *, fresh: bool) -> None:
    """Make the tree ``root`` with the recipe's packages. ``directory`` is where archives are kept; with ``fresh`` none
    of them is used. Who calls holds a lock on the image, not on ``directory``: archives appear whole, by rename."""
    kept = directory / f"{PREFIX}{packages_hash(recipe)[:12]}.tar"
    for other in directory.glob(f"{PREFIX}*.tar"):
        if (fresh and other == kept) or _age(other) > KEPT_SECONDS:
            other.unlink(missing_ok=True)
    there = kept.exists()
    if not there:
        # The kernel's package would make an initial RAM disk of Debian's own, for which there is no use here.
        run("Installing Debian packages", mmdebstrap_command(root, recipe), {"INITRD": "No"})
        half = root.with_name("packages.tar")
        archive = ["tar", "--create", f"--file={half}", f"--directory={root}", "--sparse", *TAR, "."]
        run("Keeping them for the next build", archive, {})
        half.rename(kept)
    unpack = ["tar", "--extract", f"--file={kept}", *TAR]
    if recipe.additions.packages:
        if not there:
            remove_tree(root)
        run("Installing more Debian packages", more_command(root, recipe, unpack), {"INITRD": "No"})
    elif there:
        root.mkdir(mode=0o755)
        run("Unpacking the Debian packages of the last build", [*unpack, f"--directory={root}"], {})


TAR: Final = ("--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "--acls")


def packages_hash(recipe: Recipe) -> str:
    """Of all that decides what is installed before the additions."""
    return hashlib.sha256(json.dumps(mmdebstrap_command(Path("/"), recipe)).encode()).hexdigest()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # another build was quicker
        return 0.0


def mmdebstrap_command(root: Path, recipe: Recipe) -> list[str]:
    """What installs the packages that all images have."""
    return _mmdebstrap("minbase", recipe.packages, root, recipe, ())


def more_command(root: Path, recipe: Recipe, unpack: list[str]) -> list[str]:
    """What installs an image's additions in the tree that ``unpack`` makes of an archive."""
    hook = f'--setup-hook={shlex.join(unpack)} --directory="$1"'
    return _mmdebstrap("custom", recipe.additions.packages, root, recipe, (hook,))


def _mmdebstrap(variant: str, packages: Sequence[str], root: Path, recipe: Recipe, options: Sequence[str]) -> list[str]:
    command = ["mmdebstrap", "--mode=root", f"--variant={variant}", "--format=directory", *options]
    command += [f"--include={','.join(packages)}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    command += ['--aptopt=Acquire::Retries "3"', "--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS]
    command += [f"--dpkgopt=path-include={path}" for path in INCLUDED_PATHS]
    return [*command, SUITE, str(root), *recipe.sources]
