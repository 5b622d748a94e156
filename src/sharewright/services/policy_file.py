"""policy.yaml: rules that replace the defaults of policy.py, in the syntax of oslo.policy.

A check string is made of ``role:NAME``, ``rule:NAME``, ``KEY:VALUE`` (KEY a credential: project_id, user_id, is_admin;
VALUE a text or ``%(KEY)s`` of the resource), ``@`` (everybody), ``!`` (nobody), ``not``, ``and``, ``or`` and brackets.
An empty one is ``@``. The file is read again when it has changed; a mistake in a changed one is logged, and what was
true before stays so.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from sharewright.context import Check, RequestContext
from sharewright.errors import ConfigurationError
from sharewright.services.policy import RULES

log = structlog.get_logger()

Target: TypeAlias = Mapping[str, str]
# Manila's building blocks, which a file may refer to and replace.
BASE: Final[Mapping[str, str]] = {
    "context_is_admin": "role:admin",
    "context_is_host_admin": "role:admin and project_id:%(project_id)s",
    "admin_api": "is_admin:True",
    "admin_or_owner": "is_admin:True or project_id:%(project_id)s",
    "admin_or_owner_user": "is_admin:True or project_id:%(project_id)s and user_id:%(user_id)s",
    "admin_or_service_api": "role:admin or role:service",
    "default": "rule:admin_or_owner",
    "owner-user": "user_id:%(user_id)s and project_id:%(project_id)s",
    "project-admin": "role:admin and project_id:%(project_id)s",
    "project-member": "role:member and project_id:%(project_id)s",
    "project-reader": "role:reader and project_id:%(project_id)s",
}
_DEFAULTS: Final = {
    "reader": "rule:context_is_admin or rule:project-reader",
    "member": "rule:context_is_admin or rule:project-member",
    "admin": "rule:context_is_admin",
}
_TOKENS: Final = re.compile(r"\s*(?:(\()|(\))|(@)|(!)|('[^']*':[^\s()]+|[^\s()]+))")
_DEPTH: Final = 20  # of rules that refer to rules
MAXIMUM_BYTES: Final = 1_000_000


class PolicyFile:
    """The rules of one file. ``checks`` are those that it has, by name."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._checks = read(path)

    @property
    def checks(self) -> Mapping[str, Check]:
        try:
            stamp = _stamp(self._path)
        except ConfigurationError as error:
            log.error("the policy file cannot be read; the rules stay as they were", reason=str(error))
            return self._checks
        if stamp != self._stamp:
            with self._lock:
                if stamp != self._stamp:
                    self._stamp = stamp
                    try:
                        self._checks = read(self._path)
                    except ConfigurationError as error:
                        log.error("the policy file is wrong; the rules stay as they were", reason=str(error))
        return self._checks


