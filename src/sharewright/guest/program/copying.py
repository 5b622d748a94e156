"""One pass of copying a tree to another ext4, where every file keeps its inode number and, once :mod:`ext4` has written
them, its generation and its times of change and of creation. So a file handle that a client holds means the same file
in the copy.

The kernel gives a new file the inode number that stands in /sys/fs/ext4/<device>/inode_goal, if it is free. What is in
the copy is known from the copy itself: a file whose change time is that of its original is the same, so that a pass
that was cut short, or killed, is simply followed by another. A change time that was younger than two seconds when the
file was read is not kept: what came after it might have the same.

The original may be in use meanwhile, by tenants who are hostile: files are opened by handle or below an open directory,
never through a symbolic link, and what does not fit together any more is left for the next pass (``unsettled``).
"""

from __future__ import annotations

import errno
import os
import stat
import time

from .ext4 import Identity
from .handles import birth, generation, open_handle, punch
from .host import CommandFailed

ROOT_INODE = 2
CHUNK = 1024 * 1024
MOST_AT_ONCE = 200_000  # changed files in one pass; what is to be written of each takes some 350 bytes of memory
RECENT = 2_000_000_000  # nanoseconds; the kernel's clock for files ticks in milliseconds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class OutOfTime(CommandFailed):
    """The pass did not end within its time."""


class _Moving(Exception):
    """The original changed between two looks."""


# What the system says of a name or a handle that means something else than a moment ago.
_MOVING = (errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EINVAL)


