"""A share type per backend, so that a test chooses the layout."""

from __future__ import annotations

from deployment import Deployment


def make_share_types(deployment: Deployment) -> None:
    with deployment.sdk("admin") as sdk:
        for backend in ("two_nics", "one_nic"):
            specs = {
                "driver_handles_share_servers": "True",
                "share_backend_name": backend,
                "snapshot_support": "True",
            }
            body = {"share_type": {"name": backend, "extra_specs": specs}}
            sdk.shared_file_system.post("/types", json=body, raise_exc=True)
