"""The initial RAM disk: a busybox, one script, and the few drivers that lead to the root disk.

A general one costs several seconds on an emulated processor (udev, a hundred scripts, compressed); this one costs a
fraction of one. It is an uncompressed "newc" cpio archive, the format of the kernel's documentation
(driver-api/early-userspace/buffer-format).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sharewright.errors import SharewrightError


def module_files(modules: Path, names: Sequence[str]) -> list[str]:
    """Paths below ``modules`` (``…/lib/modules/VERSION``) of the named modules and of all they need, in loading order.

    Names that are built into the kernel are left out; unknown ones raise SharewrightError.
    """
    builtin = {_name(line) for line in (modules / "modules.builtin").read_text().splitlines()}
    paths: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[_name(path)] = path
        needs[path] = rest.split()
    order: dict[str, None] = {}

    def visit(path: str) -> None:
        for needed in needs[path]:
            if needed not in order:
                visit(needed)
        order[path] = None

    for name in names:
        if name in paths:
            visit(paths[name])
        elif name not in builtin:
            raise SharewrightError(
                f"The kernel in {modules} has no module {name}.", hint="Report it: recipe.py names it."
            )
    return list(order)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc cpio archive of (path, mode, content); time stamps are zero and owners root, so equal input gives equal
    output. For a device node, ``content`` is empty and the kernel's devtmpfs provides it instead."""
    result = bytearray()
    for inode, (path, mode, content) in enumerate((*entries, ("TRAILER!!!", 0, b"")), start=1):
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode if mode else 0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
        result += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        result += b"\0" * (-len(result) % 4)
        result += content
        result += b"\0" * (-len(result) % 4)
    return bytes(result)


def variables(text: str) -> bytes:
    """The lines ``name = value`` of a sysctl.d file as ``path value``, path below /proc/sys."""
    lines = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            lines.append(f"{name.strip().replace('.', '/')} {value.strip()}\n")
    return "".join(lines).encode()


def build_initrd(root: Path, kernel_version: str, script: bytes, modules: Mapping[str, Sequence[str]]) -> bytes:
    """The archive for the system in ``root``. ``modules`` are lists of modules for the script to load, by list name."""
    place = root / "lib/modules" / kernel_version
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "root", "modules")]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, script))
    settings = (root / "etc/sysctl.d/sharewright.conf").read_text(encoding="utf-8")
    entries.append(("variables", stat.S_IFREG | 0o644, variables(settings)))
    placed: set[str] = set()
    for list_name, names in modules.items():
        paths = module_files(place, names)
        entries += [
            (f"modules/{path.rsplit('/', 1)[-1]}", stat.S_IFREG | 0o644, (place / path).read_bytes())
            for path in paths
            if path not in placed
        ]
        placed.update(paths)
        listing = "".join(path.rsplit("/", 1)[-1] + "\n" for path in paths)
        entries.append((f"modules/{list_name}", stat.S_IFREG | 0o644, listing.encode()))
    return archive(entries)
