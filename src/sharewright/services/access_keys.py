"""Access keys: the passwords of users in access rules. In the database only sealed; shown to who may change the rules.

A share server has one account for a user name, so the rules for one name on a project's shares of a share network, and
on their snapshots, have one key: the first of them makes it, and it goes with the last. Two first ones at the same
time, or another project's, make two; the guest then honours one and refuses the other rule, so that no user ever gets
in with a key that is not shown for the share.
"""

from __future__ import annotations

import secrets
import string
from typing import Any, Final

import structlog
from sqlalchemy import Connection, func, select

from sharewright.context import RequestContext
from sharewright.errors import ConfigurationError, InvalidInput
from sharewright.services.access_types import same_client
from sharewright.services.deployment import Deployment, Record
from sharewright.services.policy import allows
from sharewright.store.secrets import open_access_keys
from sharewright.store.tables import (
    share_access_rules,
    share_snapshot_access_rules,
    share_snapshots,
    shares,
)

_ALPHABET: Final = string.ascii_letters + string.digits
_LENGTH: Final = 24  # 142 bits

log = structlog.get_logger()


def sealed_key(tx: Connection, deployment: Deployment, share: Record, user: str) -> str:
    """The key for a new rule, sealed. InvalidInput where there are none; ConfigurationError when this node lacks the
    file."""
    box = open_access_keys(deployment.settings)
    if box is None:
        raise InvalidInput(
            "Access type 'user' is not available: this deployment has no access keys.",
            hint="Its operator can set database.access_key_file.",
        )
    snapshot_rules, snapshots = share_snapshot_access_rules, share_snapshots
    found: list[Any] = []
    for rules, with_shares in (
        (share_access_rules.c, share_access_rules.join(shares, shares.c.id == share_access_rules.c.share_id)),
        (
            snapshot_rules.c,
            snapshot_rules.join(snapshots, snapshots.c.id == snapshot_rules.c.snapshot_id).join(
                shares, shares.c.id == snapshots.c.share_id
            ),
        ),
    ):
        found += tx.execute(
            select(rules.created_at, rules.id, rules.access_key)
            .select_from(with_shares)
            .where(
                shares.c.share_network_id == share["share_network_id"],
                shares.c.project_id == share["project_id"],
                rules.access_type == "user",
                func.lower(rules.access_to) == same_client(user),
                rules.access_key.is_not(None),
            )
            .order_by(rules.created_at, rules.id)
            .limit(1)
        ).all()
    if found:
        return str(min(tuple(row) for row in found)[2])
    return box.seal("".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)))


def show_keys(
    deployment: Deployment,
    context: RequestContext,
    project_id: str,
    rules: list[dict[str, Any]],
    *,
    allowing: str = "share:allow_access",
) -> None:
    """Put each rule's key in place of the sealed one; None for callers who could not have added the rule themselves
    (``allowing``: what of the policy lets them), administrators of other projects included."""
    shown = context.project_id == project_id and allows(context, allowing, project_id)
    for rule in rules:
        sealed = rule["access_key"]
        rule["access_key"] = None
        if shown and sealed is not None:
            try:
                box = open_access_keys(deployment.settings)
                rule["access_key"] = None if box is None else box.open(sealed)
            except ConfigurationError as error:
                log.error("an access key cannot be opened", access_rule=rule["id"], reason=error.message)
