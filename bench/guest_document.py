"""What one document costs the guest program, by the number of its shares: no share is changed, all are looked at.

    .venv/bin/python bench/guest_document.py [--shares 100]

Runs the program's own functions on a scratch root that looks like a service VM (tests/unit/guest), in this process, so
the time is this processor's, not an emulated one's. Prints CPU time and the files that are read; the smallest of five.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "guest"))

import msgspec
from guest_machines import MIB, CountingHost, Machine, document, rule, serial, share

from sharewright.guest.program.acting import apply
from sharewright.guest.program.desired import parse_document

MEASURED = (1, 25, 50, 100, 200, 400)
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, default=100)
    arguments = parser.parse_args()
    print("| shares | CPU, ms | per share, ms | files read |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        machine = Machine(Path(directory))
        os.environ.update(machine.environment)
        host = CountingHost(directory)
        shares = []
        for number in range(1, arguments.shares + 1):
            with (machine.root / f"dev/sd{number}").open("wb") as disk:
                disk.truncate(64 * MIB)
            machine.show_disk(f"sd{number}", f"8:{number}", serial(number))
            shares.append(share(number, rule("10.0.0.0/24")))
            if number not in MEASURED:
                continue
            text = msgspec.json.encode(document(number, *shares))
            plain = json.loads(text)
            apply(host, parse_document(plain, host.memory))
            seconds = []
            for _ in range(RUNS):
                host.reads = 0
                plain = json.loads(text)  # as every call has it
                begun = time.process_time()
                state = apply(host, parse_document(plain, host.memory))
                seconds.append(time.process_time() - begun)
                assert state["changed"] == [], state["changed"]
            milliseconds = min(seconds) * 1000
            print(f"| {number} | {milliseconds:.1f} | {milliseconds / number:.2f} | {host.reads} |", flush=True)


if __name__ == "__main__":
    main()