class Pass:
    """``fix`` after :meth:`run`: inode → what the copy has to get while it is not mounted. ``settled``: the copy is
    then all that the original was. ``partial``: it ended early, since very many files have changed; another is needed.
    ``still``: nothing changes the original. ``inodes`` is the number of the copy's inodes; its last one is needed here
    and must be free."""

    def __init__(
        self, original: str, copy: str, *, inodes: int, goal: str, still: bool = False, seconds: float | None = None
    ) -> None:
        self._original = original
        self._copy = copy
        self._inodes = inodes
        self._goal_path = goal
        self._still = still
        self._end = None if seconds is None else time.monotonic() + seconds
        self._links: dict[int, int] = {}  # inodes with several names that are done → their generation in the copy
        self.fix: dict[int, Identity] = {}
        self.unsettled = 0
        self.partial = False
        self.bytes = 0

    @property
    def settled(self) -> bool:
        return self.unsettled == 0 and not self.partial

    def run(self) -> None:
        """CommandFailed when this original cannot be copied, OutOfTime, OSError (of which ENOSPC: no room)."""
        self._before = time.time_ns() - RECENT
        self._from = os.open(self._original, _DIRECTORY)
        self._to = os.open(self._copy, _DIRECTORY)
        self._goal = os.open(self._goal_path, os.O_WRONLY)
        self._limbo = -1
        try:
            roots = (ROOT_INODE, generation(self._from, "."), generation(self._to, "."))
            name = self._open_limbo()
            self._detach(roots)
            self._attach(roots)
            self._drop_limbo(name)
        finally:
            self._set_goal(0)
            for descriptor in (self._from, self._to, self._goal, self._limbo):
                if descriptor >= 0:
                    os.close(descriptor)

    # ---- limbo: what has no place in the copy now, each under its inode number --------------------------------------

    def _open_limbo(self) -> str:
        name = next((name for name, inode in _entries(self._to).items() if inode == self._inodes), "")
        if not name:
            name = f".{os.urandom(16).hex()}"
            self._set_goal(self._inodes)
            os.mkdir(name, 0o700, dir_fd=self._to)
        self._limbo = os.open(name, _DIRECTORY, dir_fd=self._to)
        if os.fstat(self._limbo).st_ino != self._inodes:
            raise CommandFailed(f"the copy's inode {self._inodes} is in use")
        self._flatten(list(_entries(self._limbo).values()))
        return name

    def _drop_limbo(self, name: str) -> None:
        for left in os.listdir(self._limbo):
            self._discard(left)
        times = os.fstat(self._to)
        os.rmdir(name, dir_fd=self._to)
        os.utime(self._to, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _discard(self, name: str) -> None:
        directory = stat.S_ISDIR(_look(self._limbo, name).st_mode)
        (os.rmdir if directory else os.unlink)(name, dir_fd=self._limbo)

    def _to_limbo(self, directory: int, name: str, inode: int) -> bool:
        """Whether it is a directory, which has to be flattened."""
        os.rename(name, str(inode), src_dir_fd=directory, dst_dir_fd=self._limbo)
        try:
            os.unlink(name, dir_fd=directory)  # a rename between two names of one file does nothing
        except FileNotFoundError:
            pass
        return stat.S_ISDIR(_look(self._limbo, str(inode)).st_mode)

    def _flatten(self, inodes: list[int]) -> None:
        """Empty the directories among these in limbo: what is in them may have another place now."""
        while inodes:
            self._watch_time()
            name = str(inodes.pop())
            if not stat.S_ISDIR(_look(self._limbo, name).st_mode):
                continue
            directory = os.open(name, _DIRECTORY, dir_fd=self._limbo)
            try:
                inodes += [
                    inode for name, inode in _entries(directory).items() if self._to_limbo(directory, name, inode)
                ]
            finally:
                os.close(directory)

    # ---- first: take out of the copy what is not so in the original --------------------------------------------------

    def _detach(self, roots: tuple[int, int, int]) -> None:
        stack = [roots]
        while stack:
            inode, before, now = stack.pop()
            try:
                original = open_handle(self._from, inode, before, _DIRECTORY)
            except OSError:
                self._moved()  # gone since its name was read
                continue
            copy = open_handle(self._to, inode, now, _DIRECTORY)
            try:
                names = _entries(original)
                for name, number in _entries(copy).items():
                    self._watch_time()
                    if number == self._inodes:
                        continue
                    kept = self._same(original, copy, name) if names.get(name) == number else None
                    if kept is None:
                        if self._to_limbo(copy, name, number):
                            self._flatten([number])
                    elif kept >= 0:
                        stack.append((number, kept, kept))
            finally:
                os.close(original)
                os.close(copy)

    def _same(self, original: int, copy: int, name: str) -> int | None:
        """None: what has this name in both, with one inode number, is not the same file. Otherwise the generation of a
        directory, -1 for all else."""
        try:
            before, now = _look(original, name), _look(copy, name)
            if before.st_ino != now.st_ino or stat.S_IFMT(before.st_mode) != stat.S_IFMT(now.st_mode):
                return None
            directory = stat.S_ISDIR(now.st_mode)
            if not directory and before.st_ctime_ns == now.st_ctime_ns:
                return -1
            number = generation(copy, name)
            if generation(original, name) != number:
                return None
        except FileNotFoundError:
            return None
        return number if directory else -1

    # ---- then: put in what is missing or has changed -----------------------------------------------------------------

    def _attach(self, roots: tuple[int, int, int]) -> None:
        stack = [roots]
        while stack:
            if len(self.fix) >= MOST_AT_ONCE:
                self.partial = True
                return
            inode, before, now = stack.pop()
            try:
                original = open_handle(self._from, inode, before, _DIRECTORY)
            except OSError:
                self._moved()
                continue
            copy = open_handle(self._to, inode, now, _DIRECTORY)
            try:
                seen = os.fstat(original)
                there = _entries(copy)
                for name, number in _entries(original).items():
                    self._watch_time()
                    try:
                        below = self._entry(original, copy, name, number, there.get(name) == number)
                    except _Moving:
                        self._moved()
                        continue
                    except OSError as error:
                        if error.errno not in _MOVING:
                            raise
                        self._moved()
                        continue
                    if below is not None:
                        stack.append(below)
                self._settle(f"/proc/self/fd/{original}", f"/proc/self/fd/{copy}", seen, before, follow=True)
            finally:
                os.close(original)
                os.close(copy)

    def _entry(self, original: int, copy: int, name: str, inode: int, there: bool) -> tuple[int, int, int] | None:
        """Make one name and its file as in the original. A directory is returned, to be looked into."""
        seen = _look(original, name)
        directory = stat.S_ISDIR(seen.st_mode)
        if seen.st_ino != inode:
            raise _Moving
        if there:
            now = _look(copy, name)
            if stat.S_IFMT(now.st_mode) != stat.S_IFMT(seen.st_mode):
                raise _Moving
            if not directory and now.st_ctime_ns == seen.st_ctime_ns:
                return None
        if inode >= self._inodes:
            raise CommandFailed(f"inode number {inode} is beyond the {self._inodes - 1} of the smaller file system")
        number = generation(original, name)
        if not there:
            self._place(original, copy, name, seen, number)
        born = generation(copy, name)
        if directory:
            return inode, number, born
        if seen.st_nlink > 1:
            if inode in self._links:
                return None
            self._links[inode] = born
        if stat.S_ISREG(seen.st_mode):
            self._content(original, copy, name, inode)
        self._settle(f"/proc/self/fd/{original}/{name}", f"/proc/self/fd/{copy}/{name}", seen, number)
        return None

    def _place(self, original: int, copy: int, name: str, seen: os.stat_result, number: int) -> None:
        """Give the file its name in the copy: it is there under another one, or in limbo, or is made."""
        inode, mode = seen.st_ino, seen.st_mode
        try:
            if generation(self._limbo, str(inode)) == number:
                os.rename(str(inode), name, src_dir_fd=self._limbo, dst_dir_fd=copy)
                return
            self._discard(str(inode))
        except FileNotFoundError:
            pass
        if not stat.S_ISDIR(mode) and self._link(copy, name, inode, self._links.get(inode, number)):
            return
        self._set_goal(inode)
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=copy)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=original), name, dir_fd=copy)
        else:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, seen.st_rdev, dir_fd=copy)
        if _look(copy, name).st_ino != inode:  # another file has the number still, which has gone from the original
            (os.rmdir if stat.S_ISDIR(mode) else os.unlink)(name, dir_fd=copy)
            raise _Moving

    def _link(self, copy: int, name: str, inode: int, number: int) -> bool:
        """Whether the copy has the file already, which then gets one more name."""
        try:
            descriptor = open_handle(self._to, inode, number, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=copy, follow_symlinks=True)
        finally:
            os.close(descriptor)
        return True

    def _content(self, original: int, copy: int, name: str, inode: int) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=original)
        try:
            seen = os.fstat(source)
            if seen.st_ino != inode:
                raise _Moving
            target = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=copy)
            try:
                self._copy_data(source, target, seen.st_size)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _copy_data(self, source: int, target: int, size: int) -> None:
        """Holes stay holes; of a file that is there already only what differs is written."""
        there = os.fstat(target).st_size
        offset = 0
        while offset < size:
            data, end = _next_data(source, offset, size)
            if data > offset and there > offset:
                punch(target, offset, data - offset)
            while data < end:
                self._watch_time()
                block = os.pread(source, min(CHUNK, end - data), data)
                if not block:
                    raise _Moving  # it has become shorter
                if data >= there or os.pread(target, len(block), data) != block:
                    written = os.pwrite(target, block, data)
                    self.bytes += written
                    block = block[:written]
                data += len(block)
            offset = end
        if os.fstat(target).st_size != size:
            os.ftruncate(target, size)

    def _settle(self, source: str, target: str, seen: os.stat_result, number: int, *, follow: bool = False) -> None:
        """Owner, mode, attributes and times; and what only :mod:`ext4` can write."""
        now = os.stat(target, follow_symlinks=follow)
        if now.st_ctime_ns == seen.st_ctime_ns:
            return
        if (now.st_uid, now.st_gid) != (seen.st_uid, seen.st_gid):
            os.chown(target, seen.st_uid, seen.st_gid, follow_symlinks=follow)
        if not stat.S_ISLNK(seen.st_mode):
            os.chmod(target, stat.S_IMODE(seen.st_mode))
        # After the owner, which takes capabilities away, and the mode, which changes an access list.
        names = os.listxattr(source, follow_symlinks=follow)
        for name in os.listxattr(target, follow_symlinks=follow):
            if name not in names:
                os.removexattr(target, name, follow_symlinks=follow)
        for name in names:
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow)
        os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=follow)
        lasting = os.stat(source, follow_symlinks=follow).st_ctime_ns == seen.st_ctime_ns
        if not lasting:
            self._moved()
        old = self._still or seen.st_ctime_ns < self._before
        born = birth(source, follow=follow)
        if born == birth(target, follow=follow):
            born = None
        self.fix[seen.st_ino] = Identity(number, seen.st_ctime_ns if lasting and old else None, born)

    # ---- small things ------------------------------------------------------------------------------------------------

    def _set_goal(self, inode: int) -> None:
        os.pwrite(self._goal, str(inode).encode(), 0)

    def _moved(self) -> None:
        self.unsettled += 1

    def _watch_time(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise OutOfTime("the changes could not be copied in the time that clients may have to wait")


def compare(original: str, copy: str) -> int:
    """How many files both trees have, when they are the same in everything that a client can see, names and their order
    included. CommandFailed names the first difference. Contents are not read again."""
    before, now = os.open(original, _DIRECTORY), os.open(copy, _DIRECTORY)
    count = 0
    try:
        root = generation(before, ".")
        stack = [(ROOT_INODE, root)]
        births = birth(".", directory=before) is not None  # else the inodes have no room for them
        if _face(before, ".", births) != _face(now, ".", births):
            raise CommandFailed("the copy differs in its root directory")
        while stack:
            number, born = stack.pop()
            first = open_handle(before, number, born, _DIRECTORY)
            try:
                second = open_handle(now, number, born, _DIRECTORY)
            except OSError as error:
                os.close(first)
                raise CommandFailed(f"the copy lacks the directory with inode {number}") from error
            try:
                names = os.listdir(first)
                if names != os.listdir(second):
                    raise CommandFailed(f"the copy differs in the names of the directory with inode {number}")
                for name in names:
                    face = _face(first, name, births)
                    if face != _face(second, name, births):
                        raise CommandFailed(f"the copy differs in inode {face[0]}")
                    count += 1
                    if stat.S_ISDIR(face[2]):
                        stack.append((face[0], face[1]))
            finally:
                os.close(first)
                os.close(second)
    finally:
        os.close(before)
        os.close(now)
    return count


def _face(directory: int, name: str, births: bool) -> tuple[int, ...]:
    """All that a client sees of a file, beside its content and extended attributes. The size of a directory is its
    file system's own affair."""
    seen = _look(directory, name)
    size = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_size
    born = birth(name, directory=directory) if births else None
    times = (seen.st_mtime_ns, seen.st_ctime_ns, born or 0)
    who = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink, seen.st_rdev)
    return (seen.st_ino, generation(directory, name), *who, size, *times)


def _look(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _entries(directory: int) -> dict[str, int]:
    with os.scandir(directory) as found:
        return {entry.name: entry.inode() for entry in found}


def _next_data(source: int, offset: int, size: int) -> tuple[int, int]:
    """Where the next data begin and end; at the end of the file both are its size."""
    try:
        data = os.lseek(source, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size, size
    return (data, min(os.lseek(source, data, os.SEEK_HOLE), size)) if data < size else (size, size)
