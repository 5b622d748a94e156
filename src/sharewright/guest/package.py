"""Packs guest/program/ into the one file that runs in a service VM: a zip archive behind a ``#!`` line.

The same sources always give the same bytes on one Python version. The file's *identity* is the digest of the sources
alone, so that controllers with different Pythons agree on it. Compiled code is packed next to the sources: a guest with
the same Python version starts several times faster, any other compiles the sources.

``extension`` is the source of a driver's own module for another protocol. It takes the place of
guest/program/extension.py, and is part of the program and of its identity.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import zipfile
from functools import cache
from pathlib import Path

PROGRAM_PATH = "/usr/lib/sharewright/sharewright-guest"
_FOLDER = "sharewright_guest"
_START = f"import sys\n\nfrom {_FOLDER}.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"
# Isolated and without site: nothing but the standard library. Given an archive, Python would start it through runpy,
# whose imports take as long as all of ours; so the line names what to import. (The kernel reads 255 characters of it.)
INTERPRETER = (
    '#!/usr/bin/env -S /usr/bin/python3 -IS -c "import sys;sys.path.insert(0,sys.argv.pop(1));'
    f'from {_FOLDER}.__main__ import main;sys.exit(main(sys.argv[1:]))"\n'
).encode()


@cache
def build_program(extension: bytes | None = None) -> bytes:
    """The program's file, to be installed at :data:`PROGRAM_PATH` with mode 0755."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # For those who start it as "python3 FILE".
        _add(archive, "__main__.py", _START.encode())
        for name, source in _packed_sources(extension).items():
            path = f"{_FOLDER}/{name}"
            _add(archive, path + "c", _compiled(path, source))
            _add(archive, path, source)
    return INTERPRETER + buffer.getvalue()


@cache
def program_identity(extension: bytes | None = None) -> str:
    """Hexadecimal SHA-256 over the program's sources and how they are started: what ``hello`` and ``version`` answer,
    and what decides whether a guest is brought up to our version."""
    digest = hashlib.sha256(INTERPRETER + _START.encode())
    for name, source in _sources(extension).items():
        digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


@cache
def program_sha256(extension: bytes | None = None) -> str:
    """Hexadecimal SHA-256 of :func:`build_program`'s bytes: what ``upgrade`` verifies."""
    return hashlib.sha256(build_program(extension)).hexdigest()


def _sources(extension: bytes | None) -> dict[str, bytes]:
    folder = Path(__file__).parent / "program"
    sources = {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}
    return sources if extension is None else {**sources, "extension.py": extension}


def _packed_sources(extension: bytes | None) -> dict[str, bytes]:
    return {**_sources(extension), "identity.py": f'IDENTITY = "{program_identity(extension)}"\n'.encode()}


def _compiled(path: str, source: bytes) -> bytes:
    """A .pyc that is used without looking at the source (PEP 552, unchecked hash). Marshal format 2 has no
    back-references, whose places depend on what else the process holds."""
    code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    return (
        importlib.util.MAGIC_NUMBER
        + (0b01).to_bytes(4, "little")
        + importlib.util.source_hash(source)
        + marshal.dumps(code, 2)
    )


def _add(archive: zipfile.ZipFile, path: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, data, compresslevel=9)
