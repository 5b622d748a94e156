"""Bursts of shares, rules and deletions with this checkout's code and with another's, in turn on one machine.

    .venv/bin/python bench/bursts_beside.py --before ../before [--database sqlite postgresql] [--rounds 14]

Both deployments run all the time (``serve`` with two API processes, as in api.py), and the bursts go to one and the
other; so what the machine does meanwhile meets both. A ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from api_phases import LISTED, Figures, Service, bursts, make_share

import api

ROOT: Final = Path(__file__).parents[1]


def start(stack: ExitStack, database: str, source: Path) -> Service:
    """A deployment with a thousand shares, and statements that have been used."""
    deployment = stack.enter_context(api.running(database, api.parsed(["--processes", "2", "--source", str(source)])))
    service = api.service_with_network(deployment.client)
    share = make_share(service, "first")
    api.fill(deployment.url, share["id"], LISTED - 1)
    for number in range(2):
        bursts(service, f"warm-up{number}")
    return service


def compare(database: str, before: Path, rounds: int) -> None:
    with ExitStack() as stack:
        services = [start(stack, database, source) for source in (before, ROOT)]
        found: list[tuple[Figures, Figures]] = []
        for number in range(rounds):
            pair = [bursts(service, f"burst{number}") for service in services[:: 1 if number % 2 else -1]]
            first, second = pair[:: 1 if number % 2 else -1]
            found.append((first, second))
    print(f"\n| {database}, 50 at once | a second, before | now | ratio | processor ms each, before | now |")
    print("|---|---|---|---|---|---|")
    for phase in found[0][0]:
        speeds = [[pair[side][phase]["per second"] for pair in found] for side in (0, 1)]
        costs = [statistics.median(pair[side][phase]["processor ms"] for pair in found) for side in (0, 1)]
        ratio = statistics.median(now / then for then, now in zip(*speeds, strict=True))
        then, now = map(statistics.median, speeds)
        print(f"| {phase} | {then:.0f} | {now:.0f} | {ratio:.2f} | {costs[0]:.1f} | {costs[1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--database", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--rounds", type=int, default=14)
    arguments = parser.parse_args()
    for database in arguments.database:
        compare(database, arguments.before.absolute(), arguments.rounds)


if __name__ == "__main__":
    main()
