"""Make a share server let go of a share that is being deleted, or go on without it.

Deleting never depends on the guest. In order of preference: the guest unexports and unmounts; the VM is stopped or gone
and so holds nothing; the VM runs but does not answer within the guest's deadline, and then the volume is pulled through
the cloud: what it holds is being thrown away, and the guest's next document drops the dead mount.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from sharewright.clouds.contract import Cloud, Instance, Volume
from sharewright.errors import CloudError, CloudUnavailable, GuestError, NotFound
from sharewright.guest.document import State
from sharewright.progress import Progress
from sharewright.service_instance.contract import ServiceInstance

BUSY_TRIES = 3
BUSY_PAUSE = 2.0  # seconds between tries; the guest itself tries for some seconds each time

log = structlog.get_logger()


class ShareBusy(GuestError):
    """The guest cannot unmount the share."""


def remove_volume(
    cloud: Cloud, found: Volume | None, progress: Progress, *, attach_seconds: float, volume_seconds: float
) -> None:
    """Detach a volume from whatever holds it, then delete it. Missing: fine. Times are for each call."""
    volume = found
    for last in (False, True):  # a heal that had read the old rows may attach it once more in between
        if volume is None:
            return
        try:
            if volume.instance_id is not None:
                with progress.step("detach", brief=True):
                    timeout = within(attach_seconds, progress)
                    cloud.compute.detach_volume(volume.instance_id, volume.id, timeout=timeout)
            with progress.step("delete volume", brief=True):
                cloud.volumes.delete_volume(volume.id, timeout=within(volume_seconds, progress))
            return
        except CloudUnavailable:
            raise
        except CloudError:
            volume = cloud.volumes.find_volume(volume.id)
            if last or (volume is not None and volume.instance_id is None):
                raise


def within(seconds: float, progress: Progress) -> float:
    """A timeout that ends no later than the operation's deadline."""
    return max(0.1, min(seconds, progress.remaining))


def release_volume(
    server: ServiceInstance,
    share_instance_id: str,
    *,
    look: Callable[[], Instance | None],
    converge: Callable[[], State],
    force: bool,
    progress: Progress,
    keep: bool = False,
) -> None:
    """Return when the volume may be detached. Raises ShareBusy, unless ``force``. ``look``: the VM as the cloud sees
    it. ``keep``: what it holds is wanted, so a server that runs and does not answer is an error, too: it may have
    writes that are not on the volume yet."""
    instance = look()
    if instance is None or not instance.running:
        return
    reason = ""
    for attempt in range(BUSY_TRIES):
        if attempt:
            time.sleep(min(BUSY_PAUSE, max(0.0, progress.remaining)))
        try:
            state = converge()
        except (GuestError, NotFound) as error:
            if keep and not force:
                raise
            log.warning(
                "share server does not answer; detaching through the cloud",
                share_server=server.id, share_instance=share_instance_id, reason=error.message,
            )  # fmt: skip
            return
        reason = state.busy.get(share_instance_id, "")
        if not reason:
            return
        if force:
            log.warning("share is busy; detaching by force", share_instance=share_instance_id, reason=reason)
            return
    raise ShareBusy(
        f"The share server cannot unmount share instance {share_instance_id}: {reason}",
        hint="Unmount it on its clients and delete it again, or ask an administrator for a forced delete.",
    )
