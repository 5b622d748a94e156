"""Rules that change under clients: who is denied loses the share at once, and nobody else notices anything."""

from __future__ import annotations

import errno
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from client_vm import ClientVm
from deployment import Deployment, wait_for
from sharewright.store.tables import operation_steps, operations
from steady_writer import POLL, writing
from tenants import Shares

# Holds a file open and locked and appends to it until a call fails; says how that went, and keeps the file open.
HOLDER = """
import fcntl, json, os, sys, time

path, result = sys.argv[1:]
held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
fcntl.lockf(held, fcntl.LOCK_EX)
lines = 0
while True:
    begun = time.monotonic()
    try:
        os.write(held, b"line\\n")
        os.fsync(held)
    except OSError as error:
        said = {"errno": error.errno, "seconds": time.monotonic() - begun, "lines": lines}
        break
    lines += 1
    if lines == 5:
        open(result + ".begun", "w").close()
    time.sleep(0.1)
with open(result + ".new", "w") as file:
    json.dump(said, file)
os.rename(result + ".new", result)
time.sleep(3600)
"""
DENIED = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.EIO)


@contextmanager
def holding(client: ClientVm, path: str) -> Iterator[str]:
    """A process on the client that holds ``path`` open and locked as long as the block runs; where it will say what
    failed."""
    result = "/run/held"
    client.run(f"rm -f {result}*; printf %s {shlex.quote(HOLDER)} > /run/hold.py")
    command = f"python3 /run/hold.py {shlex.quote(path)} {result}"
    client.run(f"nohup setsid {command} </dev/null >/run/hold.log 2>&1 & echo $! > /run/hold.pid")
    client.run(f"{POLL} test -e {result}.begun && exit 0; sleep 0.1; done; cat /run/hold.log; exit 1")
    try:
        yield result
    finally:
        client.run("kill -9 $(cat /run/hold.pid)")


def failure(client: ClientVm, result: str) -> dict[str, Any]:
    """How the holder's call failed, as soon as it has."""
    said = client.run(f"{POLL} test -e {result} && exec cat {result}; sleep 0.1; done; cat /run/hold.log; exit 1")
    found: dict[str, Any] = json.loads(said)
    return found


class Access:
    """Fixtures: ``red``, ``deployment``."""

    @pytest.fixture(scope="class")
    def other(self, red: Shares) -> Iterator[ClientVm]:
        """A second client on the red tenant's network."""
        assert red.client.beside is not None
        client = red.client.beside("swtest-client-other")
        try:
            yield client.wait()
        finally:
            client.delete()

    def test_a_denied_client_loses_the_share_at_once(
        self, red: Shares, other: ClientVm, deployment: Deployment
    ) -> None:
        """With a file open and locked. The other client, and then the share's removal, are not hindered."""
        share = red.create("denied")
        red.wait(share)
        rules = {client.address: red.allow(share, client.address) for client in (red.client, other)}
        for client in (red.client, other):
            client.mount(red.export(share), "/mnt/denied")
        with writing(other, "/mnt/denied") as outcome, holding(red.client, "/mnt/denied/held") as result:
            red.deny(rules[red.client.address], share)
            said = failure(red.client, result)
            print(f"the denied client's call failed within {said['seconds']:.2f} s: {errno.errorcode[said['errno']]}")
            assert said["errno"] in DENIED
            # What it held is nobody's now. Without a revocation this waits for the lease of 90 s.
            other.run("flock -x /mnt/denied/held -c 'echo mine >> /mnt/denied/held'", timeout=60)
        (written,) = outcome
        print(f"the other client: {written.lines} writes, longest gap {written.gap:.2f} s")
        assert (written.errors, written.same) == ([], True)
        other.unmount("/mnt/denied")
        red.client.run("umount -l /mnt/denied")
        red.delete(share)

    def test_who_is_denied_one_share_keeps_the_other(self, red: Shares, deployment: Deployment) -> None:
        """Writing there with a lock. The denied share goes although its file is still open."""
        kept, gone = red.create("kept"), red.create("gone")
        for share in (kept, gone):
            red.wait(share)
        rules = {share: red.allow(share, red.client.address) for share in (kept, gone)}
        for share in (kept, gone):
            red.client.mount(red.export(share), f"/mnt/{share}")
        with writing(red.client, f"/mnt/{kept}") as outcome:
            with holding(red.client, f"/mnt/{gone}/held") as result:
                red.deny(rules[gone], gone)
                said = failure(red.client, result)
                print(f"the call failed within {said['seconds']:.2f} s: {errno.errorcode[said['errno']]}")
                assert said["errno"] in DENIED
                red.api.delete_share(gone)
                red.wait_gone(gone)
            print(f"the share was released in {self.seconds(deployment, gone, 'release'):.2f} s")
        (written,) = outcome
        print(f"on the other share: {written.lines} writes, longest gap {written.gap:.2f} s")
        assert (written.errors, written.same) == ([], True)
        red.client.run(f"umount -l /mnt/{gone}")
        red.client.unmount(f"/mnt/{kept}")
        red.delete(kept)

    def test_a_level_changes_in_place(self, red: Shares) -> None:
        """The rule is denied and added again in one go: the client never loses the share."""
        share = red.create("level")
        red.wait(share)
        client = red.client
        rule = red.allow(share, client.address)
        client.mount(red.export(share), "/mnt/level")
        client.run("echo before > /mnt/level/file && sync")
        reading = "while test ! -e /run/enough; do cat /mnt/level/file || echo failed; sleep 0.1; done"
        client.run(f"rm -f /run/enough; nohup setsid sh -c '{reading}' </dev/null >/run/reading 2>&1 &")
        red.api.delete_access_rule(rule, share)
        red.allow(share, client.address, "ro")
        wait_for(
            "read-only",
            lambda: "Read-only" in client.run("echo after 2>&1 >> /mnt/level/file", check=False),
            seconds=30,
        )
        seen = client.run("touch /run/enough; sleep 0.5; sort -u /run/reading").split()
        assert seen == ["before"]
        client.unmount("/mnt/level")
        red.delete(share)

    @staticmethod
    def seconds(deployment: Deployment, share: str, step: str) -> float:
        """What a step of the share's removal took."""
        query = (
            select(operation_steps.c.seconds)
            .join(operations)
            .where(operations.c.resource_id == share, operation_steps.c.name == step)
        )
        with deployment.store() as store, store.read() as tx:
            return float(tx.execute(query).scalars().first() or 0.0)
