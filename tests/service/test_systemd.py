"""Notifications to systemd, received on a real datagram socket."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kit.builders import at
from kit.virtual_time import LeapingClock
from milepost.engine.interrupt import Stop
from milepost.service import systemd
from milepost.service.systemd import MAX_STATUS_LENGTH, Notifier, keep_notified, starting


class Listener:
    """A socket bound as systemd binds its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def received(self) -> list[str]:
        """Return all messages that have arrived."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def notifier(self, **environment: str) -> Notifier:
        return Notifier({"NOTIFY_SOCKET": self.address, **environment})

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@milepost/{os.getpid()}/notify"
    listening = Listener(address)
    yield listening
    listening.close()


def well() -> str | None:
    return None


def up_to_date() -> str:
    return "all is up to date"


# --- the messages -----------------------------------------------------------------------------------------------------


def test_each_method_sends_one_message_of_the_protocol(listener: Listener) -> None:
    notifier = listener.notifier(WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid()))
    notifier.extend_timeout(1.5)
    notifier.ready()
    notifier.status("3 streams: 3 syncing")
    notifier.ping_watchdog()
    notifier.stopping()
    assert listener.received() == [
        "EXTEND_TIMEOUT_USEC=1500000",
        "READY=1",
        "STATUS=3 streams: 3 syncing",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_a_reload_is_reported_with_the_monotonic_time_and_ends_even_if_it_fails(listener: Listener) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with suppress(ValueError), listener.notifier().reloading():
        (message,) = listener.received()
        raise ValueError("a bad file")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    begins, instant = message.split("\n")
    assert begins == "RELOADING=1"
    assert before <= int(instant.removeprefix("MONOTONIC_USEC=")) <= after
    assert listener.received() == ["READY=1"]


def test_a_status_is_one_line_of_bounded_length_and_is_not_repeated(listener: Listener) -> None:
    notifier = listener.notifier()
    notifier.status("two\nlines")
    notifier.status("two\nlines")
    notifier.status("x" * 10_000)
    assert listener.received() == ["STATUS=two lines", f"STATUS={'x' * MAX_STATUS_LENGTH}"]


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}],
    ids=["none", "zero", "not a number", "of another process"],
)
def test_the_watchdog_is_not_pinged_unless_this_process_has_to(listener: Listener, environment: dict[str, str]) -> None:
    notifier = listener.notifier(**environment)
    assert notifier.watchdog_seconds is None
    notifier.ping_watchdog()
    assert listener.received() == []


async def test_without_a_systemd_nothing_is_sent_and_nothing_waits() -> None:
    notifier, stop = Notifier({}), Stop()
    assert not notifier.is_enabled
    async with starting(notifier) as ready:
        ready()
    await keep_notified(notifier, up_to_date, well, LeapingClock(stop), stop)
    assert not stop.is_requested


def test_a_systemd_that_has_gone_away_is_logged_and_breaks_nothing(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert [(line["event"], line["what"], line["error"]) for line in logs] == [
        ("systemd not notified", "READY=1", "No such file or directory")
    ]


def test_a_lack_of_file_descriptors_is_logged_and_breaks_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    notifier = listener.notifier(WATCHDOG_USEC="60000000")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(socket, "socket", refuse)
        notifier.ping_watchdog()
    notifier.ping_watchdog()
    assert [(line["event"], line["what"], line["error"]) for line in logs] == [
        ("systemd not notified", "WATCHDOG=1", "Too many open files")
    ]
    assert listener.received() == ["WATCHDOG=1"]


def test_a_systemd_that_does_not_read_blocks_nothing(listener: Listener) -> None:
    notifier = listener.notifier()
    with capture_logs() as logs:
        for _ in range(10_000):  # more than any queue of datagrams takes
            notifier.ready()
            if logs:
                break
    assert {line["error"] for line in logs} == {"Resource temporarily unavailable"}


# --- the start --------------------------------------------------------------------------------------------------------


async def until_received(listener: Listener, messages: list[str], enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not enough():
            messages += listener.received()
            await asyncio.sleep(0)


async def test_a_long_start_extends_its_timeout_until_it_is_ready(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "EXTENSION_SECONDS", 0.01)
    messages: list[str] = []
    async with starting(listener.notifier()) as ready:
        await until_received(listener, messages, lambda: messages.count("EXTEND_TIMEOUT_USEC=10000") >= 3)
        assert messages[0] == "STATUS=starting: opening the database and loading every stream"
        ready()
        await until_received(listener, messages, lambda: "READY=1" in messages)
        await asyncio.sleep(0.05)  # ten times as long as the next extension would take
    assert messages[-1] == "READY=1"
    assert listener.received() == []


async def test_a_start_that_fails_is_never_ready(listener: Listener) -> None:
    with pytest.raises(ValueError, match="the port is taken"):
        async with starting(listener.notifier()):
            raise ValueError("the port is taken")
    assert "READY=1" not in listener.received()


# --- while it runs ----------------------------------------------------------------------------------------------------


async def test_the_watchdog_is_pinged_three_times_an_interval_and_the_shutdown_is_reported(
    listener: Listener,
) -> None:
    stop = Stop()
    clock = LeapingClock(stop)
    clock.ends_at = at(6)
    await keep_notified(listener.notifier(WATCHDOG_USEC="6000000"), up_to_date, well, clock, stop)
    received = listener.received()
    assert received.count("WATCHDOG=1") == 3
    assert received[1] == "STATUS=all is up to date"
    assert received[-2:] == ["STOPPING=1", "STATUS=stopping: committing the current batches"]


async def test_a_stalled_service_does_not_ping_the_watchdog_and_says_why(listener: Listener) -> None:
    stop = Stop()
    clock = LeapingClock(stop)
    clock.ends_at = at(60)
    notifier = listener.notifier(WATCHDOG_USEC="6000000")
    stalled = "no end of the runs of messenger:1"
    await keep_notified(notifier, lambda: f"streams are stalled ({stalled})", lambda: stalled, clock, stop)
    received = listener.received()
    assert "WATCHDOG=1" not in received
    assert received[0] == f"STATUS=streams are stalled ({stalled})"


async def test_what_could_not_be_sent_is_sent_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    stop = Stop()
    clock = LeapingClock(stop)
    clock.ends_at = at(5)
    notifier = listener.notifier()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        notifier.ready()
        notifier.status(up_to_date())
    await keep_notified(notifier, up_to_date, well, clock, stop)
    assert listener.received()[:2] == ["READY=1", "STATUS=all is up to date"]


async def test_an_error_in_the_status_does_not_end_the_pings(listener: Listener) -> None:
    def broken() -> str:
        raise ValueError("a bug")

    stop = Stop()
    clock = LeapingClock(stop)
    clock.ends_at = at(6)
    with capture_logs() as logs:
        await keep_notified(listener.notifier(WATCHDOG_USEC="6000000"), broken, well, clock, stop)
    received = listener.received()
    assert received.count("WATCHDOG=1") == 3
    assert received[-2:] == ["STOPPING=1", "STATUS=stopping: committing the current batches"]
    assert {line["event"] for line in logs} == {"task failed unexpectedly"}
