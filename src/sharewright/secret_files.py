"""Secrets that the configuration names instead of holding: files, or credentials that systemd hands to a unit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sharewright.errors import ConfigurationError

CREDENTIAL = "credential:"  # begins the name of a systemd credential, where a file is asked for


def check_secret_file(name: str, value: str) -> None:
    """ValueError, for the setting ``name``, unless it is empty, an absolute path, or a credential."""
    credential = value.removeprefix(CREDENTIAL)
    if value and not (Path(value).is_absolute() or (credential != value and credential and "/" not in credential)):
        raise ValueError(f"{name}: expected an absolute path, or {CREDENTIAL}NAME for a systemd credential")


def secret_file(value: str) -> Path:
    """The file that a setting names: a path, or ``credential:NAME`` for what systemd's LoadCredential= put there.

    Raises ConfigurationError outside a unit that loads credentials.
    """
    if not value.startswith(CREDENTIAL):
        return Path(value)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigurationError(
            f"{value} is a systemd credential, and this process was given none.",
            hint="Start it as a unit with LoadCredential=, or name a file instead.",
        )
    return Path(directory) / value.removeprefix(CREDENTIAL)


def read_secret(key: str, value: str) -> str:
    """The first line of a secret file; ``key`` is the setting, for the error.

    Raises ConfigurationError, also when everybody on the host may read the file.
    """
    path, text = _read(key, value)
    lines = text.splitlines()
    if not lines or not lines[0]:
        fault = "begins with an empty line" if lines else "is empty"
        raise ConfigurationError(f"{key}: {path} {fault}.", hint="Put the secret there, as its first line.")
    return lines[0]


def read_key_file(key: str, value: str) -> str:
    """A private SSH key, as it stands in its file; errors as of read_secret."""
    path, text = _read(key, value)
    if "-----BEGIN OPENSSH PRIVATE KEY-----" not in text:
        raise ConfigurationError(
            f"{key}: {path} is no private key in OpenSSH's format.", hint="Make one: sharewright server key BACKEND"
        )
    return text


def _read(key: str, value: str) -> tuple[Path, str]:
    path = secret_file(value)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{key}: {path} cannot be read: {reason}.", hint="See docs/deployment.md.") from None
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"{key}: {path} has mode {stat.S_IMODE(mode):04o}; everybody may use it.", hint=f"Run: chmod 600 {path}"
        )
    return path, text
