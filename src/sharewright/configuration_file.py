"""The configuration file: TOML, read into the settings of settings.py.

A mistake is a ConfigurationError that names the key, the value and what was expected, for every mistake in the file at
once.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from sharewright.errors import ConfigurationError
from sharewright.logging import redact, without_secrets
from sharewright.settings import Name, Section, Settings


def field_types(section: type[Section]) -> dict[str, Any]:
    """Each field's type with its limits, in order of declaration."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.__struct_fields__}


def expectation(kind: Any) -> str:
    """What a field's type accepts, in words: "a whole number, 1 to 65535"."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.LiteralType):
        return " or ".join(json.dumps(value) for value in info.values)
    if isinstance(info, msgspec.inspect.BoolType):
        return "true or false"
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        noun = "a whole number" if isinstance(info, msgspec.inspect.IntType) else "a number"
        if info.ge is not None and info.le is not None:
            return f"{noun}, {info.ge} to {info.le}"
        limits = {">": info.gt, "≥": info.ge, "<": info.lt, "≤": info.le}
        return " ".join([noun, *(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None)])
    if isinstance(info, msgspec.inspect.StrType):
        return "a string of letters, digits, '_', '.', '-'" if info.pattern else "a string"
    if isinstance(info, msgspec.inspect.VarTupleType):
        return "a list of strings"
    return "a table"


def parse(data: dict[str, Any], *, source: str = "configuration") -> Settings:
    """Settings from parsed TOML. Raises ConfigurationError that lists every mistake."""
    problems = _problems(Settings, data, "")
    if problems:
        raise ConfigurationError(f"{source}: {'; '.join(problems)}.", hint="docs/configuration.md explains every key.")
    try:
        return msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:  # for what a later field type may add and _problems does not know
        raise ConfigurationError(f"{source}: {error}.", hint="docs/configuration.md explains every key.") from error


def load(path: Path) -> Settings:
    """Settings from a file. Raises ConfigurationError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no configuration file {path}.", hint="Name one with --config.") from error
    except PermissionError as error:
        raise ConfigurationError(f"{path} may not be read by this user.", hint="Run as root, or chmod it.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"{path} is not a readable TOML file: {error}.", hint="See https://toml.io."
        ) from error
    return parse(data, source=str(path))


def _problems(section: type[Section], data: Any, prefix: str) -> list[str]:
    """Every mistake in one table and the tables below it, as "key = value: what was expected"."""
    if not isinstance(data, dict):
        return [f"{prefix.rstrip('.')} = {_shown(data)}: expected a table ([{prefix.rstrip('.')}])"]
    types = field_types(section)
    problems = []
    for key, value in data.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            problems.append(
                f"{prefix}{key}: there is no such key" + (f"; did you mean {prefix}{near[0]}?" if near else "")
            )
        elif isinstance(types[key], type) and issubclass(types[key], Section):
            problems += _problems(types[key], value, f"{prefix}{key}.")
        elif get_origin(types[key]) is dict:
            problems += _named_problems(get_args(types[key])[1], value, f"{prefix}{key}")
        else:
            try:
                msgspec.convert(value, types[key])
            except msgspec.ValidationError:
                problems.append(f"{prefix}{key} = {_shown(value, key)}: expected {expectation(types[key])}")
    if not problems:
        try:
            msgspec.convert(data, section)
        except msgspec.ValidationError as error:
            name, _, text = (
                str(error).rpartition(" - at `")[0].partition(": ")
                if " - at `" in str(error)
                else (str(error).partition(": "))
            )
            shown = f" = {_shown(data[name], name)}" if name in data else ""
            problems.append(f"{prefix}{name}{shown}: {text}")
    return problems


def _named_problems(section: type[Section], value: Any, key: str) -> list[str]:
    """As _problems, for a table of tables with names of the user's own."""
    if not isinstance(value, dict):
        return [f"{key} = {_shown(value)}: expected tables such as [{key}.main]"]
    problems = []
    for name, table in value.items():
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            problems.append(f"{key}.{_shown(name)}: a name consists of letters, digits, '_', '.' and '-'")
        problems += _problems(section, table, f"{key}.{name}.")
    return problems


def _shown(value: Any, key: str = "") -> str:
    text = without_secrets(json.dumps(redact({key: value})[key], default=str, ensure_ascii=False))
    return text if len(text) <= 80 else text[:77] + "…"
