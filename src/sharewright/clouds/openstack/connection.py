"""The way to OpenStack's services: credentials, one session per process, translated errors, bounded repetition.

Every request carries the id of the user's request (``X-OpenStack-Request-ID``), so that one search through the cloud's
logs shows what belongs together, and ends soon after the deadline of the call that it serves.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import openstack
import requests
import structlog
from keystoneauth1.exceptions import ClientException
from keystoneauth1.session import Session, TCPKeepAliveAdapter
from openstack.block_storage.v3._proxy import Proxy as BlockStorage
from openstack.config import OpenStackConfig
from openstack.exceptions import SDKException
from openstack.image.v2._proxy import Proxy as ImageService

from sharewright import __version__, instruments
from sharewright.clouds.contract import cloud_requests
from sharewright.clouds.openstack.errors import Passing, translate
from sharewright.clouds.openstack.locks import NamedLocks
from sharewright.clouds.openstack.polling import Deadline
from sharewright.errors import CloudError, ConfigurationError
from sharewright.logging import bound_request_id
from sharewright.secret_files import read_secret
from sharewright.settings import OpenStack

T = TypeVar("T")
log = structlog.get_logger()

# As old as the oldest clouds that we mean to work with (Train); the newest accept them as well.
COMPUTE_MICROVERSION = "2.79"
VOLUME_MICROVERSION = "3.59"
PATIENCE = 30.0  # seconds that a call without a deadline of its own is repeated for
LEAST_REQUEST = 15.0  # seconds that a request may take even if the deadline is nearer: a busy cloud is slow, not gone
FIRST_PAUSE = 0.5
MOST_PAUSE = 8.0
LIMITED_TRIES = 4
KEPT_CONNECTIONS = 64  # to one service, for as many threads; more are opened and closed again
# The only form that OpenStack's services accept from outside.
REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Bounds(threading.local):
    """The deadline of the call that this thread is in."""

    deadline: Deadline | None = None


_bounds = _Bounds()


class BoundSession(Session):
    """keystoneauth's session; each request gets the global request id and the time that its call has left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, TCPKeepAliveAdapter(pool_maxsize=KEPT_CONNECTIONS))

    def request(self, url: str, method: str, *args: Any, **kwargs: Any) -> requests.Response:
        identifier = bound_request_id()
        if identifier and REQUEST_ID.fullmatch(identifier) and not kwargs.get("global_request_id"):
            kwargs["global_request_id"] = identifier
        longest = self.timeout
        if _bounds.deadline is not None and "timeout" not in kwargs and longest:
            kwargs["timeout"] = max(min(float(longest), _bounds.deadline.remaining), min(LEAST_REQUEST, float(longest)))
        cloud_requests.count += 1
        instruments.cloud_requests.inc()
        return super().request(url, method, *args, **kwargs)


