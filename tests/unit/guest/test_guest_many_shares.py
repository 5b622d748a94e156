"""A server with many shares: what each of them adds to the cost of a document."""

from __future__ import annotations

import json

import msgspec
import pytest
from guest_machines import CountingHost, Machine, document, rule, share

from sharewright.guest.program.acting import apply
from sharewright.guest.program.desired import parse_document


def test_each_share_costs_as_much_as_the_one_before(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files read by an apply that changes nothing, with 5, 10 and 20 shares on the server."""
    for name, value in machine.environment.items():  # for the tools
        monkeypatch.setenv(name, value)
    host = CountingHost(str(machine.root))
    shares, counts = [], {}
    for number in range(1, 21):
        machine.add_disk(number)
        shares.append(share(number, rule("10.0.0.0/24")))
        if number in (5, 10, 20):
            plain = json.loads(msgspec.json.encode(document(number, *shares)))
            apply(host, parse_document(plain))
            host.reads = 0
            assert apply(host, parse_document(plain))["changed"] == []
            counts[number] = host.reads
    assert counts[20] - counts[10] == 2 * (counts[10] - counts[5]) > 0
