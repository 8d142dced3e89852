"""The daemon: the streams, the HTTP service, and everything that runs beside them."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from aiohttp import web
from msgspec import Struct

from milepost import __version__
from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.app.health import Health
from milepost.app.notices import NoticeWatch, Observed
from milepost.app.pages import TokenWatch
from milepost.app.reload import Configuration
from milepost.app.webhooks import Webhooks
from milepost.core.changes import ChangeReader
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.deliveries.worker import Dispatcher, Outlets
from milepost.engine.feed import Feed, Reader, reading
from milepost.engine.interrupt import Interrupt, Stop, kept_up, stopping_on_signals
from milepost.reporting.health import DaemonStatus
from milepost.reporting.live import LiveStreams
from milepost.service.activity import Activity, recent_activity
from milepost.service.api.background import BackgroundWork, background_work
from milepost.service.api.dead_letters import (
    dead_letter_actions,
    dead_letter_group_actions,
    dead_letter_groups,
    dead_letters,
)
from milepost.service.api.journal import journal, runs
from milepost.service.api.overview import daemon_status, deliveries, overview_changes
from milepost.service.api.streams import Overview, stream_actions, streams
from milepost.service.auth import Sessions, login
from milepost.service.availability import StoreSize, StoreWatch, probes
from milepost.service.endpoint import AnyOperation, described, routes_of
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.changes import ChangeStream, change_stream, changes
from milepost.service.events.route import event_stream
from milepost.service.http import Allowed, serve
from milepost.service.limits import WrongTokens
from milepost.service.logs.lines import JournalLog, Redactor
from milepost.service.logs.output import Deduplicator
from milepost.service.metrics.collect import Metrics, exposition
from milepost.service.metrics.traffic import DeliveryCounter
from milepost.service.pages import pages, runbooks
from milepost.service.systemd import Notifier, keep_notified, starting
from milepost.settings.model import Settings, SyncSettings
from milepost.stores.open import open_reader
from milepost.stores.reader import JournalReader
from milepost.stores.store import OpenStore

log = structlog.get_logger("milepost")


class Logging(Struct, frozen=True, eq=False):
    """The parts of the configured logging that the daemon uses while it runs."""

    redactor: Redactor
    dedup: Deduplicator


async def run_daemon(settings: Settings, configuration: Configuration, logging: Logging, systemd: Notifier) -> None:
    """Run until SIGTERM or SIGINT. SIGHUP requests a reload."""
    stop, reload_requested = Stop(), Interrupt()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_requested.set)
    async with (
        logging.dedup.flushing(),
        stopping_on_signals(stop),
        starting(systemd) as ready,
        assembled(settings, stop, logging.redactor.learn) as parts,
        open_reader(store_url_of(settings)) as journal_reader,
        _driver(settings, parts, journal_reader) as driver,
    ):
        observers = _Observers(settings, parts, journal_reader, driver, logging.redactor.redact)
        await observers.load()
        async with (
            serving(settings, parts, observers.shown, observers.routes, observers.wrong_tokens) as url,
            observers.webhooks.listening(settings),
            observers.broadcast.running(),
            observers.changes.running(),
            observers.reading(driver.journal_feed),
            asyncio.TaskGroup() as tasks,
        ):
            ready()
            _log_start(settings, parts, url)
            clock, supervisor = parts.clock, parts.supervisor
            background: dict[str, Callable[[], Awaitable[None]]] = {
                "reload": partial(parts.reloader.run, configuration, reload_requested, clock, stop),
                "discovery": partial(parts.discovery.run, clock, stop),
                "token watch": partial(TokenWatch(parts.registry, supervisor).run, clock, stop),
                **observers.background(clock, stop),
                "systemd": partial(keep_notified, systemd, observers.status_line, supervisor.stalled, clock, stop),
            }
            for name, work in background.items():
                tasks.create_task(kept_up(name, work, clock, stop), name=name)
            await driver.run()
    log.info("stopped", hint="the next start resumes from the last committed batch")


def _log_start(settings: Settings, parts: Parts, url: str) -> None:
    count = len(parts.supervisor.streams)
    log.info("started", version=__version__, streams=count, store=settings.store.url, http=url)
    if settings.source.kind == "simulator":
        log.info("this world is simulated", hint="to sync pages of your own, see the Facebook block of config.yaml")


# --- running the streams ----------------------------------------------------------------------------------------------


class _Driver(Struct, frozen=True, eq=False):
    """Runs the streams until a stop is requested. `journal_feed` has every journal entry, of all workers.

    `is_first` finds out whether this worker does the work that only one worker of a fleet may do.
    `is_elsewhere` finds out whether another worker has a stream.
    """

    run: Callable[[], Awaitable[None]]
    journal_feed: Feed
    is_first: Callable[[], Awaitable[bool]]
    is_elsewhere: Callable[[Stream], Awaitable[bool]]


@asynccontextmanager
async def _driver(settings: Settings, parts: Parts, journal_reader: JournalReader) -> AsyncIterator[_Driver]:
    """Run all streams here or, on PostgreSQL, share them with the other workers of the fleet."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        yield _Driver(parts.supervisor.run, parts.feed, _is_alone, _is_nowhere_else)
        return
    from milepost.fleet.worker import joined  # noqa: PLC0415

    async with joined(store_url, parts.engine, parts.supervisor, journal_reader, parts.registry.share) as worker:
        yield _Driver(worker.run, worker.feed, worker.is_first, worker.is_elsewhere)


