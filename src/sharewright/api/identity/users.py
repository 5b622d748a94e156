"""The password file: named users with their roles in projects, for the modes http_basic and builtin.

A JSON file that only its owner may read::

    {"users": [{"name": "alice", "password_hash": "$2b$12$…", "roles": {"demo": ["member"]}}]}

``roles`` maps a project to the user's roles there; a project exists when a user has a role in it, and its name is its
id. The first project is the one of a request that names none. Passwords are kept as bcrypt hashes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Final

import bcrypt
import msgspec
import structlog
from msgspec import Meta

from sharewright.errors import ConfigurationError, InvalidInput

log = structlog.get_logger()

MAXIMUM_PASSWORD_BYTES: Final = 72  # what bcrypt looks at
_CACHE_SECONDS: Final = 300.0
_CACHE_ENTRIES: Final = 10_000

UserName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
ProjectName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]
RoleName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One user. ``roles``: project → roles."""

    name: UserName
    password_hash: Annotated[str, Meta(pattern=r"^\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}$")]
    roles: dict[ProjectName, tuple[RoleName, ...]] = {}
    enabled: bool = True

    def __repr__(self) -> str:
        return f"User(name={self.name!r}, roles={self.roles!r})"


class Users(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All users of the file, by name."""

    users: tuple[User, ...] = ()

    def get(self, name: str) -> User | None:
        return next((user for user in self.users if user.name == name), None)

    def with_user(self, user: User) -> Users:
        """With this user added, or put in place of the one of that name."""
        return Users(users=(*(other for other in self.users if other.name != user.name), user))

    def without_user(self, name: str) -> Users:
        return Users(users=tuple(user for user in self.users if user.name != name))

    @property
    def rounds(self) -> int:
        """The cost of the dearest password hash, as bcrypt's logarithm."""
        return max((int(user.password_hash.split("$")[2]) for user in self.users), default=12)

    @property
    def projects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(project for user in self.users for project in user.roles))


def read_users(path: Path) -> Users:
    """The users of a file. Raises ConfigurationError, also when others than the owner may read the file."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"identity.user_file: there is no file {path}.", hint="Make it with: sharewright user add NAME"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"identity.user_file: {path} cannot be read: {error.strerror}.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"identity.user_file: {path} has mode {stat.S_IMODE(mode):04o}; others than its owner may use it.",
            hint=f"Run: chmod 600 {path}",
        )
    try:
        users = msgspec.json.decode(data, type=Users)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"identity.user_file: {path}: {error}.", hint="See docs/api.md.") from error
    names = [user.name for user in users.users]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"identity.user_file: {path} names a user twice.")
    return users


def write_users(path: Path, users: Users) -> None:
    """Replace the file, by rename, with mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(users), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def hash_password(password: str, *, rounds: int = 12) -> str:
    """The bcrypt hash of a password. Raises InvalidInput for one that bcrypt would cut off, or an empty one."""
    encoded = password.encode()
    if not encoded or len(encoded) > MAXIMUM_PASSWORD_BYTES or b"\0" in encoded:
        raise InvalidInput(f"A password needs 1 to {MAXIMUM_PASSWORD_BYTES} bytes, and no NUL.")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(rounds)).decode()


class PasswordVerifier:
    """Compares passwords with hashes in constant time, and remembers right ones for some minutes.

    bcrypt is slow on purpose; a client that sends its password with every request must not pay it each time. What is
    remembered is a keyed digest of password and hash, so a changed hash forgets it. At most two comparisons run at
    once: guessing passwords cannot take all processors.
    """

    def __init__(self, rounds: int = 12) -> None:
        """``rounds``: the cost of the hashes, for the one that stands in for an unknown user's."""
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, float] = {}
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(2)
        self._decoy = hash_password(secrets.token_hex(16), rounds=rounds)
        self.comparisons = 0  # slow ones, made so far

    def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is right. ``None``, an unknown user, takes as long as a wrong password."""
        encoded = password.encode("utf-8", "surrogatepass")
        if not encoded or len(encoded) > MAXIMUM_PASSWORD_BYTES or b"\0" in encoded:
            encoded, acceptable = b"-", False
        else:
            acceptable = password_hash is not None
        digest = hmac.new(self._key, (password_hash or "").encode() + b"\0" + encoded, hashlib.sha256).digest()
        if acceptable and self._knows(digest):
            return True
        with self._turn:
            # Many requests of one user come at once; all but the first two have their answer by now.
            if acceptable and self._knows(digest):
                return True
            self.comparisons += 1
            right = bcrypt.checkpw(encoded, (password_hash or self._decoy).encode())
        if not (right and acceptable):
            return False
        with self._lock:
            if len(self._known) >= _CACHE_ENTRIES:
                self._known.clear()
            self._known[digest] = time.monotonic() + _CACHE_SECONDS
        return True

    def _knows(self, digest: bytes) -> bool:
        with self._lock:
            return self._known.get(digest, 0.0) > time.monotonic()


class UserFile:
    """The file as last read; read again when it changed on disk. A broken change keeps the users as they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users = read_users(path)
        self._stamp = self._signature()
        self._lock = threading.Lock()

    def users(self) -> Users:
        with self._lock:
            stamp = self._signature()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._users = read_users(self._path)
                except ConfigurationError as error:
                    log.error("The password file is broken; its last good content stays in force.", error=str(error))
            return self._users

    def _signature(self) -> tuple[int, int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
