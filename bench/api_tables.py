"""The figures of api.py as Markdown, beside upstream's."""

from __future__ import annotations

from typing import Any, Final

# Requests or objects per second: Manila's current code, uWSGI with four processes, MariaDB, RabbitMQ, a driver that
# does nothing at once, on the same kind of machine (two shared cores).
UPSTREAM: Final = {
    "list of 1,000, detail": 1.9,
    "page of 50, detail": 42.0,
    "one share": 160.0,
    "create → available": 6.1,
    "rule → active": 3.9,
    "delete → gone": 4.6,
}


def show(figures: dict[str, dict[str, dict[str, Any]]]) -> None:
    for database, found in figures.items():
        if any("ratio" in each for each in found.values()):
            print(f"\n{database}\n\n| page | few, ms | many, ms | ratio |\n|---|---|---|---|")
            for name, each in found.items():
                print(f"| {name} | {each['few ms']:.1f} | {each['many ms']:.1f} | {each['ratio']:.2f} |")
            continue
        titles = ("", "per second", "× upstream", "p50 / p99 ms, or accepted / all s", "processor, ms each", "load")
        print(f"\n{database}\n\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
        for name, each in found.items():
            if "p50 ms" in each:
                times = f"{each['p50 ms']:.1f} / {each['p99 ms']:.1f}"
            else:
                times = f"{each['accepted s']:.2f} / {each['seconds']:.2f}"
            speed = each["per second"]
            ratio, processor = f"{speed / UPSTREAM[name]:.1f}", f"{each['processor ms']:.2f}"
            print(f"| {name} | {speed:.1f} | {ratio} | {times} | {processor} | {each['load']:.1f} |")