async def _is_alone() -> bool:
    return True


async def _is_nowhere_else(_: Stream) -> bool:
    return False


# --- observing them ---------------------------------------------------------------------------------------------------


class Shown(Struct, frozen=True, eq=False):
    """What the API shows: the journal, the status of streams and daemon, and the operations of other observers."""

    journal_reader: JournalReader
    live: LiveStreams
    daemon: Callable[[], DaemonStatus]
    operations: Sequence[AnyOperation]


class _Observers:
    """The readers of the feeds, and the HTTP operations that show what they know."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        journal_reader: JournalReader,
        driver: _Driver,
        redact: Callable[[str], str],
    ) -> None:
        now = parts.clock.now
        self._parts = parts
        self.wrong_tokens = WrongTokens()
        self.store_watch = store_watch = _store_watch(parts)
        self.store_size = StoreSize(parts.store.size_bytes)
        live = LiveStreams(now, lambda: parts.engine.slots.waiting, lambda: store_watch.outage is not None)
        self.webhooks = Webhooks(parts, driver.is_elsewhere)
        self.dispatcher, delivery_counter = _dispatcher(parts, journal_reader)
        self._health = health = Health(parts, store_watch, live, self.webhooks, self.dispatcher, redact)
        observed = Observed(
            lambda: live.latest(parts.supervisor.streams), health.issues, journal_reader, driver.is_first
        )
        self.notices = NoticeWatch(observed, lambda: parts.reloader.settings, parts.clock)
        health.add(self.notices.issues)
        self.metrics = _metrics(settings, parts, live, store_watch)
        for collector in (self.wrong_tokens, self.webhooks.counter, delivery_counter, self.notices.counter):
            self.metrics.register(collector)
        self.metrics.add_store_size(lambda: self.store_size.bytes)
        self.broadcast, self.changes = Broadcast(journal_reader, now), ChangeStream(journal_reader)
        self.activity = Activity(now)
        operations = [
            *event_stream(self.broadcast),
            *change_stream(self.changes),
            *recent_activity(self.activity.past),
        ]
        self.shown = Shown(journal_reader, live, health.status, operations)
        usable = partial(_demand_usable, parts.store)
        self.routes = [*probes(usable, health.why_unready), *exposition(self.metrics.expose)]

    async def load(self) -> None:
        """Bring the observers up to the journal's end."""
        await self.store_size.measure()  # so that the first scrape has it
        stored = {checkpoint.stream: checkpoint for checkpoint in await self._parts.store.checkpoints()}
        for stream in self._parts.supervisor.streams:
            self.shown.live.load(stored.get(stream) or Checkpoint(stream))
        await self.activity.load(self.shown.journal_reader)
        await self.notices.begin()

    def status_line(self) -> str:
        """Return one line that says what is wrong, and how many streams are in which state."""
        return self._health.status_line(self.shown.live.status_line(self._parts.supervisor.streams))

    @asynccontextmanager
    async def reading(self, journal_feed: Feed) -> AsyncIterator[None]:
        """Read this process's own feed during the block and, if other workers write to the journal, the journal's."""
        own_feed = self._parts.feed
        if journal_feed is own_feed:
            async with reading(own_feed, {**self._of_this_process(), **self._of_the_journal()}):
                yield
        else:
            of_the_journal = {**self._of_others(), **self._of_the_journal()}
            async with reading(own_feed, self._of_this_process()), reading(journal_feed, of_the_journal):
                yield

    def _of_this_process(self) -> Mapping[str, Reader]:
        return {
            "metrics": self.metrics.read,
            "log": JournalLog().read,
            "events": self.broadcast.read,
            "changes": self.changes.read,
            "live view": self.shown.live.read,
            "store watch": self.store_watch.read,
            "webhooks": self.webhooks.judge.read,
        }

    def _of_the_journal(self) -> Mapping[str, Reader]:
        return {"activity": self.activity.read, "deliveries": self.dispatcher.read, "notices": self.notices.read}

    def _of_others(self) -> Mapping[str, Reader]:
        return {
            "events of others": self.broadcast.read,
            "changes of others": self.changes.read,
            "live view of others": self.shown.live.read,
            "store watch of others": self.store_watch.read,
        }

    def background(self, clock: Clock, stop: Stop) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return the observers' background tasks, which run until a stop is requested."""
        return {
            "store watch": partial(self.store_watch.run, stop),
            "store size": partial(self.store_size.run, clock, stop),
            "webhooks": partial(self.webhooks.work, stop),
            "judge of webhooks": partial(self.webhooks.judge.run, stop),
            "subscriptions": partial(self.webhooks.watch_subscriptions, clock, stop),
            "deliveries": partial(self.dispatcher.run, stop),
            "notices": partial(self.notices.run, stop),
        }


