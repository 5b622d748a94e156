"""What a deployment has from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from operators_machine import make_machine
from sharewright.services.bootstrap import ensure_defaults
from sharewright.settings import Backend, Settings
from sharewright.store.database import Store
from sharewright.store.tables import share_type_extra_specs


@pytest.mark.parametrize(
    ("kinds", "handles_servers"), [((), "True"), ((True,), "True"), ((True, False), "True"), ((False,), "False")]
)
def test_the_default_share_type_is_for_what_the_backends_have(
    sqlite_store: Store, tmp_path: Path, kinds: tuple[bool, ...], handles_servers: str
) -> None:
    settings = Settings(state_dir=str(tmp_path))
    backends = {}
    for number, makes_servers in enumerate(kinds):
        options: dict[str, Any] = {}
        if not makes_servers:
            _, server = make_machine(settings)
            options = {"driver_handles_share_servers": False, "server": server}
        backends[f"backend{number}"] = Backend(cloud="simulated", **options)
    ensure_defaults(sqlite_store, msgspec.structs.replace(settings, backends=backends))
    with sqlite_store.read() as tx:
        specs = {row.key: row.value for row in tx.execute(select(share_type_extra_specs))}
    assert specs == {"driver_handles_share_servers": handles_servers}
