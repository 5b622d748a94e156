"""What serves a protocol that this program does not know: here, nothing.

A driver of another protocol brings a module of its own, which packing puts in the place of this one
(sharewright/guest/package.py; docs/write-a-driver.md). It needs these three functions, imports nothing but the standard
library, and touches the machine only through the :class:`.host.Host` that it is given. Its part of the document is any
JSON value; without one, none of this is called. ``mounts``: share id → path of every share that is mounted now.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .host import Host


def parse(section: object) -> object:
    """What the document's ``extension`` means; not None. ValueError says what is wrong with it, and refuses the whole
    document before anything was done."""
    raise ValueError("the program of this server has no extension")


def apply(host: Host, wanted: object, mounts: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    """Serve exactly what is wanted; return an answer for the driver, and in words what had to be done (again: nothing).

    Runs when shares are mounted and before others are unmounted: of those it must let go. What is wrong with one share
    belongs in the answer; an OSError or a failed command ends the whole call."""
    raise NotImplementedError


def observe(host: Host, wanted: object, mounts: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    """The same, changing nothing: the list says what :func:`apply` would do."""
    raise NotImplementedError
