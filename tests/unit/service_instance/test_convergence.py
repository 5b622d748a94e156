"""Group commit: few rounds for many callers, and never a round that began before the call."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_instance_world import World

from sharewright.errors import DeadlineExceeded, GuestError, GuestUnreachable, StaleDocument
from sharewright.guest.document import Document, Share, ShareState, State
from sharewright.identifiers import new_id
from sharewright.progress import NoProgress
from sharewright.service_instance.convergence import STALE_TRIES, Convergence


class Guest:
    """Applies documents slowly and remembers them. ``wishes`` is the store: what documents are built from."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.wishes: set[str] = set()
        self.rounds: list[frozenset[str]] = []
        self.failures: list[BaseException] = []
        self.entered = threading.Event()
        self.proceed = threading.Event()
        self.proceed.set()
        self.generation = itertools.count(1)
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def build(self) -> Document:
        with self._lock:
            shares = tuple(
                Share(id=wish, serial=wish, filesystem=None, protocol="NFS")  # type: ignore[arg-type]
                for wish in sorted(self.wishes)
            )
        return Document(server_id="s", generation=next(self.generation), shares=shares)

    def apply(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        assert self.proceed.wait(10)
        time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
            self.rounds.append(frozenset(share.id for share in document.shares))
            if self.failures:
                raise self.failures.pop(0)
        states = tuple(ShareState(id=share.id, mounted=True, exported=True) for share in document.shares)
        return State(generation=document.generation, shares=states)

    def wish(self, convergence: Convergence, name: str, server: str = "s") -> State:
        """Store a wish, then converge: the answer must show it."""
        with self._lock:
            self.wishes.add(name)
        return convergence.converge(server, self.build, 5.0)


def served(state: State) -> set[str]:
    return {share.id for share in state.shares}


def test_twenty_at_once_take_two_or_three_rounds() -> None:
    guest = Guest(0.3)
    convergence = Convergence(guest.apply)
    barrier = threading.Barrier(20)

    def call(number: int) -> bool:
        barrier.wait()
        return str(number) in served(guest.wish(convergence, str(number)))

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(call, range(20)))
    assert len(guest.rounds) <= 3
    assert guest.most_at_once == 1


def start(work: Callable[[], State], into: dict[str, State | BaseException], name: str) -> threading.Thread:
    def run() -> None:
        try:
            into[name] = work()
        except BaseException as error:
            into[name] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def wait_for_callers(convergence: Convergence, count: int) -> None:
    for _ in range(500):
        server = convergence._servers.get("s")
        if server is not None and server.callers == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {count} callers")


def test_a_round_that_began_before_my_call_never_satisfies_me() -> None:
    guest = Guest()
    convergence = Convergence(guest.apply)
    guest.proceed.clear()
    results: dict[str, State | BaseException] = {}
    threads = [start(lambda: guest.wish(convergence, "a"), results, "a")]
    assert guest.entered.wait(5)
    threads += [start(lambda name=name: guest.wish(convergence, name), results, name) for name in "bcd"]  # type: ignore[misc]
    wait_for_callers(convergence, 4)
    guest.proceed.set()
    for thread in threads:
        thread.join(5)
    assert guest.rounds == [frozenset("a"), frozenset("abcd")]
    assert served(results["a"]) == {"a"}  # type: ignore[arg-type]
    assert results["b"] is results["c"] is results["d"], "one answer for the round"
    assert not convergence._servers, "nothing is kept about an idle server"


def test_a_call_while_the_document_is_being_built_waits_for_the_next_round() -> None:
    guest, building, go_on = Guest(), threading.Event(), threading.Event()
    convergence = Convergence(guest.apply)

    def slow_build() -> Document:
        document = guest.build()
        building.set()
        assert go_on.wait(5)
        return document

    results: dict[str, State | BaseException] = {}
    first = start(lambda: convergence.converge("s", slow_build, 5.0), results, "first")
    assert building.wait(5)
    second = start(lambda: guest.wish(convergence, "late"), results, "second")
    wait_for_callers(convergence, 2)
    go_on.set()
    first.join(5)
    second.join(5)
    assert guest.rounds == [frozenset(), frozenset({"late"})]


def test_the_guests_error_reaches_everybody_in_the_round_and_nobody_else() -> None:
    guest = Guest()
    convergence = Convergence(guest.apply)
    guest.proceed.clear()
    results: dict[str, State | BaseException] = {}
    threads = [start(lambda: guest.wish(convergence, "a"), results, "a")]
    assert guest.entered.wait(5)
    threads += [start(lambda name=name: guest.wish(convergence, name), results, name) for name in "bc"]  # type: ignore[misc]
    wait_for_callers(convergence, 3)
    guest.failures = [GuestUnreachable("first round"), GuestError("second round")]
    guest.proceed.set()
    for thread in threads:
        thread.join(5)
    assert isinstance(results["a"], GuestUnreachable)
    for name in "bc":
        error = results[name]
        assert type(error) is GuestError
        assert error.message == "second round"
    assert served(guest.wish(convergence, "d")) == set("abcd"), "the next round is not affected"


