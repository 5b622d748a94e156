"""The deployment tag: what carries another's is not ours to touch."""

from __future__ import annotations

from sharewright.clouds.contract import TAG_DEPLOYMENT, Tags
from sharewright.errors import CloudError


def tags_to_store(tags: Tags, deployment: str, name: str) -> dict[str, str]:
    """The spec's tags with our deployment's; CloudError when they name another deployment."""
    if tags.get(TAG_DEPLOYMENT, deployment) != deployment:
        raise CloudError(
            f"{name} is tagged for deployment {tags[TAG_DEPLOYMENT]}, but this cloud serves {deployment}.",
            hint="Give each deployment its own cloud object.",
        )
    return {**tags, TAG_DEPLOYMENT: deployment}
