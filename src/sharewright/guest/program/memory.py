"""What one ``serve`` keeps from call to call, so that a call costs what has changed and not what is there.

Nothing here is the truth about anything: each thing is kept beside what it was true of, and is looked at again when
that is another. With nothing kept, as in a process that is new, the answers are the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .desired import Share
    from .filesystems import Superblock


class Memory:
    """``serials``: disk name → inode of its entry in /sys/block, and its serial. The kernel gives every entry a number
    of its own (kernfs, Linux 5.5: never one again while it runs), so that another disk under an old name is told.
    ``superblocks``: disk name → what it was true of (:meth:`superblock`), and the superblock.
    ``shares``: share id → that part of the last document as it came, and as it was parsed."""

    __slots__ = ("serials", "shares", "superblocks")

    def __init__(self) -> None:
        self.serials: dict[str, tuple[int, str]] = {}
        self.superblocks: dict[str, tuple[object, Superblock]] = {}
        self.shares: dict[str, tuple[object, Share]] = {}

    def superblock(self, name: str, uuid: str, size: int, mount: str) -> Superblock | None:
        """Of a disk of that size, in bytes, that was a share's (``uuid``) when it was last looked at and has been
        mounted at that share's place ever since (``mount``: the line of mountinfo): while it is, nothing but growing
        changes what is kept of it."""
        kept = self.superblocks.get(name)
        return kept[1] if kept is not None and kept[0] == self._basis(name, uuid, size, mount) else None

    def keep_superblock(self, name: str, size: int, mount: str, superblock: Superblock) -> None:
        self.superblocks[name] = (self._basis(name, superblock.uuid, size, mount), superblock)

    def forget_superblock(self, device: str) -> None:
        """Before anything is done to a disk."""
        self.superblocks.pop(device.removeprefix("/dev/"), None)

    def _basis(self, name: str, uuid: str, size: int, mount: str) -> object:
        return self.serials.get(name), uuid, size, mount
