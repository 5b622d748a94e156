"""What libvirt cannot remember for us: one JSON file per object, replaced by rename, under locks between processes.

libvirt keeps metadata only for domains (networks get it in 9.7, volumes never), so tags, names and ports live here. A
record is written before its object is made and removed after it is gone: every object of ours has one at all times.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sharewright.errors import CloudError, DeadlineExceeded

KEY = re.compile(r"^[0-9a-f-]{8,64}$")
LOCK_POLL_SECONDS = 0.02
Record = dict[str, Any]


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """The file has the old or the new content, whatever happens meanwhile; durable when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """What was renamed, made or removed in it stays so after a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Records:
    """The records of one kind, by id (a UUID)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, key: str) -> Path | None:
        """None for what cannot be a key of ours: ids come from users and databases."""
        return self._directory / f"{key}.json" if KEY.match(key) else None

    def get(self, key: str) -> Record | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return self._parse(path, content)

    def put(self, key: str, record: Record) -> None:
        path = self._path(key)
        if path is None:
            raise ValueError(f"not a record's key: {key!r}")
        try:
            write_atomically(path, json.dumps(record, sort_keys=True).encode())
        except OSError as error:
            raise CloudError(
                f"Cannot write {path}: {error.strerror}.", hint="Check the free space of the state directory."
            ) from error

    def remove(self, key: str) -> None:
        path = self._path(key)
        if path is None:
            return
        with suppress(FileNotFoundError):
            path.unlink()
            sync_directory(self._directory)

    def all(self) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for path in sorted(self._directory.glob("*.json")):
            if not path.name.startswith("."):
                with suppress(FileNotFoundError):  # deleted since
                    found[path.stem] = self._parse(path, path.read_bytes())
        return found

    @staticmethod
    def _parse(path: Path, content: bytes) -> Record:
        try:
            record: Record = json.loads(content)
        except ValueError as error:
            raise CloudError(f"{path} is not valid: {error}.", hint="Restore it from a backup.") from error
        return record


class Locks:
    """Named locks between all threads of all processes that use one state directory. The kernel drops them when a
    process dies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def hold(self, name: str, *, timeout: float = 60.0) -> Iterator[None]:
        """Raises DeadlineExceeded when another holds it for longer than ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            with (self._directory / name).open("w") as file:  # its own: flock is per open file, not per process
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() >= end:
                            raise DeadlineExceeded(f"Waited {timeout:g} s for other work on {name}.") from None
                    time.sleep(LOCK_POLL_SECONDS)
                if self._is(name, file.fileno()):
                    yield
                    return

    def forget(self, name: str) -> None:
        """For who holds the lock of something that is no more: whoever waits for it goes on with a new file."""
        (self._directory / name).unlink(missing_ok=True)

    def _is(self, name: str, descriptor: int) -> bool:
        """Whether the lock's file is still the one that we opened."""
        try:
            return os.path.samestat((self._directory / name).stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False
