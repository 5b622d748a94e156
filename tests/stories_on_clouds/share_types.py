"""Share types of the tests: one per backend, so that a test chooses the layout, and others."""

from __future__ import annotations

from deployment import Deployment
from sharewright.configuration_file import load


def make_share_types(deployment: Deployment) -> None:
    for name, backend in load(deployment.config).backends.items():
        make_share_type(
            deployment,
            name,
            driver_handles_share_servers=str(backend.driver_handles_share_servers),
            share_backend_name=name,
            snapshot_support="True",
            create_share_from_snapshot_support="True",
            revert_to_snapshot_support="True",
            mount_snapshot_support="True",
        )


def make_share_type(deployment: Deployment, name: str, **extra_specs: str) -> str:
    """The new type's id. ``__`` in a spec's name stands for a colon."""
    specs = {"driver_handles_share_servers": "True"}
    specs |= {key.replace("__", ":"): value for key, value in extra_specs.items()}
    with deployment.sdk("admin") as sdk:
        body = {"share_type": {"name": name, "extra_specs": specs}}
        made = sdk.shared_file_system.post("/types", json=body, raise_exc=True)
    return str(made.json()["share_type"]["id"])