class Connection:
    """One per process and cloud; thread safe. Nothing is contacted before the first call."""

    def __init__(self, settings: OpenStack) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sdk: openstack.connection.Connection | None = None
        self.locks = NamedLocks()

    def __repr__(self) -> str:
        return f"Connection({self._settings.cloud or self._settings.auth_url!r})"

    def call(
        self, doing: str, action: Callable[[openstack.connection.Connection], T], *, deadline: Deadline | None = None
    ) -> T:
        """The result of ``action``; its errors become ours, described by ``doing`` ("listing volumes").

        Passing failures (no answer, 5xx, too many requests, "busy") are repeated with growing pauses until the
        deadline, so ``action`` must be repeatable: one that creates looks first for what an earlier try has made.
        """
        bound = deadline or Deadline(PATIENCE)
        tries = 0
        while True:
            try:
                return self.once(doing, action, deadline=bound)
            except Passing as error:
                tries += 1
                pause = error.pause or min(FIRST_PAUSE * 2 ** (tries - 1), MOST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311
                if (error.limited and tries >= LIMITED_TRIES) or pause >= bound.remaining:
                    raise
                log.info("OpenStack call is repeated", doing=doing, tries=tries, reason=error.message)
                time.sleep(pause)

    def once(
        self, doing: str, action: Callable[[openstack.connection.Connection], T], *, deadline: Deadline | None = None
    ) -> T:
        """As :meth:`call`, without repetition."""
        with _within(deadline or Deadline(PATIENCE)):
            try:
                return action(self._open())
            except (SDKException, ClientException, requests.RequestException) as error:
                raise translate(error, doing) from error

    def create(
        self,
        doing: str,
        make: Callable[[openstack.connection.Connection], T],
        *,
        again: Callable[[openstack.connection.Connection], T | None],
        deadline: Deadline,
    ) -> T:
        """As :meth:`call` for a request that makes something. A failed try may have made it all the same, its answer
        lost: every further one asks ``again`` first, which looks for it."""
        tried = False

        def action(sdk: openstack.connection.Connection) -> T:
            nonlocal tried
            if tried:
                found = again(sdk)
                if found is not None:
                    return found
            tried = True
            return make(sdk)

        return self.call(doing, action, deadline=deadline)

    @property
    def project_id(self) -> str:
        """The project that owns our objects."""
        found = self.call("asking Keystone for our project", lambda sdk: sdk.session.get_project_id())
        if not found:
            raise CloudError(
                "Sharewright's token has no project.",
                hint="Set openstack.project, or use another application credential.",
            )
        return found

    def close(self) -> None:
        with self._lock:
            sdk, self._sdk = self._sdk, None
        if sdk is not None:
            sdk.close()

    def _open(self) -> openstack.connection.Connection:
        with self._lock:
            if self._sdk is None:
                self._sdk = _connect(self._settings)
            return self._sdk


def block_storage(sdk: openstack.connection.Connection) -> BlockStorage:
    """Cinder's API v3; openstacksdk's types allow for v2, which is gone."""
    return cast(BlockStorage, sdk.block_storage)


def image_service(sdk: openstack.connection.Connection) -> ImageService:
    """Glance's API v2; openstacksdk's types allow for v1, which is gone."""
    return cast(ImageService, sdk.image)


@contextlib.contextmanager
def _within(deadline: Deadline) -> Iterator[None]:
    before, _bounds.deadline = _bounds.deadline, deadline
    try:
        yield
    finally:
        _bounds.deadline = before


def _connect(settings: OpenStack) -> openstack.connection.Connection:
    """openstacksdk's connection; contacts nobody. Raises ConfigurationError and what translate() knows."""
    given: dict[str, Any] = {
        "region_name": settings.region,
        "interface": settings.interface,
        "cacert": settings.ca_file,
        "api_timeout": settings.request_seconds,
        "compute_default_microversion": COMPUTE_MICROVERSION,
        "block_storage_default_microversion": VOLUME_MICROVERSION,
    }
    if not settings.cloud and not settings.auth_url:
        raise ConfigurationError(
            "[openstack] names no cloud.", hint="Set openstack.auth_url and credentials, or openstack.cloud."
        )
    auth = _auth(settings)
    if auth:
        given["auth"] = auth
    if settings.application_credential_id:
        given["auth_type"] = "v3applicationcredential"
    given = {key: value for key, value in given.items() if value not in ("", None)}
    loader = OpenStackConfig(
        load_envvars=False,  # what the shell says about clouds must not reach a service
        load_yaml_config=bool(settings.cloud),
        config_files=_clouds_yaml() if settings.cloud else None,
        session_constructor=BoundSession,
        app_name="sharewright",
        app_version=__version__,
    )
    region = loader.get_one(cloud=settings.cloud or None, **given)
    return openstack.connection.Connection(config=region)


def _clouds_yaml() -> list[str] | None:
    """The file that OS_CLIENT_CONFIG_FILE names, or None for openstacksdk's usual places."""
    named = os.environ.get("OS_CLIENT_CONFIG_FILE")
    return [named] if named else None


def _auth(settings: OpenStack) -> dict[str, str]:
    auth = {"auth_url": settings.auth_url}
    if settings.application_credential_id:
        secret = _secret(
            "application_credential_secret",
            settings.application_credential_secret,
            settings.application_credential_secret_file,
        )
        auth |= {
            "application_credential_id": settings.application_credential_id,
            "application_credential_secret": secret,
        }
    elif settings.username:
        auth |= {
            "username": settings.username,
            "user_domain_name": settings.user_domain,
            "password": _secret("password", settings.password, settings.password_file),
            "project_name": settings.project,
            "project_domain_name": settings.project_domain,
        }
    return {key: value for key, value in auth.items() if value}


def _secret(key: str, value: str, file: str) -> str:
    return read_secret(f"openstack.{key}_file", file) if file else value
