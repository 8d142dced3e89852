"""What systemd is told of the service, over the datagram socket of sd_notify(3); nothing where no systemd listens."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta

import structlog

from milepost.core.ports import Clock
from milepost.engine.interrupt import Stop

EXTENSION_SECONDS = 60.0  # what a start asks for at a time, beyond TimeoutStartSec
TELLING_SECONDS = 5.0  # between two tellings of what the service is at
MAX_STATUS_LENGTH = 500  # systemctl shows it on one line


class Notifier:
    """Tells systemd one thing at a time; each verb is one message of sd_notify(3)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the address, and how often a sign of life is awaited, from the environment of the process."""
        address = environment.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with an @ for the byte that its name begins with.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environment)
        self._status = ""

    @property
    def is_heard(self) -> bool:
        """Whether there is a systemd to tell anything."""
        return bool(self._address)

    def ready(self) -> None:
        """The service does its work."""
        self._tell("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is read again in the block, and the service ready after it, whatever became of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    def stopping(self) -> None:
        """The service ends by itself."""
        self._tell("STOPPING=1")

    def status(self, words: str) -> None:
        """What the service is at, for people to read. Said again, it is not sent again."""
        line = " ".join(words.split())
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line[:MAX_STATUS_LENGTH]}")

    def alive(self) -> None:
        """The service comes along: without this for WatchdogSec, systemd kills it and starts it again."""
        if self.watchdog_seconds is not None:
            self._tell("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """The start takes longer: systemd is to wait so many seconds more from now on."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a systemd that does not read holds up no work
            try:
                sender.sendto("\n".join(assignments).encode(), self._address)
            except OSError as error:
                structlog.get_logger("milepost").warning(
                    "systemd not told", what=assignments[0], error=os.strerror(error.errno or 0)
                )


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Say within which time this process has to give a sign of life (sd_watchdog_enabled(3)); None: it has not to."""
    microseconds, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6


@asynccontextmanager
async def starting(notifier: Notifier) -> AsyncIterator[Callable[[], None]]:
    """Ask systemd for more time until what is given is called, which tells it that the service is ready.

    A migration or the first look at a large database may outlast TimeoutStartSec; they are done in threads, so that
    this goes on as long as the event loop does.
    """

    async def ask_for_time() -> None:
        notifier.status("starting: opens the database and recalls every stream")
        while notifier.is_heard:
            notifier.extend(EXTENSION_SECONDS)
            await asyncio.sleep(EXTENSION_SECONDS / 2)

    asking = asyncio.create_task(ask_for_time(), name="start")

    def ready() -> None:
        asking.cancel()
        notifier.ready()

    try:
        yield ready
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def keep_told(
    notifier: Notifier,
    words: Callable[[datetime], str],
    stalled: Callable[[], str | None],
    clock: Clock,
    stop: Stop,
) -> None:
    """Tell systemd what the service is at, and that it comes along, until a stop is asked for.

    A sign of life is given by the event loop that all streams are worked on, so that a loop that hangs gives none; and
    as long as no stream is stalled, so that a service that does nothing any more gives none either.

    Args:
        notifier: without a systemd that listens, this returns at once.
        words: what the service is at, now.
        stalled: why nothing has moved for longer than it should; None where all is well.
        clock: measures the time between two tellings.
        stop: when it is asked for, systemd is told that as well.
    """
    if not notifier.is_heard:
        return
    seconds = min(TELLING_SECONDS, (notifier.watchdog_seconds or TELLING_SECONDS) / 3)
    while not stop.is_requested:
        reason, now = stalled(), clock.now()
        if reason is None:
            notifier.alive()
        notifier.status(f"stalled: {reason}" if reason is not None else words(now))
        async with stop.interruptible():
            await clock.sleep_until(now + timedelta(seconds=seconds))
    notifier.stopping()
    notifier.status("stopping: the batches in hand are committed")
