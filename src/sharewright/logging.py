"""Structured logs on standard error: text for people, JSON for collectors, and never a secret in either.

Modules log with ``structlog.get_logger()`` and keyword arguments. ``bound(request_id=…)`` adds its values to every line
logged inside the block, by whatever layer, so that one request id leads from the API to the guest. Python's own
``logging`` (uvicorn, paramiko, SQLAlchemy) comes out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import structlog

HIDDEN = "[hidden]"

_SECRET_KEY = re.compile(
    r"(^|[_.\-])(password|passwd|pass|passphrase|secret|token|private_?key|secret_?key|master_?key|access_?key"
    r"|ssh_host_\w+_key|authorization|cookie|credentials?|ciphertext|user_data)s?$",
    re.IGNORECASE,
)
_SECRET_TEXT = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@"), rf"\1:{HIDDEN}@"),  # a URL's password
    (
        re.compile(r"\b(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\",]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            r"(\b(?:x-(?:auth|subject)-token|password|passwd)['\"]?\s*[:=]\s*['\"]?)[^\s'\",)}]+", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}"), HIDDEN),  # a bcrypt hash
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAXIMUM_DEPTH = 8


def without_secrets(text: str) -> str:
    """The text with private keys, passwords in URLs and authentication headers hidden."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redact(value: Any, *, depth: int = 0) -> Any:
    """A copy of a log value that is safe to print: secrets are hidden by key and by form. Other objects become text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, bytes | bytearray):
        return without_secrets(value.decode("utf-8", "backslashreplace"))
    if depth >= _MAXIMUM_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if _is_secret(key, item) else redact(item, depth=depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth=depth + 1) for item in value]
    return without_secrets(repr(value) if not isinstance(value, BaseException) else f"{type(value).__name__}: {value}")


def _is_secret(key: object, value: object) -> bool:
    return value is not None and value != "" and _SECRET_KEY.search(str(key)) is not None


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor; ProcessorFormatter's own entries (leading underscore) pass unchanged."""
    for key in list(event):
        if not key.startswith("_"):
            event[key] = HIDDEN if _is_secret(key, event[key]) else redact(event[key])
    return event


def one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters, so that no value from outside can forge a line of the text log."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack"):
            event[key] = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), value)
    return event


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Add values (``request_id``, ``operation_id``, …) to every line this thread logs inside the block."""
    with structlog.contextvars.bound_contextvars(**{key: value for key, value in values.items() if value is not None}):
        yield


def bound_request_id() -> str | None:
    """The request id that ``bound`` has set for this thread."""
    value = structlog.contextvars.get_contextvars().get("request_id")
    return value if isinstance(value, str) else None


def configure(
    *,
    form: Literal["text", "json"] = "text",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the process. Calling it again replaces the earlier set-up."""
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact_event,
    ]
    last: list[Any]
    if form == "json":
        last = [structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        last = [one_line, structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=40)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "sharewright", False):
            root.removeHandler(old)
    handler.sharewright = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(number)
    # Chatty at information level, and paramiko logs every passing connection failure as an error with a traceback.
    for name in ("paramiko", "sqlalchemy", "alembic", "uvicorn", "urllib3", "keystoneauth"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL if number > logging.DEBUG else logging.DEBUG)
