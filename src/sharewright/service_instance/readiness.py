"""Waiting for a guest to answer, and saying why it does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from sharewright.clouds.contract import Compute
from sharewright.errors import CloudError, CloudObjectMissing, GuestUnreachable
from sharewright.guest.contract import GuestAddress, GuestChannels
from sharewright.logging import HIDDEN, without_secrets
from sharewright.progress import Progress

TRY_SECONDS = 20.0  # of one wait; between two the VM itself is looked at, and the operation's lease
PAUSE_SECONDS = 1.0  # between tries that fail at once, as a wrong host key does

CONSOLE_BYTES = 8192
CONSOLE_LINES = 12
CONSOLE_COLUMNS = 160

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_KEY_TAIL = re.compile(r"\A.*?-----END [^-]*-----", re.DOTALL)


def wait_ready(
    compute: Compute,
    channels: GuestChannels,
    address: GuestAddress,
    instance_id: str,
    *,
    seconds: float,
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Return the guest's boot id as soon as it answers, within ``seconds`` and the operation's deadline.

    CloudObjectMissing when the VM vanished meanwhile; GuestUnreachable, with the console's last lines, when it stopped
    or the time is over.
    """
    started = time.monotonic()
    end = started + min(seconds, progress.remaining)
    while True:
        progress.check()
        try_started = time.monotonic()
        try:
            return channels.wait_ready(address, timeout=max(0.1, min(TRY_SECONDS, end - try_started)))
        except GuestUnreachable as error:
            reason = error.message
        _check_instance(compute, instance_id)
        now = time.monotonic()
        if now >= end:
            raise GuestUnreachable(
                f"The service VM at {address.host} did not answer within {now - started:.0f} s: {reason}"
                f"{console_report(compute, instance_id)}",
                hint="See its console. boot_seconds is its time limit; `sharewright image check` tests the image.",
            )
        if now - try_started < PAUSE_SECONDS:
            pause(min(PAUSE_SECONDS, end - now))


def _check_instance(compute: Compute, instance_id: str) -> None:
    instance = compute.find_instance(instance_id)
    if instance is None:
        raise CloudObjectMissing(
            f"The service VM {instance_id} disappeared while it was booting.", hint="Somebody else deleted it."
        )
    if not instance.running:
        why = f": {instance.failure}" if instance.failure else ""
        raise GuestUnreachable(
            f"The service VM {instance_id} stopped while it was booting{why}.{console_report(compute, instance_id)}",
            hint="See its console, and whether its host has memory enough.",
        )


def console_report(compute: Compute, instance_id: str) -> str:
    """The console's last lines as a sentence to append to an error, or nothing when there are none."""
    try:
        lines = console_lines(compute.console_log(instance_id, length=CONSOLE_BYTES))
    except CloudError:
        return ""  # the error that the console was to explain matters more
    return " Its console's last lines: " + " | ".join(lines) if lines else ""


def console_lines(text: str) -> list[str]:
    """The last lines of a serial console, fit for logs and messages: no control characters, no key material, bounded.

    A boot loader moves the cursor instead of ending lines; a carriage return counts as an end.
    """
    text = without_secrets(text)
    if "-----END " in text:  # the log began in the middle of a key
        text = _KEY_TAIL.sub(HIDDEN, text)
    text = _ESCAPES.sub("", text)
    lines = []
    for line in re.split(r"[\r\n]+", text):
        clean = "".join(character if character.isprintable() else " " for character in line).strip()
        if clean:
            lines.append(clean[:CONSOLE_COLUMNS])
    return lines[-CONSOLE_LINES:]
