"""What ``sharewright doctor`` finds of the machines that backends have their shares on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

from sharewright.cli.options import open_store
from sharewright.errors import SharewrightError
from sharewright.identifiers import new_id
from sharewright.settings import Backend, Settings

Told: TypeAlias = tuple[Literal["ok", "warning", "problem"], str, str, str]  # level, subject, text, fix
SECONDS = 30.0
SEE = "docs/named-server.md says how such a machine is set up."


def examine_named(settings: Settings, clouds: Collection[str]) -> Iterator[Told]:
    """Of each backend with such a machine: whether the cloud has it, whether it is the one that was named and lets us
    in, and what it lacks. Whether volumes may be attached there, only attaching one tells."""
    for name, backend in settings.backends.items():
        if backend.driver_handles_share_servers or backend.cloud not in clouds:
            continue
        subject = f"server of {name}"
        try:
            for level, text, fix in _examine(settings, name, backend):
                yield level, subject, text, fix
        except (SharewrightError, ImportError) as error:
            text = error.message if isinstance(error, SharewrightError) else f"{error}."
            yield "problem", subject, text, error.hint if isinstance(error, SharewrightError) else ""


def _examine(
    settings: Settings, name: str, backend: Backend
) -> Iterator[tuple[Literal["ok", "warning", "problem"], str, str]]:
    from sharewright.clouds.open import open_cloud
    from sharewright.operations.assembly import named_machine, open_channels
    from sharewright.service_instance.named import guest_address, management_address

    machine = named_machine(name, backend)
    with closing(open_cloud(settings, backend)) as cloud:
        instance = cloud.compute.find_named_instance(machine.reference)
        if instance is None:
            yield (
                "problem",
                f"the cloud has no machine {machine.reference}.",
                f"Check backends.{name}.server.instance; other projects' servers are seen by administrators only.",
            )
            return
        if not instance.running:
            yield "problem", f"machine {instance.name} does not run.", "Start it: Sharewright does not."
            return
        login = guest_address(
            machine, _known_server(settings, name) or new_id(), management_address(machine, instance.addresses)
        )
        with closing(open_channels(cloud)) as channels:
            facts = channels.inspect(login, timeout=SECONDS)
    for each in facts.missing:
        yield "problem", f"machine {instance.name} lacks {each}", SEE
    for each in facts.warnings:
        yield "warning", f"machine {instance.name}: {each}", SEE
    if not facts.missing:
        yield "ok", f"machine {instance.name} ({instance.id}) answers at {login.host} with its host key", ""


def _known_server(settings: Settings, backend: str) -> str | None:
    """The server that the backend's shares are on, when there have been any."""
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    from sharewright.store.tables import share_servers

    if settings.database_url.startswith("sqlite:///") and not Path(settings.database_url[10:]).exists():
        return None
    try:
        with closing(open_store(settings)) as store, store.read() as tx:
            query = select(share_servers.c.id).where(share_servers.c.backend == backend, share_servers.c.named)
            return tx.execute(query).scalar_one_or_none()
    except SQLAlchemyError:  # the database is looked at for itself
        return None
