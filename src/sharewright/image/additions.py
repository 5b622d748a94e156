"""What an author of a share driver adds to the service image, said in a TOML file: packages, files, units to start."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sharewright.errors import ConfigurationError

Package = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
Unit = Annotated[str, Meta(pattern=r"^[A-Za-z0-9@:_.-]+\.(service|socket|timer|mount|path|target)$")]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file of the image; ``path`` has no leading slash. Owned by root."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """``enabled_units`` start with multi-user.target; nothing else that the packages bring starts by itself."""

    packages: tuple[str, ...] = ()
    files: tuple[ImageFile, ...] = ()
    enabled_units: tuple[str, ...] = ()


NO_ADDITIONS = Additions()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    packages: tuple[Package, ...] = ()
    enabled_units: tuple[Unit, ...] = ()
    files: str = ""


def read_additions(path: Path) -> Additions:
    """Raises ConfigurationError. ``files`` names a directory beside the file, whose tree goes over the image's root; a
    file that its owner may execute becomes 0755, any other 0644."""
    try:
        wanted = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(
            f"{path} does not say what to add to the image: {error}.",
            hint="It is a TOML file with packages, files and enabled_units; docs/service-image.md has an example.",
        ) from error
    files = _tree(path.parent / wanted.files) if wanted.files else ()
    return Additions(packages=wanted.packages, files=files, enabled_units=wanted.enabled_units)


def _tree(directory: Path) -> tuple[ImageFile, ...]:
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a directory.", hint="files names one beside the TOML file.")
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ConfigurationError(f"{path} is neither a file nor a directory.", hint="Only those can be added.")
        if path.is_file():
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found.append(ImageFile(path.relative_to(directory).as_posix(), path.read_bytes(), mode))
    return tuple(found)
