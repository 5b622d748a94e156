"""Our tags on OpenStack's objects.

* Volumes and servers carry all of them as metadata. Cinder filters lists by metadata itself; Nova does not, so servers
  have, besides, one Nova tag that names the deployment.
* Neutron's tags are short strings: its objects carry the same one tag for filtering, and all of ours as JSON in the
  description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sharewright.clouds.contract import TAG_DEPLOYMENT, Tags
from sharewright.errors import CloudError
from sharewright.identifiers import short_hash

TAG_CONDEMNED = f"{TAG_DEPLOYMENT}_condemned"  # value: the deployment that has deleted it, and Cinder could not yet
LONGEST_TAG = 60  # of Nova, and of Neutron before 2023
LONGEST_DESCRIPTION = 255


def deployment_tag(deployment: str) -> str:
    """The one tag by which Nova and Neutron list what is ours."""
    tag = f"{TAG_DEPLOYMENT}={deployment}"
    return tag if len(tag) <= LONGEST_TAG else f"{TAG_DEPLOYMENT}={short_hash(deployment, length=40)}"


def is_ours(tags: Mapping[str, Any], deployment: str) -> bool:
    return tags.get(TAG_DEPLOYMENT) == deployment


def without_ours(tags: Tags) -> dict[str, str]:
    """What is left of an object's metadata when it is ours no more."""
    return {key: value for key, value in tags.items() if not key.startswith(TAG_DEPLOYMENT)}


def to_description(tags: Tags, name: str) -> str:
    """All tags in a Neutron object's description. CloudError when they do not fit."""
    text = json.dumps(dict(tags), separators=(",", ":"), sort_keys=True)
    if len(text) > LONGEST_DESCRIPTION:
        raise CloudError(
            f"The tags of {name} have {len(text)} characters; Neutron keeps {LONGEST_DESCRIPTION}.",
            hint="Shorten the names of the deployment and of the backend.",
        )
    return text


def from_description(text: str | None) -> dict[str, str]:
    """The tags in a description; {} when it is none of ours."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        return {}
    return value
