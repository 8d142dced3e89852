"""The daemon: the streams, the HTTP service, and everything that runs beside them."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from aiohttp import web
from msgspec import Struct

from milepost import __version__
from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.app.deliveries import Deliveries
from milepost.app.health import Health
from milepost.app.notices import NoticeWatch, Observed
from milepost.app.reload import Configuration
from milepost.app.store_watch import StoreSize, StoreWatch
from milepost.app.webhooks import Webhooks
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Feed, Reader, reading
from milepost.engine.interrupt import Interrupt, Stop, stopping_on_signals
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
from milepost.service.api.endpoint import AnyOperation, routes_of
from milepost.service.api.journal import journal, runs
from milepost.service.api.login import login
from milepost.service.api.openapi import described
from milepost.service.api.overview import daemon_status, deliveries, overview_changes
from milepost.service.api.streams import Overview, stream_actions, streams
from milepost.service.auth import Sessions
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.changes import ChangeStream, change_stream, changes
from milepost.service.events.route import event_stream
from milepost.service.http import Allowed, serve
from milepost.service.limits import WrongTokens
from milepost.service.logs.dedup import Deduplicator
from milepost.service.logs.journal import JournalLog
from milepost.service.logs.redaction import Redactor
from milepost.service.metrics.collect import Metrics
from milepost.service.page.pages import pages, runbooks
from milepost.service.probes import exposition, probes
from milepost.service.systemd import Notifier, keep_notified, starting
from milepost.settings import Settings, SyncSettings
from milepost.stores.open import OpenStore, open_reader
from milepost.stores.reader import JournalReader

log = structlog.get_logger("milepost")


class Logging(Struct, frozen=True, eq=False):
    """The parts of the configured logging that the daemon goes on to use."""

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
        observers = await _observers(settings, parts, journal_reader, logging.redactor.redact)
        notices = _notice_watch(parts, observers, driver)
        await notices.begin()
        is_shared = driver.journal_feed is not parts.feed
        async with (
            serving(settings, parts, observers.shown, observers.routes, observers.wrong_tokens) as url,
            observers.webhooks.listening(settings),
            observers.broadcast.running(),
            observers.changes.running(),
            reading(parts.feed, observers.of_this_process()),
            reading(driver.journal_feed, {**observers.of_the_journal(is_shared=is_shared), "notices": notices.read}),
            asyncio.TaskGroup() as tasks,
        ):
            ready()
            _log_start(settings, parts, url)
            background = {
                "reload": parts.reloader.run(configuration, reload_requested, parts.clock, stop),
                "discovery": parts.discovery.run(parts.clock, stop),
                "token watch": parts.token_watch.run(parts.clock, stop),
                **observers.background(parts.clock, stop),
                "notices": notices.run(stop),
                "systemd": keep_notified(systemd, observers.status_line, parts.supervisor.stalled, parts.clock, stop),
            }
            for name, work in background.items():
                tasks.create_task(bulkhead(name, work), name=name)
            await driver.run()
    log.info("stopped", hint="the next start resumes from the last committed batch")


def _log_start(settings: Settings, parts: Parts, url: str) -> None:
    count = len(parts.supervisor.streams)
    log.info("started", version=__version__, streams=count, store=settings.store.url, http=url)
    if settings.source.kind == "simulator":
        log.info("this world is simulated", hint="to sync pages of your own, see the Facebook block of config.yaml")


# --- who runs the streams ---------------------------------------------------------------------------------------------


class _Driver(Struct, frozen=True, eq=False):
    """Runs the streams until a stop is requested. `journal_feed` has every entry of the journal, whoever wrote it.

    `is_first` finds out whether this is the worker that does what only one of them does.
    """

    run: Callable[[], Awaitable[None]]
    journal_feed: Feed
    is_first: Callable[[], Awaitable[bool]]


@asynccontextmanager
async def _driver(settings: Settings, parts: Parts, journal_reader: JournalReader) -> AsyncIterator[_Driver]:
    """Let the supervisor run all streams or, on PostgreSQL, share them with the other workers of the fleet."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        yield _Driver(parts.supervisor.run, parts.feed, _is_alone)
        return
    from milepost.fleet.worker import joined  # noqa: PLC0415

    async with joined(store_url, parts.engine, parts.supervisor, journal_reader, parts.registry.share) as worker:
        yield _Driver(worker.run, worker.feed, worker.is_first)


async def _is_alone() -> bool:
    return True


# --- who observes them ------------------------------------------------------------------------------------------------


class Shown(Struct, frozen=True, eq=False):
    """What the API shows: the journal, what streams and daemon are doing, and the operations of other observers."""

    journal_reader: JournalReader
    live: LiveStreams
    daemon: Callable[[], DaemonStatus]
    operations: Sequence[AnyOperation]


