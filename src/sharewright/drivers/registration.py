"""From a backend's ``driver`` in the configuration to a share driver.

``generic`` is ours. Any other name is an entry point of the group ``sharewright.drivers`` of an installed package, or
``package.module:NAME``; either leads to a :class:`DriverKind`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from sharewright.clouds.contract import Cloud
from sharewright.drivers.contract import ShareDriver
from sharewright.errors import ConfigurationError
from sharewright.service_instance.contract import ServiceInstances
from sharewright.service_instance.convergence import Convergence
from sharewright.settings import Backend
from sharewright.store.database import Store

GROUP = "sharewright.drivers"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverParts:
    """What a driver is made of: its backend's name and settings, and everything it works with. ``instances`` are the
    backend's own; ``convergence`` applies documents to them by group commit; ``open_key``
    opens the sealed ``access_key`` of a rule, or raises ConfigurationError."""

    backend: str
    settings: Backend
    store: Store
    cloud: Cloud
    instances: ServiceInstances
    convergence: Convergence
    open_key: Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverKind:
    """``client_ports`` (TCP) are what clients may reach of a service VM. ``guest_extension`` is the source of the
    module that serves the protocol in it (guest/program/extension.py), None when the guest program needs no help.
    ``takes_named_servers``: it can do with a machine that somebody else makes and heals, and whose documents are
    ``borrowed`` (``driver_handles_share_servers = false``)."""

    make: Callable[[DriverParts], ShareDriver]
    client_ports: tuple[int, ...]
    guest_extension: bytes | None = None
    takes_named_servers: bool = False


def find_driver_kind(name: str) -> DriverKind:
    """Raises ConfigurationError when there is no such driver, or it cannot be imported."""
    if name == "generic":
        from sharewright.drivers.generic.driver import GENERIC

        return GENERIC
    try:
        found = _imported(name) if ":" in name else _entry_point(name)
    except ConfigurationError:
        raise
    except Exception as error:  # whatever somebody else's module raises while it is imported
        raise ConfigurationError(
            f"The share driver {name!r} cannot be loaded: {type(error).__name__}: {error}.",
            hint="Its package must be installed where every worker runs.",
        ) from error
    if not isinstance(found, DriverKind):
        raise ConfigurationError(
            f"The share driver {name!r} is a {type(found).__name__}, not a DriverKind.",
            hint="docs/write-a-driver.md says what a driver's package has to offer.",
        )
    return found


def _imported(name: str) -> object:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _entry_point(name: str) -> object:
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        known = ", ".join(sorted(["generic", *offered]))
        raise ConfigurationError(
            f"There is no share driver {name!r}; known are: {known}.",
            hint="Install its package, or name it as package.module:NAME.",
        )
    return offered[name].load()
