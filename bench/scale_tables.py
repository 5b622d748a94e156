"""The scale study's figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def show(figures: Figures, workers: Sequence[int], guest_seconds: float) -> None:
    print(
        f"{figures['servers']} servers, {figures['shares']} shares, {figures['processors']} processors, load average"
        f" {figures['load average']} at the start.\n"
    )
    if "1 workers, 0 s" in figures:
        for seconds in (0.0, guest_seconds):
            show_workers(figures, workers, seconds)
        print("| operation | SQL statements | cloud calls | guest round trips | sequential scans of large tables |")
        print("|---|---|---|---|---|")
        for kind in ("rule change", "share create", "look at a server"):
            run = figures["1 workers, 0 s"][kind]
            columns = ("SQL statements per operation", "cloud calls per operation", "guest round trips per operation")
            print(
                f"| {kind} | {' | '.join(str(run[name]) for name in columns)} | {run['sequential scans'] or 'none'} |"
            )
    if "maintenance" in figures:
        print("\n| maintenance | seconds | SQL statements | enqueued | sequential scans of large tables |")
        print("|---|---|---|---|---|")
        for name, cost in figures["maintenance"].items():
            print(
                f"| {name} | {cost['seconds']} | {cost['SQL statements']} | {cost['enqueued'] or ''} |"
                f" {cost['sequential scans'] or 'none'} |"
            )
    if "api" in figures:
        print("\n| API request | p50 ms | p99 ms | sequential scans of large tables |\n|---|---|---|---|")
        for name, cost in figures["api"].items():
            print(f"| {name} | {cost['p50']} | {cost['p99']} | {cost['sequential scans'] or 'none'} |")
    print(f"\nThe simulated cloud's file, calls per second: {figures['simulated cloud, calls per second']}")


def show_workers(figures: Figures, workers: Sequence[int], seconds: float) -> None:
    print(f"Guests answer in {seconds:g} s:\n")
    print("| | 1 worker | 2 workers | 4 workers | 2 ÷ 1 | 4 ÷ 1 |\n|---|---|---|---|---|---|")
    runs = [figures[f"{number} workers, {seconds:g} s"] for number in workers]
    for kind in ("rule change", "share create", "look at a server"):
        rates = [run[kind]["operations per second"] for run in runs]
        ratios = [f"{rate / rates[0]:.2f}" for rate in rates[1:]]
        print(f"| {kind}, per second | {' | '.join(map(str, [*rates, *ratios]))} |")
    for name, label in (("claim", "queued → running"), ("done", "request → done")):
        shown = [f"{run['latency'][name]['p50']} / {run['latency'][name]['p99']}" for run in runs]
        print(f"| {label}, p50 / p99 ms, {runs[0]['latency']['rate']:g} rules/s | {' | '.join(shown)} | | |")
    print()