def _dispatcher(parts: Parts, changes: ChangeReader) -> tuple[Dispatcher, DeliveryCounter]:
    """Return the dispatcher for the configured destinations, and the counter of its requests."""
    # The random part keeps it unique where a process id is used again, as in a restarted container.
    worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    counter = DeliveryCounter(lambda: dispatcher.states, parts.clock.now)
    outlets = Outlets(parts.store.deliveries, changes, parts.clock, worker, counter.count)
    dispatcher = Dispatcher(lambda: parts.reloader.settings.deliveries, outlets)
    return dispatcher, counter


def _metrics(settings: Settings, parts: Parts, live: LiveStreams, store_watch: StoreWatch) -> Metrics:
    metrics = Metrics(live)
    metrics.page_names, metrics.is_worked = parts.registry.page_names, parts.supervisor.works
    metrics.add_installation(lambda: parts.reloader.settings.sync.interval_seconds, store_url_of(settings).file)
    metrics.add_health(
        store_up=lambda: store_watch.outage is None,
        discovery_up=lambda: parts.discovery.is_up,
        reload_successful=lambda: not parts.reloader.is_refused,
        streams_due=lambda: len(parts.engine.slots.waiting),
        api_clock_offset_seconds=lambda: parts.registry.clock_difference.ahead_seconds,
    )
    return metrics


def _store_watch(parts: Parts) -> StoreWatch:
    supervisor = parts.supervisor

    def wake(stream: Stream) -> bool:
        if not supervisor.works(stream):
            return False
        supervisor.wake(stream)
        return True

    return StoreWatch(partial(_demand_usable, parts.store), wake, parts.clock)


async def _demand_usable(store: OpenStore) -> None:
    """Raise StoreAway or StoreRefused if the database does not answer, or takes no writes."""
    await store.answers()
    await store.takes_writes()


# --- HTTP -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(
    settings: Settings,
    parts: Parts,
    shown: Shown,
    routes: Iterable[web.AbstractRouteDef] = (),
    wrong_tokens: WrongTokens | None = None,
) -> AsyncIterator[str]:
    """Serve the API, the status page and the `routes` during the block; yield the URL.

    Raises BadConfiguration if the address cannot be bound.
    """
    http, journal_reader = settings.http, shown.journal_reader
    wrong_tokens = wrong_tokens or WrongTokens()
    token = http.token.get_secret_value()

    def configured() -> Collection[str]:
        return [each.name for each in parts.reloader.settings.deliveries]

    async with background_work() as background:
        operations = described(
            [
                *_stream_operations(settings, parts, shown, background),
                *daemon_status(shown.daemon),
                *runs(journal_reader),
                *journal(journal_reader),
                *changes(journal_reader),
                *dead_letters(journal_reader),
                *dead_letter_actions(background, parts.supervisor.do, parts.store.find_open_dead_letters),
                *dead_letter_groups(journal_reader),
                *dead_letter_group_actions(background, parts.supervisor.do, journal_reader),
                *deliveries(parts.store.deliveries, configured, parts.clock.now),
                *shown.operations,
                *login(Sessions(token) if token else None, wrong_tokens, parts.clock.now),
            ]
        )
        served = [*routes, *routes_of(operations), *pages(asks_for_token=bool(token)), *runbooks()]
        async with serve(
            http.host,
            http.port,
            served,
            token=token,
            wrong_tokens=wrong_tokens,
            allowed=Allowed(http.allowed_hosts, http.allowed_origins),
        ) as url:
            yield url


def _stream_operations(
    settings: Settings, parts: Parts, shown: Shown, background: BackgroundWork
) -> list[AnyOperation]:
    supervisor, names = parts.supervisor, parts.registry.page_names

    def keys() -> Sequence[str]:
        return [stream.key for stream in supervisor.streams]

    def sync_settings() -> SyncSettings:
        return parts.reloader.settings.sync

    overview = Overview(shown.journal_reader, shown.live, parts.clock.now, keys, names, sync_settings, shown.daemon)
    changes = overview_changes(overview, parts.clock.now(), is_simulated=settings.source.kind == "simulator")
    return [*streams(overview), *changes, *stream_actions(background, supervisor.ask, keys)]
