"""The mode ``keystone``: tokens of a real Keystone, which this service asks about each token it does not know.

What upstream's ``auth_token`` middleware does, on keystoneauth1: answers are remembered for a while, a service token
beside the user's lets a token pass that has just expired, and tokens of application credentials with access rules work
for what the rules name. Nothing of a token but a keyed digest is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import requests
import structlog
from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1 import identity as keystone_identity
from keystoneauth1.session import Session, TCPKeepAliveAdapter

from sharewright.api.identity.access_rules import AccessRule, allowed
from sharewright.api.identity.contract import Caller, Credentials, IdentityUnavailable, Unauthorized, with_implied
from sharewright.errors import ConfigurationError, Forbidden
from sharewright.secret_files import read_secret
from sharewright.settings import Keystone, Settings

log = structlog.get_logger()

# Says that we enforce access rules; without it Keystone knows no token that has some.
_ACCESS_RULES_HEADER: Final = {"OpenStack-Identity-Access-Rules": "1.0"}
_TOKEN: Final = re.compile(r"[!-~]{1,8192}")
_CACHE_ENTRIES: Final = 10_000
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Named(msgspec.Struct, frozen=True):
    """A role, by name."""

    name: str


class Identified(msgspec.Struct, frozen=True):
    """A user or a project, by id."""

    id: str


class ApplicationCredential(msgspec.Struct, frozen=True):
    """What a token was issued for. No list of rules allows everything."""

    access_rules: tuple[AccessRule, ...] | None = None


class ValidToken(msgspec.Struct, frozen=True, kw_only=True):
    """What Keystone says of a valid token, as far as it matters here. ``project`` is absent from every other scope
    (system, domain, none). ``is_admin_project`` is absent unless the cloud confines administrators to one project."""

    user: Identified
    expires_at: datetime  # with a zone, always; see __post_init__
    project: Identified | None = None
    roles: tuple[Named, ...] = ()
    is_admin_project: bool = True
    application_credential: ApplicationCredential | None = None

    def __post_init__(self) -> None:
        # Keystone leaves out the "Z" for a token that ends with the application credential it was issued for.
        if self.expires_at.tzinfo is None:
            msgspec.structs.force_setattr(self, "expires_at", self.expires_at.replace(tzinfo=UTC))

    @property
    def role_names(self) -> frozenset[str]:
        """In lower case: policy compares roles without regard to case, as upstream's does."""
        return frozenset(role.name.lower() for role in self.roles)


class Answer(msgspec.Struct, frozen=True):
    """The body of Keystone's answer."""

    token: ValidToken


_decoder = msgspec.json.Decoder(Answer)


class KeystoneIdentity:
    """Asks Keystone about tokens. Keystone need not answer when this is made."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError when the password file or the certificates cannot be used."""
        keystone = settings.identity.keystone
        self._url = versioned(keystone.auth_url)
        self.challenge = f'Keystone uri="{keystone.www_authenticate_uri or keystone.auth_url}"'
        self._service_roles = frozenset(role.lower() for role in keystone.service_token_roles)
        # One retry: Keystone may have closed a kept connection just now.
        self._session = open_session(keystone, connections=settings.api.threads, connect_retries=1)
        self._cache = TokenCache(keystone.cache_seconds)
        self._down = False
        self._trying = threading.Lock()

    def authenticate(self, credentials: Credentials) -> Caller:
        """The caller. Raises Unauthorized, Forbidden for a token without a project, IdentityUnavailable."""
        for_service = self._is_for_service(credentials.service_token)
        token = self._find(credentials.token, allow_expired=for_service)
        rules = token.application_credential.access_rules if token.application_credential else None
        # A service's request on a user's behalf is not one the user could have named in a rule.
        if rules is not None and not for_service and not allowed(rules, credentials.method, credentials.path):
            raise Unauthorized()
        if token.project is None:
            raise Forbidden(
                "The token is not scoped to a project.",
                hint="Shares belong to projects; ask Keystone for such a token.",
            )
        roles = with_implied(token.role_names)
        if not token.is_admin_project:
            roles -= {"admin"}
        return Caller(user_id=token.user.id, project_id=token.project.id, roles=roles, by_service=for_service)

    def _is_for_service(self, secret: str) -> bool:
        """Whether another service asks on behalf of the user. Raises Unauthorized for a token that is no service's."""
        if not secret:
            return False
        if not self._find(secret).role_names & self._service_roles:
            raise Unauthorized()
        return True

    def _find(self, secret: str, *, allow_expired: bool = False) -> ValidToken:
        secret = secret.strip()
        if not _TOKEN.fullmatch(secret):
            raise Unauthorized()
        key = self._cache.key(secret, allow_expired=allow_expired)
        token = self._cache.get(key)
        if token is None:
            token = self._ask_in_turn(secret, allow_expired=allow_expired)
            self._cache.put(key, token, may_be_expired=allow_expired)
        return token

    def _ask_in_turn(self, secret: str, *, allow_expired: bool) -> ValidToken:
        """What Keystone says now. While it is down one request at a time finds out whether it is back: the others,
        and those that need no answer, shall not wait for its silence. Raises Unauthorized, IdentityUnavailable."""
        if not self._down:
            return self._ask(secret, allow_expired=allow_expired)
        if not self._trying.acquire(blocking=False):
            raise IdentityUnavailable()
        try:
            return self._ask(secret, allow_expired=allow_expired)
        finally:
            self._trying.release()

    def _ask(self, secret: str, *, allow_expired: bool) -> ValidToken:
        url = f"{self._url}/auth/tokens?nocatalog" + ("&allow_expired=1" if allow_expired else "")
        headers = {"X-Subject-Token": secret, "Accept": "application/json", **_ACCESS_RULES_HEADER}
        try:
            answer = self._session.get(url, headers=headers, authenticated=True, raise_exc=False)
        except keystone_errors.Unauthorized as error:
            self._down = False
            raise _unavailable("Keystone refuses the service's own user; see [identity.keystone].") from error
        except keystone_errors.ClientException as error:
            self._down = True
            raise _unavailable(f"Keystone does not answer: {type(error).__name__}: {error}") from error
        self._down = answer.status_code >= 500
        if answer.status_code == 404:
            raise Unauthorized()
        if answer.status_code in (401, 403):
            raise _unavailable(
                "Keystone does not let the service's user ask about tokens; it needs the role service (or admin)."
            )
        if answer.status_code != 200:
            raise _unavailable(f"Keystone answers {answer.status_code}.")
        try:
            return _decoder.decode(answer.content).token
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _unavailable(f"Keystone's answer is not understood: {error}") from error


