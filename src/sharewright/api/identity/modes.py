"""The modes ``none`` and ``http_basic``, and the choice between all."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from sharewright.api.identity.builtin import BuiltinIdentity
from sharewright.api.identity.contract import Caller, Credentials, Identity, Unauthorized, with_implied
from sharewright.api.identity.users import PasswordVerifier, User, UserFile
from sharewright.errors import ConfigurationError
from sharewright.services.deployment import Deployment
from sharewright.settings import Settings


def open_identity(deployment: Deployment) -> Identity:
    """The configured identity. Raises ConfigurationError."""
    settings = deployment.settings
    if settings.identity.mode == "none":
        return NoIdentity(settings)
    if settings.identity.mode == "http_basic":
        return BasicIdentity(UserFile(user_file_path(settings)))
    if settings.identity.mode == "keystone":
        return open_keystone(settings)
    return BuiltinIdentity(deployment, UserFile(user_file_path(settings)))


def open_keystone(settings: Settings) -> Identity:
    """Keystone's libraries are an extra, so they are imported only here. Raises ConfigurationError."""
    try:
        from sharewright.api.identity.keystone import KeystoneIdentity
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("keystoneauth1", "requests")):
            raise
        raise ConfigurationError(
            'identity.mode = "keystone": the Python package keystoneauth1 is missing.',
            hint="pip install 'sharewright[keystone]'",
        ) from error
    return KeystoneIdentity(settings)


def user_file_path(settings: Settings) -> Path:
    """Where the password file is."""
    if settings.identity.user_file:
        return Path(settings.identity.user_file)
    return settings.state_path / "users.json"


class NoIdentity:
    """Everybody is the one configured user; tokens are ignored. For a laptop, or behind another guard."""

    challenge = ""

    def __init__(self, settings: Settings) -> None:
        identity = settings.identity
        self._caller = Caller(user_id=identity.user, project_id=identity.project, roles=with_implied(identity.roles))

    def authenticate(self, credentials: Credentials) -> Caller:
        return self._caller


class BasicIdentity:
    """HTTP Basic against the password file. The project is the one in the URL, else the user's first."""

    challenge = 'Basic realm="sharewright", charset="UTF-8"'

    def __init__(self, file: UserFile) -> None:
        self._file = file
        self._verifier = PasswordVerifier(file.users().rounds)

    def authenticate(self, credentials: Credentials) -> Caller:
        name, password = _decode(credentials.authorization)
        user = self._file.users().get(name)
        usable = user if user is not None and user.enabled and user.roles else None
        if not self._verifier.verify(password, usable.password_hash if usable else None) or usable is None:
            raise Unauthorized()
        project = _project(usable, credentials.project_id)
        return Caller(user_id=usable.name, project_id=project, roles=with_implied(usable.roles[project]))


def _project(user: User, wanted: str) -> str:
    """The project of the request. One that the user has no role in is not taken: the URL is then found malformed."""
    return wanted if wanted in user.roles else next(iter(user.roles))


def _decode(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > 1024:
        raise Unauthorized()
    try:
        name, separator, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unauthorized() from None
    if not separator:
        raise Unauthorized()
    return name, password