def read(path: Path) -> dict[str, Check]:
    """The rules of a file: name → check. Raises ConfigurationError for one that is not well formed."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "api.policy_file: the Python package PyYAML is missing.", hint="pip install 'sharewright[policy]'"
        ) from error
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > MAXIMUM_BYTES:
            raise ConfigurationError(f"api.policy_file: {path} is too large.", hint="It has rules only.")
        data = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"api.policy_file: {path} cannot be read: {error}.") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigurationError(f"api.policy_file: {path} is no mapping of rule names to checks.")
    for name in data:
        if name not in RULES and name not in BASE and not any(f"rule:{name}" in str(text) for text in data.values()):
            log.warning("a rule of the policy file has no effect here", rule=name)
    texts = {**{name: _DEFAULTS[kind] for name, kind in RULES.items()}, **BASE}
    texts |= {name: _text(path, name, value) for name, value in data.items()}
    parsed: dict[str, _Node] = {}
    for name, check in texts.items():
        try:
            parsed[name] = _parse(check)
        except ValueError as error:
            raise ConfigurationError(f"api.policy_file: {path}: rule {name}: {error}.") from None
    _refuse_loops(path, texts)
    return {name: _bind(parsed, name) for name in data}


# ---- parts -----------------------------------------------------------------------------------------------------------

_Node: TypeAlias = Callable[[RequestContext, Target, Mapping[str, Any], bool], bool]


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigurationError(f"api.policy_file: {path} cannot be read: {error.strerror}.") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _text(path: Path, name: str, value: Any) -> str:
    if value is None or value == []:
        return "@"
    if not isinstance(value, str):
        raise ConfigurationError(f"api.policy_file: {path}: rule {name} is no string.")
    return value.strip() or "@"


def _bind(parsed: Mapping[str, _Node], name: str) -> Check:
    def check(context: RequestContext, target: Target) -> bool:
        is_admin = parsed["context_is_admin"](context, {}, parsed, False)
        return parsed[name](context, target, parsed, is_admin)

    return check


def _refuse_loops(path: Path, texts: Mapping[str, str]) -> None:
    """Rules that refer to unknown ones, or to themselves."""
    references = {name: re.findall(r"(?<![\w%])rule:([^\s()]+)", text) for name, text in texts.items()}
    for name, named in references.items():
        for each in named:
            if each not in texts:
                raise ConfigurationError(f"api.policy_file: {path}: rule {name} refers to {each}, which there is not.")
    for name in references:
        level, seen = [name], 0
        while level:
            seen += 1
            if seen > _DEPTH:
                raise ConfigurationError(f"api.policy_file: {path}: rule {name} refers to itself.")
            level = list({each for one in level for each in references[one]})


def _parse(text: str) -> _Node:
    tokens = _tokens(text)
    node, rest = _either(tokens)
    if rest:
        raise ValueError(f"'{rest[0]}' is not expected there")
    return node


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            raise ValueError(f"'{text[position:][:32]}' is not understood")
        # A value may have brackets of its own: %(project_id)s.
        piece = match.group().strip()
        end = match.end()
        while piece.endswith("%") and text[end : end + 1] == "(":
            close = text.index(")s", end) + 2 if ")s" in text[end:] else len(text)
            piece, end = piece + text[end:close], close
        tokens.append(piece)
        position = end
    return tokens


def _either(tokens: list[str]) -> tuple[_Node, list[str]]:
    node, rest = _both(tokens)
    nodes = [node]
    while rest and rest[0].lower() == "or":
        node, rest = _both(rest[1:])
        nodes.append(node)
    if len(nodes) == 1:
        return node, rest
    return lambda context, target, rules, admin: any(each(context, target, rules, admin) for each in nodes), rest


def _both(tokens: list[str]) -> tuple[_Node, list[str]]:
    node, rest = _one(tokens)
    nodes = [node]
    while rest and rest[0].lower() == "and":
        node, rest = _one(rest[1:])
        nodes.append(node)
    if len(nodes) == 1:
        return node, rest
    return lambda context, target, rules, admin: all(each(context, target, rules, admin) for each in nodes), rest


def _one(tokens: list[str]) -> tuple[_Node, list[str]]:
    if not tokens:
        raise ValueError("it ends where a check is expected")
    first, rest = tokens[0], tokens[1:]
    if first.lower() == "not":
        node, rest = _one(rest)
        return lambda context, target, rules, admin: not node(context, target, rules, admin), rest
    if first == "(":
        node, rest = _either(rest)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket is not closed")
        return node, rest[1:]
    return _check(first), rest


def _check(text: str) -> _Node:
    if text in ("@", "!"):
        return lambda context, target, rules, admin: text == "@"
    kind, colon, value = text.rpartition(":") if text.startswith("'") else text.partition(":")
    if not colon or not kind or not value:
        raise ValueError(f"'{text[:64]}' is no check")
    if kind == "rule":
        return lambda context, target, rules, admin: bool(rules[value](context, target, rules, admin))
    if kind == "role":
        return lambda context, target, rules, admin: value.lower() in context.roles
    wanted = re.fullmatch(r"%\((\w+)\)s", value)
    own = kind.strip("'") if kind.startswith("'") else None
    if own is None and kind not in ("project_id", "tenant_id", "tenant", "user_id", "user", "is_admin"):
        raise ValueError(f"'{kind[:64]}' is nothing that is known of a caller")

    def check(context: RequestContext, target: Target, rules: Mapping[str, Any], admin: bool) -> bool:
        expected = target.get(wanted[1]) if wanted else value
        return expected is not None and (own if own is not None else _credential(context, kind, admin)) == expected

    return check


def _credential(context: RequestContext, kind: str, admin: bool) -> str:
    if kind == "is_admin":
        return str(admin)
    return context.user_id if kind.startswith("user") else context.project_id
