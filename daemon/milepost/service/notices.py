"""Sends notices to people by Apprise, which is loaded only where it is used.

Apprise blocks for as long as a service does. So each destination sends in a thread of its own, and neither the daemon
nor another destination waits for it. A destination's notices go out in order, are retried after a failure, and are
given up in the end.
"""

import asyncio
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import structlog
from msgspec import Struct

from milepost.core.errors import BadConfiguration
from milepost.core.notices import NoticeKind
from milepost.core.ports import Clock
from milepost.reporting.notices import NoticeText
from milepost.settings.model import Settings

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

INSTALL = "pip install 'milepost[notify]', or pip install apprise beside an installation from elsewhere"
# Apprise and the libraries that it sends with log URLs, which hold secrets: all of them at debug, failures at warning.
_LOGGERS = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "charset_normalizer", "markdown")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,100}|\[[0-9A-Fa-f:.]{2,45}\]")
_STATUS = re.compile(r"error=([1-5][0-9]{2})\b")
_NO_REASON = "the service did not accept it, or cannot be reached"


log = structlog.get_logger("milepost")


# --- where notices go: Apprise's URLs, which are never shown whole, because they hold secrets -------------------------


class Destination(Protocol):
    """A receiver of notices. `name` is shown to people, and holds no secret."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def send(self, text: NoticeText) -> str | None:
        """Send a notice; return None, or why it was not accepted. Blocks for as long as the service does."""
        ...


class AppriseDestination(Struct, frozen=True, eq=False):
    """A destination that is one of Apprise's URLs."""

    name: str
    plugin: "NotifyBase"
    reasons: "_Reasons"

    def send(self, text: NoticeText) -> str | None:
        """Send a notice; return None, or why it was not accepted."""
        from apprise import NotifyFormat, NotifyType  # noqa: PLC0415  (the extra)

        types = {
            NoticeKind.RECOVERED: NotifyType.SUCCESS,
            NoticeKind.TOKEN_EXPIRING: NotifyType.WARNING,
            NoticeKind.DEAD_LETTERS: NotifyType.WARNING,
        }
        notify_type = types.get(text.kind, NotifyType.FAILURE)
        with self.reasons.heard() as heard:
            # Without the format nothing is converted, and an email in HTML would have no line breaks.
            taken = self.plugin.notify(
                title=text.title, body=text.body, notify_type=notify_type, body_format=NotifyFormat.TEXT
            )
        return None if taken else _reason(heard)


def urls_of(settings: Settings) -> tuple[str, ...]:
    """Return the configured URLs."""
    return tuple(url.get_secret_value() for url in settings.notify.urls)


def demand_sendable(settings: Settings) -> None:
    """Raise BadConfiguration if notices cannot be sent to the configured URLs."""
    destinations(urls_of(settings))


def destinations(urls: Sequence[str]) -> tuple[AppriseDestination, ...]:
    """Return the destinations of these URLs. Blocks: loading Apprise takes a second.

    Raises BadConfiguration if Apprise is missing, or if it rejects a URL; the error says which.
    """
    if not urls:
        return ()
    asset, reasons = _loaded(), _quietened()
    plugins = [_plugin(url, asset) for url in urls]
    wrong = [
        f"notify.urls[{index}]: Apprise does not know such a URL, or parts of it are missing"
        for index, plugin in enumerate(plugins)
        if plugin is None
    ]
    if wrong:
        hint = "see https://github.com/caronc/apprise/wiki for the form of each service's URL"
        raise BadConfiguration("\n".join(wrong), hint=hint)
    known = [plugin for plugin in plugins if plugin is not None]
    names = _distinct([_name_of(url, plugin) for url, plugin in zip(urls, known, strict=True)])
    return tuple(AppriseDestination(name, plugin, reasons) for name, plugin in zip(names, known, strict=True))


def _loaded() -> "AppriseAsset":
    try:
        from apprise import AppriseAsset, PersistentStoreMode  # noqa: PLC0415  (the extra)
    except ModuleNotFoundError as error:
        raise BadConfiguration("notify.urls needs Apprise, which is not installed", hint=f"run {INSTALL}") from error
    return AppriseAsset(
        app_id="Milepost",
        app_desc="Milepost",
        app_url="",
        storage_mode=PersistentStoreMode.MEMORY,  # nothing is written to disk
        secure_logging=True,
    )


