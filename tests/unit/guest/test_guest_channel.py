"""SshChannels against a real sshd and the real program. Needs root, and openssh-server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from guest_machines import BOOT_ID, SERVER_ID, Machine, document, number, rule, share
from guest_sshd import Sshd, new_key
from test_guest_program import newer

from sharewright.errors import GuestBusy, GuestError, GuestUnreachable, StaleDocument
from sharewright.guest import channel
from sharewright.guest.channel import SshChannels
from sharewright.guest.contract import round_trips
from sharewright.guest.package import build_program, program_identity

NEVER = 100_000.0  # seconds: who waits for so long, instead of answering at once, meets the test's own limit


@pytest.fixture
def channels() -> Iterator[SshChannels]:
    opened = SshChannels()
    yield opened
    opened.close()


@pytest.fixture
def sshd(tmp_path: Path, machine: Machine) -> Iterator[Sshd]:
    running = Sshd(tmp_path / "sshd", machine).start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def counters() -> None:
    round_trips.count = round_trips.handshakes = 0


def test_one_connection_for_all_calls(machine: Machine, sshd: Sshd, channels: SshChannels) -> None:
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    assert channels.wait_ready(address, timeout=10) == BOOT_ID
    assert (round_trips.count, round_trips.handshakes) == (1, 1)
    state = channels.apply(address, document(1, share(1, rule("10.0.0.5"))), timeout=10)
    assert (state.shares[0].exported, state.program) == (True, program_identity())
    assert channels.observe(address, document(1, share(1, rule("10.0.0.5"))), timeout=10).changed == ()
    assert channels.wait_ready(address, timeout=10) == BOOT_ID
    assert (round_trips.count, round_trips.handshakes) == (4, 1)
    assert (sshd.logins, len(sshd.serving())) == (1, 1)


def test_another_host_key_gets_nothing(sshd: Sshd, channels: SshChannels) -> None:
    _, other = new_key()
    address = sshd.address(SERVER_ID, host_key=other)
    for call in (
        lambda: channels.wait_ready(address, timeout=NEVER),
        lambda: channels.apply(address, document(1), timeout=NEVER),
    ):
        with pytest.raises(GuestUnreachable, match="host key is another one"):
            call()
    time.sleep(0.2)
    assert "root" not in sshd.log, "not even the user name was sent"
    assert round_trips.count == 0


def test_a_refused_key_of_ours_is_said(sshd: Sshd, channels: SshChannels) -> None:
    private, _ = new_key()
    with pytest.raises(GuestUnreachable, match="refuses our key"):
        channels.wait_ready(sshd.address(SERVER_ID, private_key=private), timeout=10)


def test_nobody_there(machine: Machine, tmp_path: Path, channels: SshChannels) -> None:
    address = Sshd(tmp_path / "sshd", machine).address(SERVER_ID)
    with pytest.raises(GuestUnreachable, match="cannot be reached"):
        channels.apply(address, document(1), timeout=NEVER)  # does not wait for a boot
    with pytest.raises(GuestUnreachable, match="refused"):
        channels.wait_ready(address, timeout=1)


def test_a_listener_that_says_nothing(channels: SshChannels, sshd: Sshd) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        sshd.port = mute.getsockname()[1]
        with pytest.raises(GuestUnreachable):
            channels.apply(sshd.address(SERVER_ID), document(1), timeout=1)


def test_ready_as_soon_as_sshd_is(machine: Machine, tmp_path: Path, channels: SshChannels) -> None:
    late = Sshd(tmp_path / "sshd", machine)
    timer = threading.Timer(1.0, late.start)
    timer.start()
    try:
        assert channels.wait_ready(late.address(SERVER_ID), timeout=60) == BOOT_ID
    finally:
        timer.join()
        late.stop()


def test_a_cut_connection_is_made_again_and_the_call_repeated(
    machine: Machine, sshd: Sshd, channels: SshChannels
) -> None:
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(1, share(1)), timeout=10)
    sshd.cut()
    state = channels.apply(address, document(2, share(1, rule("10.0.0.5"))), timeout=10)
    assert state.shares[0].exported
    assert (sshd.logins, round_trips.count) == (2, 2)


def test_cut_during_a_call_the_same_generation_is_accepted_again(
    machine: Machine, sshd: Sshd, channels: SshChannels
) -> None:
    """The VM is rebooted while it waits for a disk."""
    address = sshd.address(SERVER_ID)
    channels.wait_ready(address, timeout=10)
    timer = threading.Timer(0.5, sshd.cut)
    timer.start()
    state = channels.apply(address, document(3, share(1), device_timeout=1.5), timeout=10)
    timer.join()
    assert (state.generation, state.shares[0].error) == (3, "device_missing")
    assert (sshd.logins, round_trips.count) == (2, 2), "the greeting, and the apply once"


def test_after_a_reboot(machine: Machine, sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    assert channels.wait_ready(address, timeout=10) == BOOT_ID
    sshd.stop()
    machine.write("proc/sys/kernel/random/boot_id", number(7) + "\n")
    with pytest.raises(GuestUnreachable):
        channels.apply(address, document(1), timeout=5)
    sshd.start()
    assert channels.wait_ready(address, timeout=10) == number(7)
    assert channels.apply(address, document(1), timeout=5).boot_id == number(7)


def test_a_hung_guest_costs_no_more_than_the_timeout(sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    channels.wait_ready(address, timeout=10)
    (program,) = sshd.serving()
    os.kill(program, signal.SIGSTOP)
    with pytest.raises(GuestUnreachable, match="in time"):
        channels.apply(address, document(1), timeout=1)
    os.kill(program, signal.SIGCONT)
    assert channels.apply(address, document(1), timeout=10).generation == 1
    assert sshd.logins == 2, "the late answer met nobody"


def test_waiting_for_another_call_is_bounded_too(sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    channels.wait_ready(address, timeout=10)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(channels.apply, address, document(1, share(1), device_timeout=4.0), timeout=30)
        time.sleep(0.3)
        with pytest.raises(GuestBusy, match="Another call"):
            channels.observe(address, document(1), timeout=0.5)
        assert not long.done()
        assert long.result().shares[0].error == "device_missing"


def test_an_older_program_is_replaced(machine: Machine, sshd: Sshd, channels: SshChannels) -> None:
    machine.program.write_bytes(newer()[0])
    assert channels.wait_ready(sshd.address(SERVER_ID), timeout=10) == BOOT_ID
    assert machine.program.read_bytes() == build_program()
    assert (sshd.logins, round_trips.handshakes) == (1, 3)
    assert channels.apply(sshd.address(SERVER_ID), document(1), timeout=10).program == program_identity()


def test_a_share_stands_still_and_no_other_call_comes_between(
    machine: Machine, sshd: Sshd, channels: SshChannels
) -> None:
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(1, share(1, rule("10.0.0.5"))), timeout=10)
    round_trips.count = 0
    with channels.frozen(address, [number(1)], seconds=60, timeout=10) as freeze:
        assert machine.frozen == [f"/shares/share-{number(1)}"]
        assert not freeze.held
        with ThreadPoolExecutor(1) as pool, pytest.raises(GuestBusy):
            pool.submit(channels.observe, address, document(1), timeout=0.2).result()
    assert machine.frozen == []
    assert (freeze.held, freeze.seconds > 0) == (True, True)
    assert (round_trips.count, sshd.logins) == (2, 1)


def test_a_connection_that_is_cut_while_a_share_stands_still(
    machine: Machine, sshd: Sshd, channels: SshChannels
) -> None:
    """It is made again for the thaw, and nothing was lost."""
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(1, share(1, rule("10.0.0.5"))), timeout=10)
    with channels.frozen(address, [number(1)], seconds=60, timeout=10) as freeze:
        for process in sshd.serving():
            os.kill(process, signal.SIGKILL)
    assert (machine.frozen, freeze.held) == ([], True)


def test_a_guest_that_is_gone_when_it_should_thaw(machine: Machine, sshd: Sshd, channels: SshChannels) -> None:
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(1, share(1, rule("10.0.0.5"))), timeout=10)
    with channels.frozen(address, [number(1)], seconds=2.0, timeout=10) as freeze:
        sshd.stop()
    assert not freeze.held
    end = time.monotonic() + 30
    while machine.frozen:  # by itself
        assert time.monotonic() < end
        time.sleep(0.05)


def test_another_s_freeze_is_busy_and_what_is_not_mounted_an_error(
    machine: Machine, sshd: Sshd, channels: SshChannels
) -> None:
    machine.add_disk(1)
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(1, share(1, rule("10.0.0.5"))), timeout=10)
    with contextlib.closing(SshChannels()) as other:
        with (
            other.frozen(address, [number(1)], seconds=60, timeout=10) as freeze,
            pytest.raises(GuestBusy, match="is frozen"),
            channels.frozen(address, [number(1)], seconds=60, timeout=10),
        ):
            raise AssertionError
        assert freeze.held
    with pytest.raises(GuestError, match="not mounted"), channels.frozen(address, [number(2)], seconds=60, timeout=10):
        raise AssertionError
    assert sshd.logins == 2


def test_refusals_keep_the_connection(sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    channels.apply(address, document(5), timeout=10)
    with pytest.raises(StaleDocument, match="Generation 5"):
        channels.apply(address, document(4), timeout=10)
    with pytest.raises(GuestError, match="unique"):
        channels.apply(address, document(6, share(1), share(1)), timeout=10)
    assert channels.apply(address, document(6), timeout=10).generation == 6
    assert sshd.logins == 1


def test_many_threads(machine: Machine, sshd: Sshd, channels: SshChannels, tmp_path: Path) -> None:
    other_machine = Machine(tmp_path / "other")
    other = Sshd(tmp_path / "other-sshd", other_machine).start()
    try:
        addresses = [sshd.address(SERVER_ID), other.address(number(2))]

        def call(index: int) -> str:
            wanted = document(1)
            if index % 2:
                wanted = type(wanted)(server_id=number(2), generation=1, shares=())
            return channels.apply(addresses[index % 2], wanted, timeout=30).boot_id

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call, range(40))) == {BOOT_ID}
        assert (sshd.logins, other.logins) == (1, 1)
    finally:
        other.stop()


def test_forget_and_close(sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    channels.wait_ready(address, timeout=10)
    channels.forget(SERVER_ID)
    channels.forget("never heard of")
    for _ in range(50):
        if not sshd.serving():
            break
        time.sleep(0.1)
    assert sshd.serving() == []
    channels.wait_ready(address, timeout=10)
    assert sshd.logins == 2
    channels.close()
    with pytest.raises(GuestUnreachable, match="closed"):
        channels.wait_ready(address, timeout=10)


def test_forgotten_during_a_call(sshd: Sshd, channels: SshChannels) -> None:
    address = sshd.address(SERVER_ID)
    channels.wait_ready(address, timeout=10)
    timer = threading.Timer(0.3, channels.forget, [SERVER_ID])
    timer.start()
    with pytest.raises(GuestUnreachable):
        channels.apply(address, document(1, share(1), device_timeout=60.0), timeout=NEVER)
    timer.join()
    assert sshd.logins == 1, "a deleted server is not called again"


def test_new_keys_make_a_new_connection(sshd: Sshd, channels: SshChannels) -> None:
    channels.wait_ready(sshd.address(SERVER_ID), timeout=10)
    _, other = new_key()
    with pytest.raises(GuestUnreachable, match="another one"):
        channels.apply(sshd.address(SERVER_ID, host_key=other), document(1), timeout=10)


def test_idle_connections_are_closed(sshd: Sshd, tmp_path: Path) -> None:
    channels = SshChannels(idle_seconds=0.2)
    other = Sshd(tmp_path / "other", Machine(tmp_path / "machine")).start()
    try:
        channels.wait_ready(sshd.address(SERVER_ID), timeout=10)
        time.sleep(0.4)
        channels.wait_ready(other.address(number(2)), timeout=10)
        for _ in range(50):
            if not sshd.serving():
                break
            time.sleep(0.1)
        assert sshd.serving() == []
        assert channels.apply(sshd.address(SERVER_ID), document(1), timeout=10).generation == 1
    finally:
        channels.close()
        other.stop()


def test_so_many_connections_stay_open_and_no_more(sshd: Sshd, tmp_path: Path) -> None:
    channels = SshChannels(most_connections=1)
    other = Sshd(tmp_path / "other", Machine(tmp_path / "machine")).start()
    try:
        channels.wait_ready(sshd.address(SERVER_ID), timeout=10)
        channels.wait_ready(other.address(number(2)), timeout=10)
        for _ in range(50):
            if not sshd.serving():
                break
            time.sleep(0.1)
        assert sshd.serving() == []
        assert other.serving() != []
        assert channels.apply(sshd.address(SERVER_ID), document(1), timeout=10).generation == 1
    finally:
        channels.close()
        other.stop()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo Welcome; cat", "cannot be read"),
        ("echo no python here >&2; exit 127", "no python here"),
        ("head -c 3000000 /dev/zero; cat", "longer than"),
    ],
)
def test_what_is_not_our_program(
    tmp_path: Path,
    machine: Machine,
    channels: SshChannels,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    monkeypatch.setattr(channel, "LONGEST_ANSWER", 1_000_000)
    odd = Sshd(tmp_path / "odd", machine, command=command).start()
    try:
        with pytest.raises(GuestError, match=message):
            channels.apply(odd.address(SERVER_ID), document(1), timeout=10)
    finally:
        odd.stop()


def test_no_secret_in_representations(sshd: Sshd) -> None:
    assert "PRIVATE KEY" not in repr(sshd.address(SERVER_ID))