class _Observers(Struct, frozen=True, eq=False):
    """The readers of the feeds, and what HTTP serves of them."""

    metrics: Metrics
    store_watch: StoreWatch
    store_size: StoreSize
    health: Health
    webhooks: Webhooks
    deliveries: Deliveries
    status_line: Callable[[], str]
    broadcast: Broadcast
    changes: ChangeStream
    activity: Activity
    shown: Shown
    routes: Sequence[web.AbstractRouteDef]
    wrong_tokens: WrongTokens

    def of_this_process(self) -> Mapping[str, Reader]:
        """Return the readers of what this process does."""
        return {
            "metrics": self.metrics.read,
            "log": JournalLog().read,
            "events": self.broadcast.read,
            "changes": self.changes.read,
            "live view": self.shown.live.read,
            "store watch": self.store_watch.read,
            "webhooks": self.webhooks.judge.read,
        }

    def of_the_journal(self, *, is_shared: bool) -> Mapping[str, Reader]:
        """Return the readers of the whole journal, which other workers may write, too."""
        readers: dict[str, Reader] = {"activity": self.activity.read, "deliveries": self.deliveries.dispatcher.read}
        if is_shared:
            readers |= {
                "events of others": self.broadcast.read,
                "changes of others": self.changes.read,
                "live view of others": self.shown.live.read,
                "store watch of others": self.store_watch.read,
            }
        return readers

    def background(self, clock: Clock, stop: Stop) -> Mapping[str, Coroutine[None, None, None]]:
        """Return what the observers do until a stop is requested."""
        return {
            "store watch": self.store_watch.run(stop),
            "store size": self.store_size.run(clock, stop),
            "webhooks": self.webhooks.work(stop),
            "judge of webhooks": self.webhooks.judge.run(stop),
            "subscriptions": self.webhooks.watch_subscriptions(clock, stop),
            "deliveries": self.deliveries.dispatcher.run(stop),
        }


async def _observers(
    settings: Settings, parts: Parts, journal_reader: JournalReader, redact: Callable[[str], str]
) -> _Observers:
    """Make the observers, and bring them up to the journal's end."""
    wrong_tokens, now, store_watch = WrongTokens(), parts.clock.now, _store_watch(parts)
    live = LiveStreams(now, lambda: parts.engine.slots.waiting, lambda: store_watch.outage is not None)
    webhooks, outgoing = Webhooks(parts), Deliveries(parts, journal_reader)
    health = Health(parts, store_watch, live, webhooks, outgoing, redact)
    metrics = _metrics(settings, parts, live, store_watch)
    for collector in (wrong_tokens, webhooks.counter, outgoing.counter):
        metrics.register(collector)
    store_size = StoreSize(parts.store.size_bytes)
    await store_size.measure()  # so that the first scrape has it
    metrics.add_store_size(lambda: store_size.bytes)
    for stream in parts.supervisor.streams:
        live.load(await parts.store.load(stream))
    broadcast, activity = Broadcast(journal_reader, now), Activity(now)
    await activity.load(journal_reader)
    followed = ChangeStream(journal_reader)
    operations = [*event_stream(broadcast), *change_stream(followed), *recent_activity(activity.past)]
    usable = partial(_demand_usable, parts.store)
    routes = [*probes(usable, health.why_unready), *exposition(metrics.expose)]
    shown = Shown(journal_reader, live, health.status, operations)

    def status_line() -> str:
        return health.status_line(live.status_line(parts.supervisor.streams))

    return _Observers(
        metrics=metrics,
        store_watch=store_watch,
        store_size=store_size,
        health=health,
        webhooks=webhooks,
        deliveries=outgoing,
        status_line=status_line,
        broadcast=broadcast,
        changes=followed,
        activity=activity,
        shown=shown,
        routes=routes,
        wrong_tokens=wrong_tokens,
    )


def _notice_watch(parts: Parts, observers: _Observers, driver: _Driver) -> NoticeWatch:
    live, health, supervisor = observers.shown.live, observers.health, parts.supervisor
    observed = Observed(
        lambda: live.latest(supervisor.streams), health.issues, observers.shown.journal_reader, driver.is_first
    )
    notices = NoticeWatch(observed, lambda: parts.reloader.settings, parts.clock)
    observers.metrics.register(notices.counter)
    health.add(notices.issues)
    return notices


def _metrics(settings: Settings, parts: Parts, live: LiveStreams, store_watch: StoreWatch) -> Metrics:
    metrics = Metrics(live)
    metrics.add_page_names(parts.registry.page_names)
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
        if stream not in supervisor.streams:
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
