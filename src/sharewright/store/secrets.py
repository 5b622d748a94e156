"""Secrets at rest: rows encrypted with a key that is a file outside the database.

Whoever holds only a copy of the database reads none of them. The private keys of service VMs are for workers alone, and
so is their key, the master key. The access keys of users, which the API shows to their project, have another one. Every
node of a deployment needs the same files.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import Connection, delete, select

from sharewright.errors import ConfigurationError, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.secret_files import secret_file
from sharewright.settings import Settings
from sharewright.store.tables import secrets

MASTER_KEY = "master.key"
ACCESS_KEY = "access.key"


def open_secrets(settings: Settings) -> SecretBox:
    """The box of private keys: with the configured master key file, or one in the state directory, which is made when
    there is none. Raises ConfigurationError."""
    named = settings.database.master_key_file
    return SecretBox(secret_file(named), provided=True) if named else SecretBox(settings.state_path / MASTER_KEY)


def open_access_keys(settings: Settings, *, make: bool = False) -> SecretBox | None:
    """The box of access keys, likewise; only workers ``make`` a key file in the state directory. None: a deployment
    whose files are provided, but not this one, has no access keys. Raises ConfigurationError."""
    named = settings.database.access_key_file
    if named:
        return SecretBox(secret_file(named), provided=True)
    if settings.database.master_key_file:
        return None
    return SecretBox(settings.state_path / ACCESS_KEY, provided=not make)


class SecretBox:
    """Puts secrets into the store and takes them out again, within the caller's transaction.

    Creates ``key_file`` (mode 0600) when there is none; two processes that start together end with one key. With
    ``provided`` the file is somebody else's to make (a credential, a mounted secret): it must exist, and its group may
    read it, which is how systemd and Kubernetes show it to an unprivileged service. Raises ConfigurationError when the
    file cannot be used or others may read it.
    """

    def __init__(self, key_file: Path, *, provided: bool = False) -> None:
        self._key_file = key_file
        self._fernet = _open(key_file, provided)

    def __repr__(self) -> str:
        return f"SecretBox({str(self._key_file)!r})"

    def __reduce__(self) -> str:
        raise TypeError("A SecretBox cannot be copied or serialised: it holds the master key.")

    def put(self, tx: Connection, owner: str, value: str) -> str:
        """Store ``value`` encrypted; return the row's id. ``owner`` is as in the cloud tags ("share_server:<id>")."""
        identifier = new_id()
        ciphertext = self.seal(value)
        tx.execute(secrets.insert().values(id=identifier, owner=owner, ciphertext=ciphertext, created_at=utcnow()))
        return identifier

    def get(self, tx: Connection, identifier: str) -> str:
        """The secret in clear. NotFound; ConfigurationError when this is not the key it was encrypted with."""
        ciphertext = tx.execute(select(secrets.c.ciphertext).where(secrets.c.id == identifier)).scalar()
        if ciphertext is None:
            raise NotFound(f"There is no secret {identifier}.")
        return self.open(ciphertext)

    def delete(self, tx: Connection, owner: str) -> None:
        """Remove every secret of ``owner``."""
        tx.execute(delete(secrets).where(secrets.c.owner == owner))

    def seal(self, value: str) -> str:
        """The ciphertext of ``value``, for a statement of the caller's own."""
        return self._fernet.encrypt(value.encode()).decode()

    def open(self, ciphertext: str) -> str:
        """The clear text of a row's ``ciphertext`` that a wider statement has read already."""
        try:
            return self._fernet.decrypt(ciphertext.encode()).decode()
        except InvalidToken:
            # Without the cause: its traceback shows nothing useful and the frames hold the ciphertext.
            raise ConfigurationError(
                f"A stored secret cannot be decrypted with the key in {self._key_file}.",
                hint="Copy the key file of the node that created this database.",
            ) from None


def _open(key_file: Path, provided: bool) -> Fernet:
    try:
        if not provided and not key_file.exists():
            _create(key_file)
        mode = stat.S_IMODE(key_file.stat().st_mode)
        key = key_file.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            f"The key file {key_file} cannot be read or created: {error.strerror or error}."
            if not provided
            else f"The key file {key_file} (database.master_key_file or access_key_file) cannot be read:"
            f" {error.strerror or error}.",
            hint="Its directory must exist and be writable by this user."
            if not provided
            else "docs/deployment.md says how to make one.",
        ) from error
    if mode & (0o027 if provided else 0o077):
        raise ConfigurationError(
            f"The key file {key_file} may be read by others (mode {mode:04o}).", hint=f"chmod 600 {key_file}"
        )
    try:
        return Fernet(key)
    except ValueError:
        raise ConfigurationError(
            f"The key file {key_file} does not hold a key (32 bytes in URL-safe base64).",
            hint="Restore it from a backup; without it what it sealed is lost.",
        ) from None


def _create(key_file: Path) -> None:
    """Create the file with its whole content or not at all; keep an existing one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{key_file.name}.", dir=key_file.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails where a rename would replace the key that another process has just begun to use.
            key_file.hardlink_to(temporary)
        except FileExistsError:
            return
        directory = os.open(key_file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink()