def _plugin(url: str, asset: "AppriseAsset") -> "NotifyBase | None":
    from apprise import Apprise  # noqa: PLC0415  (the extra)

    plugin: NotifyBase | None = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    return plugin


def _name_of(url: str, plugin: "NotifyBase") -> str:
    """Return `json://127.0.0.1`, or only `tgram://` if the URL has a token in place of a host."""
    scheme, templates = url.partition(":")[0].lower(), tuple[str, ...](plugin.templates)
    has_host = bool(templates) and all("{host}" in each for each in templates)
    host = str(plugin.host or "") if has_host else ""
    return f"{scheme}://{host if _HOST.fullmatch(host) else ''}"


def _distinct(names: Sequence[str]) -> list[str]:
    """Add a number to names that occur more than once."""
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


# --- what Apprise logs ------------------------------------------------------------------------------------------------


class _Reasons(logging.Handler):
    """Collects what Apprise logs while it sends in a thread, and passes nothing on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line for the thread that logged it."""
        heard: list[str] | None = getattr(self._of_thread, "heard", None)
        if heard is not None and len(heard) < 10:
            heard.append(record.getMessage())

    @contextmanager
    def heard(self) -> Iterator[list[str]]:
        """Yield what is logged in this thread during the block."""
        heard: list[str] = []
        self._of_thread.heard = heard
        try:
            yield heard
        finally:
            self._of_thread.heard = None


def _quietened() -> _Reasons:
    """Keep what Apprise logs out of the log; destinations of an earlier call go on hearing it."""
    held = logging.getLogger(_LOGGERS[0]).handlers
    reasons = next((each for each in held if isinstance(each, _Reasons)), None) or _Reasons()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [reasons], False
        logger.setLevel(logging.WARNING)
    return reasons


def _reason(heard: Sequence[str]) -> str:
    """Return why a notice was not accepted, in our own words: Apprise's may quote parts of the URL."""
    for line in heard:
        if (status := _STATUS.search(line)) is not None:
            return f"the service answered HTTP {status[1]}"
        if "onnection error" in line:
            return "the service cannot be reached"
    return _NO_REASON


# --- sending ----------------------------------------------------------------------------------------------------------

MAX_WAITING = 100  # for each destination; the oldest are dropped
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)  # after the first failure, the second …; then a notice is given up
MAX_SEND_SECONDS = 60.0  # then the thread hangs: Apprise's timeouts are 4 to 15 seconds
UNEXPECTED = "Apprise failed"

SENT, RETRIED, FAILED, DROPPED = RESULTS = ("sent", "retried", "failed", "dropped")


class Failing(Struct, frozen=True):
    """A destination that accepts nothing, since when, and why."""

    name: str
    since: datetime
    reason: str


