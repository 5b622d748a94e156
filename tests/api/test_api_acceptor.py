"""Sharing out connections among those who listen on one socket."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial

from sharewright.api.acceptor import PATIENCE, Acceptor, Tally


class Keeper(asyncio.Protocol):
    """Keeps its connections in a list."""

    def __init__(self, connections: list[asyncio.BaseTransport]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.append(transport)


class Party:
    """Some who listen on one socket, in one loop."""

    def __init__(self, number: int, *, seats: int = 0) -> None:
        self.tally = Tally(seats or number)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.has: list[list[asyncio.BaseTransport]] = [[] for _ in range(number)]
        self.clients: list[socket.socket] = []
        self._descriptors = [self.listening.dup() for _ in range(number)]  # of each process its own
        self._acceptors: list[Acceptor] = []

    async def __aenter__(self) -> Party:
        for number, mine in enumerate(self.has):
            make, count = partial(Keeper, mine), mine.__len__
            self._acceptors.append(Acceptor(self._descriptors[number], self.tally.seat(number), make, count))
        return self

    async def __aexit__(self, *_: object) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        for each in (self.listening, *self._descriptors, *self.clients):
            each.close()
        for mine in self.has:
            for transport in mine:
                transport.close()

    async def connect(self, number: int) -> None:
        """That many connections more, one after the other, each taken in by somebody."""
        for _ in range(number):
            before = sum(map(len, self.has))
            self.clients.append(socket.create_connection(self.listening.getsockname()))
            async with asyncio.timeout(30):
                while sum(map(len, self.has)) == before:
                    await asyncio.sleep(0)


def test_everybody_has_about_the_same_number() -> None:
    async def scenario() -> None:
        async with Party(3) as party:
            await party.connect(9)
            assert {len(each) for each in party.has} <= {2, 3, 4}  # whose patience ends just then takes one more

    asyncio.run(scenario())


def test_whoever_has_lost_connections_comes_first() -> None:
    async def scenario() -> None:
        async with Party(2) as party:
            await party.connect(6)
            for transport in party.has[0]:
                transport.close()
            party.has[0].clear()
            await party.connect(3)
            assert len(party.has[0]) >= 2

    asyncio.run(scenario())


def test_nobody_waits_for_one_that_does_not_come() -> None:
    """Its process stands still: it has the fewest connections, and takes in none."""

    async def scenario() -> None:
        async with Party(1, seats=2) as party:
            party.tally.seat(1).tell(0)
            await party.connect(3)
            assert len(party.has[0]) == 3
            assert not party.tally.seat(0).is_first()

    asyncio.run(scenario())


class Full(socket.socket):
    """Of a process that has no file descriptor left."""

    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_connection_that_cannot_be_taken_in_does_not_keep_the_process_busy() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, Full(fileno=listening.dup().detach()) as full:
            acceptor = Acceptor(full, Tally(1).seat(0), asyncio.Protocol, lambda: 0)
            with socket.create_connection(listening.getsockname()):
                await asyncio.sleep(10 * PATIENCE)
                acceptor.close()
            assert 0 < full.tries <= 2 * 10 + 2, "one try, and one more at the end of each wait"

    asyncio.run(scenario())


def test_one_that_has_left_has_no_seat() -> None:
    async def scenario() -> None:
        async with Party(1, seats=3) as party:
            party.tally.seat(1).tell(0)
            party.tally.seat(1).leave()
            await party.connect(4)
            assert party.tally.seat(0).is_first()

    asyncio.run(scenario())
