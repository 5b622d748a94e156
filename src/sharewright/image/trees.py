"""Deleting the trees that builds work in, of which a build that was killed may have left one with /proc, /sys and /dev
mounted in it: what is deleted there is the host's."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from sharewright.errors import SharewrightError

# In front of a command: what it mounts ends with it, however it ends.
OWN_MOUNTS: Final = ("unshare", "--mount", "--propagation", "private", "--")


def remove_tree(path: Path) -> None:
    """Delete a directory that may not exist. Raises SharewrightError when something is mounted in it, and OSError;
    nothing is deleted in the first case."""
    mounted = mounted_in(path)
    if mounted:
        raise SharewrightError(
            f"{path} cannot be deleted: something is mounted at {mounted[-1]}.",
            hint=f"A build was killed. Run: {' && '.join(f'umount {place}' for place in reversed(mounted))}",
        )
    if path.exists():
        shutil.rmtree(path)


def mounted_in(path: Path) -> list[Path]:
    """Where at and below ``path`` something is mounted, in the order in which it was (proc(5), mountinfo)."""
    top = Path(os.path.realpath(path))
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    places = [Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4])) for line in lines]
    return [place for place in places if place.is_relative_to(top)]
