"""Files that hold disks: what is in them, who writes to them, and how to copy one.

Formats are "raw" and "qcow2". QEMU marks files that it has open with locks on single bytes (its block/file-posix.c);
taking part keeps any QEMU, whoever starts it, from writing to a file while we copy it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharewright.clouds.libvirt.records import sync_directory
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, DeadlineExceeded

FICLONE = 0x40049409  # linux/fs.h
# What a file system without reflinks, or with other limits of them, answers.
NO_CLONES = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS})
CHUNK_BYTES = 32 * 2**20

QCOW2_MAGIC = b"QFI\xfb"
# The specification's header: magic, version, backing file's offset and length, cluster bits, size, encryption.
QCOW2_HEADER = struct.Struct(">4sIQIIQI")
QCOW2_FEATURES_AT = 72  # incompatible features, from version 3 on
QCOW2_READABLE = 0b11001  # dirty, a compression type, extended L2 entries; not: corrupt, an external data file

# QEMU: byte 100+n is locked by who has permission n, byte 200+n by who lets nobody else have it.
HELD, UNSHARED = 100, 200
READ, WRITE, RESIZE = 0, 1, 3
FLOCK = struct.Struct("hhqqi4x")


@contextmanager
def open_image(path: Path) -> Iterator[int]:
    """A descriptor for reading a plain file, never one that a link leads to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CloudObjectMissing(f"There is no file {path}.", hint="It may have been deleted.") from error
    except OSError as error:
        raise CloudError(f"{path} cannot be opened: {error.strerror}.", hint="It must be a plain file.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CloudError(f"{path} is not a plain file.", hint="Give a raw or qcow2 image.")
        yield descriptor
    finally:
        os.close(descriptor)


def probe_format(descriptor: int) -> str:
    """For files of unknown origin only: a guest can write anything into a raw disk."""
    return "qcow2" if os.pread(descriptor, len(QCOW2_MAGIC), 0) == QCOW2_MAGIC else "raw"


def read_size(descriptor: int, format_: str) -> int:
    """The disk's size in bytes. CloudError for a qcow2 file that needs other files, or that we cannot vouch for."""
    if format_ == "raw":
        return os.fstat(descriptor).st_size
    header = os.pread(descriptor, QCOW2_FEATURES_AT + 8, 0)
    if len(header) < QCOW2_FEATURES_AT + 8:
        raise CloudError("The file is too short for a qcow2 image.", hint="Give a raw or qcow2 image.")
    magic, version, backing, _, _, size, encryption = QCOW2_HEADER.unpack_from(header)
    if magic != QCOW2_MAGIC or version not in (2, 3):
        raise CloudError("The file is not a qcow2 image of version 2 or 3.", hint="Convert it with qemu-img convert.")
    features = int.from_bytes(header[QCOW2_FEATURES_AT:], "big") if version == 3 else 0
    if backing or features & ~QCOW2_READABLE or encryption:
        raise CloudError(
            "The qcow2 image has a backing file, an external data file, encryption or damage.",
            hint="Make a plain one of it with qemu-img convert.",
        )
    return int(size)


def allocated(descriptor: int) -> int:
    """Bytes that the file takes on the host's disk."""
    return os.fstat(descriptor).st_blocks * 512


def keep_writers_out(descriptor: int) -> None:
    """Until the descriptor is closed no QEMU opens the file for writing. CloudError when one has it so now."""
    for byte in (HELD + READ, UNSHARED + WRITE, UNSHARED + RESIZE):
        request = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            raise _in_use() from None
    for byte in (HELD + WRITE, HELD + RESIZE):
        question = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
        if FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
            raise _in_use()


def _in_use() -> CloudError:
    return CloudError("A process outside of Sharewright writes to the file.", hint="End what holds it.")


def copy_image(source: int, target: Path, *, end: float, check_room: Callable[[int], None]) -> None:
    """Copy to a new file, durable when this returns: as a clone where the file system can, else piece by piece with
    holes kept. ``check_room`` is asked before bytes are written; ``end`` is of the monotonic clock. A failure leaves
    nothing."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            if not _clone(source, descriptor):
                check_room(allocated(source))
                _copy_pieces(source, descriptor, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(target.parent)
    except BaseException as error:
        with suppress(OSError):
            target.unlink()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CloudCapacityExceeded(
                f"The host's file system is full: {target} could not be written.", hint="Free space on the host."
            ) from error
        if isinstance(error, OSError):
            raise CloudError(f"Cannot write {target}: {error.strerror}.", hint="Look at the host's disk.") from error
        raise


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in NO_CLONES:
            raise
        return False
    return True


def _copy_pieces(source: int, target: int, end: float) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, stop in _data(source, size):
        offset = start
        while offset < stop:
            if time.monotonic() >= end:
                raise DeadlineExceeded("Copying a disk took longer than there was time for.")
            copied = os.copy_file_range(source, target, min(CHUNK_BYTES, stop - offset), offset, offset)
            if not copied:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            offset += copied


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data, as offsets of begin and end; the rest is holes."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, offset


def sync_file(path: Path) -> None:
    """The file, and that it is there, survive a loss of power from now on."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)
    except OSError as error:
        raise CloudError(f"Cannot finish {path}: {error.strerror}.", hint="Look at the host's disk.") from error
