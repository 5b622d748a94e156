"""What is measured of a Manila API under load, whoever serves it: reads in a closed loop, bursts of shares, rules and
deletions. For api.py and upstream.py, so that both put the same load on what they measure."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from api_load import Client
from processor_time import processor_seconds, yardstick

LISTED: Final = 1000
AT_ONCE: Final = 50
READS: Final = {
    "list of 1,000, detail": "/v2/shares/detail",
    "page of 50, detail": "/v2/shares/detail?limit=50",
    "one share": "/v2/shares/{share}",
}

Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Service:
    """What is measured. ``placement``: what a request for a share says beside protocol, size and name;
    ``between_looks``: seconds between two questions whether a burst has ended; ``patience``: seconds for all of it."""

    client: Client
    placement: Mapping[str, str]
    between_looks: float = 0.02
    patience: float = 120.0

    def share(self, name: str) -> dict[str, Any]:
        """The body of a request for a share."""
        return {"share": {"share_proto": "NFS", "size": 1, **self.placement, "name": name}}

    def wait(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + self.patience
        while not reached():
            assert time.monotonic() < end, "The burst did not come to an end."
            time.sleep(self.between_looks)


def make_share(service: Service, name: str) -> dict[str, Any]:
    """One share, with its server when it is the network's first."""
    share = service.client.request("POST", "/v2/shares", service.share(name))["share"]

    def available() -> bool:
        share.update(service.client.request("GET", f"/v2/shares/{share['id']}")["share"])
        assert share["status"] != "error", service.client.request("GET", "/v2/messages")
        return bool(share["status"] == "available")

    service.wait(available)
    return share  # type: ignore[no-any-return]


def run_phases(service: Service, share: str, label: str, arguments: argparse.Namespace) -> Figures:
    """``arguments.runs`` times all that ``arguments.only`` does not leave out; of each phase the run with the median
    speed. ``share``: the id of the one that is read."""
    if arguments.warm_up:
        bursts(service, "warm-up")
    found: dict[str, list[dict[str, Any]]] = {}
    for run in range(arguments.runs):
        work = yardstick()
        for name, path in READS.items():
            if arguments.only and arguments.only not in name:
                continue
            figures = [
                per_second(service.client, path.format(share=share), arguments.seconds, concurrency)
                for concurrency in arguments.concurrency
            ]
            best = max(figures, key=lambda each: float(each["per second"]))
            found.setdefault(name, []).append({**best, "load": os.getloadavg()[0]})
        if not arguments.only or "burst" in arguments.only:
            for name, figure in bursts(service, f"burst{run}").items():
                found.setdefault(name, []).append({**figure, "load": os.getloadavg()[0]})
        print(
            f"{label}: run {run + 1} of {arguments.runs}, load {os.getloadavg()[0]:.1f},"
            f" fixed work took {work:.0f} and {yardstick():.0f} ms",
            file=sys.stderr,
        )
    return {name: _middle(runs) for name, runs in found.items()}


def _middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median speed."""
    return sorted(runs, key=lambda each: float(each["per second"]))[len(runs) // 2]


def per_second(client: Client, path: str, seconds: float, concurrency: int) -> dict[str, Any]:
    client.hang_up()  # those of a burst are not shared out any more when only some of them are used
    begun, used = time.perf_counter(), processor_seconds()
    answers = client.loop("GET", path, concurrency=concurrency, seconds=seconds)
    taken, used = time.perf_counter() - begun, processor_seconds() - used
    times = sorted(answer.seconds for answer in answers)
    return {
        "per second": len(answers) / taken,
        "p50 ms": 1000 * statistics.median(times),
        "p99 ms": 1000 * times[int(0.99 * (len(times) - 1))],
        "processor ms": 1000 * used / len(answers),
    }


def burst(service: Service, requests: Sequence[tuple[str, str, Any]], reached: Callable[[], bool]) -> dict[str, Any]:
    begun, used = time.perf_counter(), processor_seconds()
    service.client.together(requests)
    accepted = time.perf_counter() - begun
    service.wait(reached)
    seconds, used = time.perf_counter() - begun, processor_seconds() - used
    return {
        "per second": len(requests) / seconds,
        "accepted s": accepted,
        "seconds": seconds,
        "processor ms": 1000 * used / len(requests),
    }


def bursts(service: Service, name: str) -> Figures:
    """Fifty shares at once, a rule for each, all deleted."""
    client = service.client
    named = f"name~={name}-&limit=100"
    creates = [("POST", "/v2/shares", service.share(f"{name}-{n}")) for n in range(AT_ONCE)]

    def none(status: str) -> bool:
        """An index finds them, so that asking does not keep the service from its work; names it would look through."""
        return not client.request("GET", f"/v2/shares?status={status}&limit=100")["shares"]

    def settled() -> bool:
        shares = client.request("GET", f"/v2/shares/detail?{named}")["shares"]
        return all(share["access_rules_status"] == "active" for share in shares)

    created = burst(service, creates, lambda: none("creating"))
    ids = [share["id"] for share in client.request("GET", f"/v2/shares?{named}&status=available")["shares"]]
    assert len(ids) == AT_ONCE, ids
    rule = {"access_type": "ip", "access_to": "10.88.0.1", "access_level": "rw"}
    allowed = burst(service, [("POST", f"/v2/shares/{each}/action", {"allow_access": rule}) for each in ids], settled)
    for each in ids:
        rules = client.request("GET", f"/v2/share-access-rules?share_id={each}")["access_list"]
        assert [rule["state"] for rule in rules] == ["active"], rules
    deleted = burst(service, [("DELETE", f"/v2/shares/{each}", None) for each in ids], lambda: none("deleting"))
    left = client.request("GET", f"/v2/shares?{named}")["shares"]
    assert not left, left
    return {"create → available": created, "rule → active": allowed, "delete → gone": deleted}