class NoticeSender:
    """Sends notices to all destinations. `count` is called with a destination's name and a result, one of RESULTS."""

    def __init__(self, clock: Clock, count: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._count = count
        self._outlets: dict[str, _Outlet] = {}

    def adopt(self, destinations: Mapping[str, Destination]) -> None:
        """Send to these destinations, given by URL, from now on; notices that wait for a removed one are dropped."""
        before, self._outlets = self._outlets, {}
        for url, destination in destinations.items():
            outlet = before.pop(url, None) or _Outlet(destination, self._clock, self._count)
            outlet.destination = destination  # its name may have got a number
            self._outlets[url] = outlet
        for outlet in before.values():
            outlet.drop_all()

    def send(self, text: NoticeText) -> None:
        """Queue a notice for each destination."""
        for outlet in self._outlets.values():
            outlet.offer(text)

    def pump(self) -> None:
        """Collect results, and start sending what is due. Call this every second."""
        for outlet in self._outlets.values():
            outlet.pump()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent, or is to be sent at once."""
        return not any(outlet.is_busy for outlet in self._outlets.values())

    def failing(self) -> Iterator[Failing]:
        """Yield the destinations that do not accept notices."""
        for outlet in self._outlets.values():
            if (failing := outlet.failing()) is not None:
                yield failing


class _Outlet:
    """The notices for one destination."""

    def __init__(self, destination: Destination, clock: Clock, count: Callable[[str, str], None]) -> None:
        self.destination = destination
        self._clock = clock
        self._count = count
        self._waiting: deque[NoticeText] = deque()
        self._sending: asyncio.Future[str | None] | None = None
        self._began_at = 0.0
        self._next_at = 0.0
        self._attempts = 0
        self._failing: Failing | None = None

    def offer(self, text: NoticeText) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._give_up(DROPPED, f"{MAX_WAITING} others wait", 0 if self._sending is None else 1)
        self._waiting.append(text)

    def drop_all(self) -> None:
        while self._waiting:
            self._give_up(DROPPED, "the configuration has changed")

    @property
    def is_busy(self) -> bool:
        return self._sending is not None or (bool(self._waiting) and self._next_at <= self._clock.steady())

    def failing(self) -> Failing | None:
        if self._sending is not None and self._clock.steady() - self._began_at > MAX_SEND_SECONDS:
            seconds = self._clock.steady() - self._began_at
            since = self._clock.now() - timedelta(seconds=seconds)
            return self._failing or Failing(self.destination.name, since, "it does not answer")
        return self._failing

    def pump(self) -> None:
        if self._sending is not None:
            if not self._sending.done():
                return  # a thread that hangs is left alone, and no second one is started
            reason, self._sending = self._sending.result(), None
            self._take_in(reason)
        if self._waiting and self._next_at <= self._clock.steady():
            self._began_at = self._clock.steady()
            self._sending = _in_thread(self.destination, self._waiting[0])

    def _take_in(self, reason: str | None) -> None:
        if not self._waiting:  # it was dropped meanwhile
            return
        name, text = self.destination.name, self._waiting[0]
        if reason is None:
            self._waiting.popleft()
            self._attempts, self._next_at, self._failing = 0, 0.0, None
            self._count(name, SENT)
            log.info("notice sent", destination=name, kind=text.kind.value, title=text.title)
            return
        since = self._clock.now() if self._failing is None else self._failing.since
        self._failing = Failing(name, since, reason)
        if self._attempts == len(RETRY_SECONDS):
            self._give_up(FAILED, reason)
            return
        seconds = RETRY_SECONDS[self._attempts]
        self._attempts, self._next_at = self._attempts + 1, self._clock.steady() + seconds
        self._count(name, RETRIED)
        log.warning("notice not sent, retrying", destination=name, reason=reason, wait_seconds=seconds)

    def _give_up(self, result: str, reason: str, index: int = 0) -> None:
        """Drop the notice at this index of the queue; the first one may be in the middle of being sent."""
        text = self._waiting[index]
        del self._waiting[index]
        if index == 0:
            self._attempts, self._next_at = 0, 0.0
        name = self.destination.name
        self._count(name, result)
        hint = "`milepost notify test` tries each destination"
        log.error("notice given up", destination=name, kind=text.kind.value, title=text.title, reason=reason, hint=hint)


async def try_each(destinations: Sequence[Destination], text: NoticeText) -> list[str | None]:
    """Send a notice to all destinations concurrently; return for each None, or why it was not accepted."""
    sending = [_in_thread(each, text) for each in destinations]
    if sending:
        await asyncio.wait(sending, timeout=MAX_SEND_SECONDS)
    return [each.result() if each.done() else f"no answer within {MAX_SEND_SECONDS:g} s" for each in sending]


def _in_thread(destination: Destination, text: NoticeText) -> "asyncio.Future[str | None]":
    """Send in a daemon thread: unlike a pool's thread, it does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str | None] = loop.create_future()

    def settle(reason: str | None) -> None:
        if not future.done():
            future.set_result(reason)

    def work() -> None:
        reason: str | None = UNEXPECTED
        with suppress(Exception):  # of any of a hundred services; its words may hold the URL
            reason = destination.send(text)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, reason)

    threading.Thread(target=work, name=f"notice to {destination.name}", daemon=True).start()
    return future