def test_a_document_that_cannot_be_built_fails_its_builder_only() -> None:
    guest = Guest()
    convergence = Convergence(guest.apply)
    guest.proceed.clear()
    results: dict[str, State | BaseException] = {}
    threads = [start(lambda: guest.wish(convergence, "a"), results, "a")]
    assert guest.entered.wait(5)
    broken = iter([True])

    def build() -> Document:
        if next(broken, False):  # whoever builds first
            raise LookupError("my row is gone")
        return guest.build()

    threads += [
        start(lambda: convergence.converge("s", build, 5.0), results, name) for name in ("b", "c", "d")
    ]  # fmt: skip
    wait_for_callers(convergence, 4)
    guest.proceed.set()
    for thread in threads:
        thread.join(5)
    assert sum(isinstance(result, LookupError) for result in results.values()) == 1
    assert sum(isinstance(result, State) for result in results.values()) == 3
    assert len(guest.rounds) == 2


def test_a_stale_document_is_built_again() -> None:
    guest = Guest()
    guest.failures = [StaleDocument("newer"), StaleDocument("newer")]
    convergence = Convergence(guest.apply)
    assert guest.wish(convergence, "a").generation == 3
    guest.failures = [StaleDocument("newer") for _ in range(STALE_TRIES)]
    with pytest.raises(StaleDocument):
        guest.wish(convergence, "b")
    assert guest.wish(convergence, "c").generation == 3 + STALE_TRIES + 1


def test_servers_do_not_wait_for_each_other() -> None:
    slow, quick = Guest(), Guest()
    guests = {"slow": slow, "quick": quick}
    convergence = Convergence(
        lambda server_id, document, *, timeout=None: guests[server_id].apply(server_id, document, timeout=timeout)
    )
    slow.proceed.clear()
    results: dict[str, State | BaseException] = {}
    thread = start(lambda: slow.wish(convergence, "a", "slow"), results, "a")
    assert slow.entered.wait(5)
    assert served(quick.wish(convergence, "b", "quick")) == {"b"}
    slow.proceed.set()
    thread.join(5)
    assert isinstance(results["a"], State)


def test_nobody_waits_for_ever() -> None:
    guest = Guest()
    convergence = Convergence(guest.apply)
    guest.proceed.clear()
    results: dict[str, State | BaseException] = {}
    thread = start(lambda: guest.wish(convergence, "a"), results, "a")
    assert guest.entered.wait(5)
    with pytest.raises(DeadlineExceeded):
        convergence.converge("s", guest.build, 0.1)
    guest.proceed.set()
    thread.join(5)
    assert isinstance(results["a"], State)
    assert served(guest.wish(convergence, "b")) == {"a", "b"}


@settings(max_examples=20, deadline=None)
@given(delays=st.lists(st.floats(0, 0.02), min_size=1, max_size=12), failures=st.integers(0, 3))
def test_whatever_the_timing_an_answer_shows_the_callers_change(delays: list[float], failures: int) -> None:
    guest = Guest(0.005)
    guest.failures = [GuestError("injected") for _ in range(failures)]
    convergence = Convergence(guest.apply)

    def call(number: int) -> bool:
        time.sleep(delays[number])
        while True:
            try:
                return str(number) in served(guest.wish(convergence, str(number)))
            except GuestError:
                continue

    with ThreadPoolExecutor(len(delays)) as pool:
        assert all(pool.map(call, range(len(delays))))
    assert guest.most_at_once == 1
    assert not convergence._servers


def test_with_a_real_service_instance(world: World) -> None:
    instances, server = world.instances(), new_id()
    instances.ensure(server, world.tenant, NoProgress())
    generation = itertools.count(1)
    lock = threading.Lock()

    def build() -> Document:
        with lock:
            return Document(server_id=server, generation=next(generation), shares=())

    world.cloud.set_delay("guest.apply", 0.3)
    world.cloud.reset_calls()
    convergence = Convergence(instances.apply)
    with ThreadPoolExecutor(20) as pool:
        states = list(pool.map(lambda _: convergence.converge(server, build, 5.0), range(20)))
    assert len({state.generation for state in states}) == world.cloud.calls()["guest.apply"] <= 3
