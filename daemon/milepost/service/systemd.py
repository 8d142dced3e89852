"""Notifications to systemd over the datagram socket of sd_notify(3); no-ops if the service does not run under it."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import structlog

from milepost.core.ports import Clock
from milepost.engine.interrupt import Stop, bulkhead, running

EXTENSION_SECONDS = 60.0  # by which startup extends TimeoutStartSec each time
STATUS_SECONDS = 5.0  # between updates of the status
MAX_STATUS_LENGTH = 500  # systemctl shows it on one line


class Notifier:
    """Sends notifications to systemd; each method is one message of sd_notify(3)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the address and the watchdog's interval from the environment of the process."""
        address = environment.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with an @ instead of the leading null byte of its name.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environment)
        self._status = ""
        self._is_ready_unsent = False

    @property
    def is_enabled(self) -> bool:
        """Whether there is a systemd to notify."""
        return bool(self._address)

    def ready(self) -> None:
        """Report that the service is ready."""
        self._is_ready_unsent = not self._send("READY=1")

    def repeat_unsent(self) -> None:
        """Report again what could not be sent, and what systemd waits for."""
        if self._is_ready_unsent:
            self.ready()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report a reload during the block, and readiness after it, whether it succeeded or not."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    def stopping(self) -> None:
        """Report that the service is shutting down."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the status that people read. An unchanged one is not sent again."""
        line = " ".join(text.split())
        if line != self._status and self._send(f"STATUS={line[:MAX_STATUS_LENGTH]}"):
            self._status = line

    def ping_watchdog(self) -> None:
        """Report that the service is alive: without this for WatchdogSec, systemd kills and restarts it."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask systemd to wait this long from now for the start to finish."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *assignments: str) -> bool:
        """Send assignments, and return whether that succeeded."""
        if not self._address:
            return True
        try:  # there may be no file descriptor left for the socket
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a systemd that does not read must not hold up the work
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            structlog.get_logger("milepost").warning(
                "systemd not notified", what=assignments[0], error=os.strerror(error.errno or 0)
            )
            return False
        return True


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's interval for this process (sd_watchdog_enabled(3)); None if no watchdog is set."""
    microseconds, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6


@asynccontextmanager
async def starting(notifier: Notifier) -> AsyncIterator[Callable[[], None]]:
    """Extend the start timeout until the yielded function is called, which reports readiness.

    A migration or the first load of a large database may take longer than TimeoutStartSec. Both run in threads, so that
    the event loop can keep extending it.
    """

    async def extend_timeout() -> None:
        notifier.status("starting: opening the database and loading every stream")
        while notifier.is_enabled:
            notifier.extend_timeout(EXTENSION_SECONDS)
            await asyncio.sleep(EXTENSION_SECONDS / 2)

    async with running("start", extend_timeout()) as extending:

        def ready() -> None:
            extending.cancel()
            notifier.ready()

        yield ready


async def keep_notified(
    notifier: Notifier,
    status: Callable[[], str],
    stalled: Callable[[], str | None],
    clock: Clock,
    stop: Stop,
) -> None:
    """Send status and watchdog pings to systemd until shutdown.

    The pings come from the event loop that runs all streams, so that a loop that hangs sends none. They are sent only
    while no stream is stalled, so that a service that makes no progress sends none either.

    Args:
        notifier: if it is not enabled, this returns at once.
        status: returns what is wrong and what the service is doing now.
        stalled: returns why nothing has made progress for too long; None if all is well.
        clock: measures the time between updates.
        stop: once it is requested, the shutdown is reported.
    """
    if not notifier.is_enabled:
        return
    seconds = min(STATUS_SECONDS, (notifier.watchdog_seconds or STATUS_SECONDS) / 3)

    async def notify() -> None:
        notifier.repeat_unsent()
        if stalled() is None:
            notifier.ping_watchdog()
        notifier.status(status())

    while not stop.is_requested:
        await bulkhead("systemd", notify())  # each time by itself: an error must not end the pings
        await stop.sleep(clock, seconds)
    notifier.stopping()
    notifier.status("stopping: committing the current batches")
