"""Many shares for lists, written through Manila's own database interface: copies of one that its API has made.

usage: upstream_seed.py CONFIGURATION SHARE NUMBER     (in the environment of upstream-requirements.txt)
"""

from __future__ import annotations

import sys

from manila import context  # type: ignore[import-not-found]
from manila.common import config as _config  # type: ignore[import-not-found]  # noqa: F401 (registers the options)
from manila.db import api as database  # type: ignore[import-not-found]
from oslo_config import cfg

_OF_THE_SHARE = (
    "user_id", "project_id", "size", "share_proto", "is_public", "snapshot_support",
    "create_share_from_snapshot_support", "revert_to_snapshot_support", "mount_snapshot_support",
)  # fmt: skip
_OF_ITS_INSTANCE = (
    "host", "status", "access_rules_status", "share_type_id", "availability_zone_id", "scheduled_at", "launched_at",
)  # fmt: skip


def main() -> None:
    configuration, share_id, number = sys.argv[1:]
    cfg.CONF(["--config-file", configuration], project="manila")
    administrator = context.get_admin_context()
    share = database.share_get(administrator, share_id)
    locations = database.export_location_get_all_by_share_id(administrator, share_id, include_admin_only=True)
    copied_locations = [
        {
            "path": location["path"],
            "is_admin_only": location["is_admin_only"],
            "metadata": database.export_location_metadata_get(administrator, location["uuid"]),
        }
        for location in locations
    ]
    values = {name: share[name] for name in _OF_THE_SHARE}
    values |= {name: share.instance[name] for name in _OF_ITS_INSTANCE}
    for n in range(int(number)):
        # Two metadata each, as in api_rows.py.
        metadata = {"purpose": "listed", "number": str(n)}
        copy = database.share_create(administrator, {**values, "display_name": f"listed-{n:06}", "metadata": metadata})
        database.export_locations_update(administrator, copy.instance["id"], copied_locations)


if __name__ == "__main__":
    main()
