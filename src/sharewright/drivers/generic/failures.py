"""What the guest says about one share, as an error with a reason and a remedy."""

from __future__ import annotations

from sharewright.errors import CloudUnavailable, DeviceNotBlank, GuestError, SharewrightError
from sharewright.guest.document import ShareState

_HINTS = {
    "mkfs_failed": "Look at the guest's message; the volume may be damaged or too small.",
    "clone_failed": "The copy could not be given an identity of its own; its parent is untouched.",
    "replace_failed": "Have it unmounted on its clients, and try again.",
    "mount_failed": "The file system may be damaged; nothing on the volume was changed.",
    "filesystem_mismatch": "The volume carries another file system than the one recorded; it was left untouched.",
    "grow_failed": "It goes on being served at its old size, and nothing in it was changed. Extend it again.",
    "export_failed": "Look at the guest's message; the service image may lack a working NFS server, or Samba.",
}


def share_failure(state: ShareState) -> SharewrightError | None:
    """The typed error for ``ShareState.error``, or None. CloudUnavailable is the one worth repeating."""
    if not state.error:
        return None
    detail = f": {state.message}" if state.message else "."
    if state.error == "not_blank":
        return DeviceNotBlank(
            f"The new volume of share instance {state.id} is not blank{detail}",
            hint="It was left untouched. Check where the volume comes from, then delete the share and create it again.",
        )
    if state.error == "device_missing":
        return CloudUnavailable(
            f"The share server does not see the attached volume of share instance {state.id}{detail}",
            hint="The attachment is made again and the share retried.",
        )
    if state.error == "disk_small":
        return CloudUnavailable(
            f"The share server does not see yet that the volume of share instance {state.id} has grown{detail}",
            hint="It is looked at again.",
        )
    return GuestError(
        f"The share server could not serve share instance {state.id} ({state.error}){detail}",
        hint=_HINTS.get(state.error, "See the share server's log."),
    )