@dataclass(slots=True)
class TokenCache:
    """Keystone's answers, each for ``seconds`` and not past the token's end. Refusals are not kept: a made-up token
    must not push out a good one."""

    seconds: float
    _entries: dict[bytes, tuple[float, datetime, ValidToken]] = field(default_factory=dict, repr=False)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def key(self, secret: str, *, allow_expired: bool) -> bytes:
        return hmac.new(self._secret, b"%d%s" % (allow_expired, secret.encode()), hashlib.sha256).digest()

    def get(self, key: bytes) -> ValidToken | None:
        with self._lock:
            end, expires_at, token = self._entries.get(key, (0.0, _NEVER, None))
            if token is not None and (end <= time.monotonic() or expires_at <= datetime.now(UTC)):
                del self._entries[key]
                return None
            return token

    def put(self, key: bytes, token: ValidToken, *, may_be_expired: bool) -> None:
        if self.seconds <= 0:
            return
        with self._lock:
            self._entries.pop(key, None)
            if len(self._entries) >= _CACHE_ENTRIES:
                del self._entries[next(iter(self._entries))]  # the oldest
            end = time.monotonic() + self.seconds
            self._entries[key] = (end, _NEVER if may_be_expired else token.expires_at, token)


def versioned(url: str) -> str:
    """The URL of Keystone's API v3."""
    url = url.rstrip("/")
    return url if url.endswith("/v3") else f"{url}/v3"


def open_session(keystone: Keystone, *, connections: int = 1, connect_retries: int = 0) -> Session:
    """A session as the service's own user; nothing is sent yet. Raises ConfigurationError."""
    if keystone.ca_file and not Path(keystone.ca_file).is_file():
        raise ConfigurationError(f"identity.keystone.ca_file: there is no file {keystone.ca_file}.")
    pool = requests.Session()
    for scheme in ("http://", "https://"):
        pool.mount(scheme, TCPKeepAliveAdapter(pool_maxsize=connections))
    user = keystone_identity.V3Password(
        auth_url=versioned(keystone.auth_url),
        username=keystone.username,
        password=keystone.password or read_secret("identity.keystone.password_file", keystone.password_file),
        user_domain_id=keystone.user_domain_id or None,
        user_domain_name=None if keystone.user_domain_id else keystone.user_domain,
        project_name=keystone.project,
        project_domain_id=keystone.project_domain_id or None,
        project_domain_name=None if keystone.project_domain_id else keystone.project_domain,
    )
    return Session(
        auth=user,
        session=pool,
        verify=keystone.ca_file or True,
        timeout=keystone.request_seconds,
        connect_retries=connect_retries,
        app_name="sharewright",
    )


def _unavailable(reason: str) -> IdentityUnavailable:
    """Tell the operator the reason; the caller only learns that it is not the caller's fault."""
    log.error("A token could not be checked.", reason=reason)
    return IdentityUnavailable()
