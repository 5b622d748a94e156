"""The deployment tag: what carries another's is not ours to touch."""

from __future__ import annotations

from collections.abc import Mapping

from sharewright.clouds.contract import TAG_DEPLOYMENT, TAG_OWNER, Tags
from sharewright.errors import CloudError


def tags_to_store(tags: Tags, deployment: str, name: str) -> dict[str, str]:
    """The spec's tags with our deployment's; CloudError when they name another deployment."""
    if tags.get(TAG_DEPLOYMENT, deployment) != deployment:
        raise CloudError(
            f"{name} is tagged for deployment {tags[TAG_DEPLOYMENT]}, but this cloud serves {deployment}.",
            hint="Give each deployment its own cloud object.",
        )
    return {**tags, TAG_DEPLOYMENT: deployment}


def refuse_share_server(tags: Mapping[str, object], name: str) -> None:
    """CloudError when a machine that an operator has named is a share server, ours or another deployment's."""
    if str(tags.get(TAG_OWNER, "")).startswith("share_server:"):
        raise CloudError(
            f"{name} is a share server that deployment {tags.get(TAG_DEPLOYMENT)} of Sharewright made and may delete.",
            hint="Name a machine of your own.",
        )


def several_named(name: str, identifiers: list[str]) -> CloudError:
    """What find_named_instance says of a name that is not one machine's only."""
    return CloudError(
        f"There are {len(identifiers)} machines named {name}: {', '.join(identifiers)}.", hint="Name one by its id."
    )
