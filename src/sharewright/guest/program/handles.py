"""What Python's os lacks: files by inode number and generation, which is what an ext4 file handle holds, here and with
NFS clients alike; times of creation; holes."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_INODE_AND_GENERATION = 1  # FILEID_INO32_GEN of the kernel's include/linux/exportfs.h
_HERE, _NO_FOLLOW = -100, 0x100  # AT_FDCWD, AT_SYMLINK_NOFOLLOW
_BIRTH = 0x800  # STATX_BTIME
_PUNCH = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


class _Handle(ctypes.Structure):
    """``struct file_handle`` of open_by_handle_at(2), with the room that the kernel may ask for at most."""

    _fields_ = (
        ("size", ctypes.c_uint),
        ("kind", ctypes.c_int),
        ("inode", ctypes.c_uint),
        ("generation", ctypes.c_uint),
        ("rest", ctypes.c_ubyte * 120),
    )


class _Status(ctypes.Structure):
    """``struct statx``, as far as it is used here."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_ubyte * 76),
        ("birth_seconds", ctypes.c_int64),
        ("birth_nanoseconds", ctypes.c_uint32),
        ("rest", ctypes.c_ubyte * 164),
    )


def birth(path: str, *, directory: int = _HERE, follow: bool = False) -> int | None:
    """When a file was made, in ns; None where its file system does not know."""
    found = _Status()
    flags = 0 if follow else _NO_FOLLOW
    if _LIBC.statx(directory, os.fsencode(path), flags, _BIRTH, ctypes.byref(found)) != 0:
        raise _error(path)
    if not found.mask & _BIRTH:
        return None
    return int(found.birth_seconds) * 10**9 + int(found.birth_nanoseconds)


def generation(directory: int, name: str) -> int:
    """The generation of what has that name in an open directory; a symbolic link is not followed."""
    handle = _Handle(size=128)
    mount = ctypes.c_int()
    if _LIBC.name_to_handle_at(directory, os.fsencode(name), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        raise _error(name)
    if handle.kind != _INODE_AND_GENERATION:
        raise OSError(f"its file system gives handles of type {handle.kind}")
    return int(handle.generation)


def open_handle(place: int, inode: int, generation: int, flags: int) -> int:
    """Open an inode of the file system that the descriptor ``place`` is on. OSError (ESTALE) when there is no such."""
    handle = _Handle(size=8, kind=_INODE_AND_GENERATION, inode=inode, generation=generation)
    descriptor = _LIBC.open_by_handle_at(place, ctypes.byref(handle), flags | os.O_CLOEXEC)
    if descriptor < 0:
        raise _error(f"inode {inode}")
    return int(descriptor)


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make a hole in a file."""
    if _LIBC.fallocate(descriptor, _PUNCH, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise _error("a hole")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
