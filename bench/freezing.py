"""What the guest program takes to freeze and thaw 1, 2, 8, 32 and 100 real file systems together (as root, no VM).

    sudo .venv/bin/python bench/freezing.py [--runs 5]

Loop devices with ext4 in a mount namespace of its own, and the program's own functions on this host's kernel and
processor; some files are written to every share before each freeze. "Stood still" is what the program answers: from the
start of the dead man to the end of the thaw, with nothing in between. A cloud's time for the snapshots comes on top.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from sharewright.guest.program import freezing
from sharewright.guest.program.host import Host

PLACES = ("/shares", "/run/sharewright")
COUNTS = (1, 2, 8, 32, 100)
INSIDE = "SHAREWRIGHT_BENCH_INSIDE"


def make_shares(directory: Path) -> list[str]:
    """Ids of shares that are mounted, each with a file system of its own."""
    shares = [str(uuid.uuid4()) for _ in range(max(COUNTS))]
    for share in shares:
        file, path = directory / share, Path(f"/shares/share-{share}")
        with file.open("wb") as image:
            image.truncate(64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", file], check=True)
        path.mkdir(parents=True)
        subprocess.run(["mount", "-o", "loop", file, path], check=True)
    return shares


def freeze_once(host: Host, shares: list[str]) -> tuple[float, float]:
    """Seconds of the call that freezes, which first writes out; seconds that the shares stood still."""
    for share in shares:
        for number in range(10):
            Path(f"/shares/share-{share}/file-{number}").write_bytes(os.urandom(20_000))
    token, begun = str(uuid.uuid4()), time.monotonic()
    freezing.freeze(host, shares, token, 60.0)
    called = time.monotonic() - begun
    answer = freezing.thaw(host, token)
    assert answer["held"] is True
    return called, float(str(answer["seconds"]))


def measure(runs: int) -> None:
    for directory in PLACES:
        Path(directory).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    with tempfile.TemporaryDirectory(prefix="sharewright-freezing-") as directory:
        shares, host = make_shares(Path(directory)), Host()
        figures: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
        for _ in range(runs):
            for count in COUNTS:
                figures[count].append(freeze_once(host, shares[:count]))
        for share in shares:
            subprocess.run(["umount", f"/shares/share-{share}"], check=True)
    print(f"load {os.getloadavg()[0]:.1f}")
    print("| shares | call that freezes, s | stood still, s | times one share |")
    print("|---|---|---|---|")
    ones = [still for _, still in figures[1]]
    for count in COUNTS:
        called = statistics.median(call for call, _ in figures[count])
        still = statistics.median(seconds for _, seconds in figures[count])
        ratio = statistics.median(seconds / one for (_, seconds), one in zip(figures[count], ones, strict=True))
        print(f"| {count} | {called:.3f} | {still:.3f} | {ratio:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if os.environ.get(INSIDE):
        measure(arguments.runs)
        return
    made = [Path(name) for name in PLACES if not Path(name).exists()]  # where the namespace mounts something
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    status = subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode
    for place in made:
        place.rmdir()
    sys.exit(status)


if __name__ == "__main__":
    main()
