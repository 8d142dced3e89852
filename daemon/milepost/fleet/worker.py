"""One worker of a fleet: offers what is due, takes turns, works them, and hears what the others write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError
from milepost.core.events import StreamResumed, SyncRequested
from milepost.core.model import Platform, Stream
from milepost.core.skew import is_ahead
from milepost.engine.context import EngineContext
from milepost.engine.feed import Feed, Recorded
from milepost.engine.interrupt import Interrupt
from milepost.engine.supervisor import Supervisor
from milepost.fleet.follower import JournalFollower
from milepost.fleet.leases import Lease, Leases, open_queue
from milepost.fleet.schedule import FleetSchedule
from milepost.stores.postgresql.connection import connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.notify import listening
from milepost.stores.reader import JournalReader
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 2.0  # at the queue, for what others have offered, and at the journal, should an announcement be lost
LEAST_SECONDS = 0.05  # between two looks
RETRY_SECONDS = 2.0  # while the database does not answer
GRACE_SECONDS = 10.0  # for the others to give a sign of life, after the database was away: all were silent then

Answer = TypeVar("Answer")
Share = Callable[[str, int], None]

log = structlog.get_logger("milepost")


class Worker:
    """Works the supervisor's streams as far as they are given to it.

    `news` rings when somebody has written into the journal. `told` has every entry, whoever wrote it. `share` hears by
    how many workers a page is called for.
    """

    def __init__(
        self,
        engine: EngineContext,
        supervisor: Supervisor,
        queue: Leases,
        follower: JournalFollower,
        news: Interrupt,
        share: Share,
    ) -> None:
        self.told = Feed()
        self._engine = engine
        self._supervisor = supervisor
        self._queue = queue
        self._follower = follower
        self._news = news
        self._share = share
        self._schedule = FleetSchedule(lambda: follower.checkpoints, engine.clock)
        self._look = Interrupt()  # rings when there may be something to offer or to take
        self._in_hand: dict[Stream, Lease] = {}
        self._has_told_of_skew = False

    async def run(self) -> None:
        """Work until a stop is asked for, and then end the turns in hand."""
        async with asyncio.TaskGroup() as beside:
            tasks = [
                beside.create_task(self._kept("heartbeat", self._beat), name="heartbeat"),
                beside.create_task(self._kept("journal", self._follow), name="follower"),
            ]
            async with asyncio.TaskGroup() as slots:
                while not self._engine.stop.is_requested:
                    self._look.clear()
                    await self._tolerated("queue", self._offer_and_take(slots))
                    await self._rest()
            for task in tasks:  # not before the turns have ended: who is silent counts as dead
                task.cancel()

    # --- turns ---

    async def _offer_and_take(self, slots: asyncio.TaskGroup) -> None:
        """Offer every stream that is due, and take as many turns as there is room for."""
        await self._queue.give_back_all_but({lease.job_id for lease in self._in_hand.values()})
        now, idle = self._engine.clock.now(), self._idle()
        due = self._due(now)
        await self._queue.offer(stream.key for stream in idle if (at := due(stream, None)) is not None and at <= now)
        while not (self._engine.stop.is_requested or self._engine.slots.all_taken):
            lease = await self._queue.take([stream.key for stream in self._idle()])
            if lease is None:
                return
            stream = Stream.parse(lease.stream)
            self._in_hand[stream] = lease
            before = await self._tolerated("store", self._engine.store.load(lease.stream))
            slots.create_task(self._work(stream, lease, before), name=f"turn of {lease.stream}")
            await asyncio.sleep(0)  # it takes its place, so that `all_taken` knows of it

    async def _work(self, stream: Stream, lease: Lease, before: Checkpoint | None) -> None:
        """Work a stream's turn, unless it is not due any more: another worker may have been faster."""
        try:
            if before is None or not self._is_to_be_worked(stream, before):
                return
            self._share_page_of(stream)
            wanted = self._supervisor.take_run_request(stream)
            is_full = self._schedule.wants_full(stream) or (wanted is not None and wanted.full)
            await self._supervisor.run_once(stream, full=is_full)
            await self._tolerated("journal", self._follower.read_on(self._hear))
            self._put_off_what_came_to_nothing(stream, before)
        finally:
            await self._tolerated("queue", self._queue.end(lease))
            del self._in_hand[stream]
            self._share_page_of(stream)
            self._look.set()

    def _is_to_be_worked(self, stream: Stream, checkpoint: Checkpoint) -> bool:
        """Look again, with the turn in hand. A run that is open then was left by a worker that died."""
        if stream not in self._supervisor.streams:  # its page was dropped just now
            return False
        now, run = self._engine.clock.now(), checkpoint.run
        at = self._due(now)(stream, checkpoint)
        is_left = run is not None and run.ended_at is None and checkpoint.operator_pause is None
        return is_left or (at is not None and at <= now)

    def _idle(self) -> list[Stream]:
        return [stream for stream in self._supervisor.streams if stream not in self._in_hand]

    def _due(self, now: datetime) -> Callable[[Stream, Checkpoint | None], datetime | None]:
        """Give the question when a stream is to be worked, for asking about many."""
        holds, schedule = self._engine.rate_limits.holds(), self._supervisor.schedule

        def due(stream: Stream, checkpoint: Checkpoint | None) -> datetime | None:
            if self._supervisor.run_requested(stream):  # what was wrong with it is mended
                return now
            return self._schedule.due_at(stream, now, schedule, holds(stream), checkpoint)

        return due

    def _put_off_what_came_to_nothing(self, stream: Stream, before: Checkpoint) -> None:
        """A turn that has left nothing in the journal must not be followed by the next one at once.

        Nothing could be recorded, or there was nothing to do. What a limit holds goes on when that is over.
        """
        now, after = self._engine.clock.now(), self._follower.checkpoints.get(stream.key)
        held_until = self._engine.rate_limits.held_until(stream)
        is_held = held_until is not None and held_until > now
        if not is_held and (after is None or after.version <= before.version):
            self._schedule.put_off(stream, now + timedelta(seconds=self._supervisor.schedule.interval_seconds))

    async def _rest(self) -> None:
        """Wait until something is due, or may be; no longer than it takes others to offer something."""
        await asyncio.sleep(LEAST_SECONDS)
        now = self._engine.clock.now()
        due = self._due(now)
        next_at = min((at for stream in self._idle() if (at := due(stream, None)) is not None), default=None)
        seconds = LOOK_SECONDS if next_at is None or next_at <= now else (next_at - now).total_seconds()
        async with self._engine.stop.interruptible(), self._look.interruptible():
            await self._engine.clock.sleep_until(now + timedelta(seconds=min(seconds, LOOK_SECONDS)))

    def _share_page_of(self, stream: Stream) -> None:
        """The platform's pace is of a page: while its other stream is worked elsewhere, each has half of it."""
        siblings = [Stream(platform, stream.page_id) for platform in Platform]
        is_here = any(each in self._in_hand for each in siblings)
        is_elsewhere = any(self._is_open(each) for each in siblings if each not in self._in_hand)
        self._share(stream.page_id, 2 if is_here and is_elsewhere else 1)

    def _is_open(self, stream: Stream) -> bool:
        checkpoint = self._follower.checkpoints.get(stream.key)
        run = checkpoint.run if checkpoint is not None else None
        return run is not None and run.ended_at is None

    # --- the journal ---

    async def _follow(self) -> None:
        while True:
            self._news.clear()
            await self._follower.read_on(self._hear)
            async with self._news.interruptible():
                await asyncio.sleep(LOOK_SECONDS)

    def _hear(self, notice: Recorded) -> None:
        stream = Stream.parse(notice.checkpoint.stream)
        self._engine.rate_limits.observe(notice.checkpoint)
        self._supervisor.observe_version(stream, notice.checkpoint.version)
        self._schedule.hear(notice.entries)
        self._tell_of_skew(max(entry.recorded_at for entry in notice.entries))
        if any(isinstance(entry.event, SyncRequested | StreamResumed) for entry in notice.entries):
            self._supervisor.take_run_request(stream)  # the agenda knows of it, as that of every worker
        self._share_page_of(stream)
        self.told.publish(notice)
        if not self._is_open(stream):
            self._look.set()

    def _tell_of_skew(self, recorded_at: datetime) -> None:
        """Tell once that another worker's clock is ahead of ours."""
        now = self._engine.clock.now()
        if self._has_told_of_skew or not is_ahead(recorded_at, now):
            return
        self._has_told_of_skew = True
        log.warning(
            "clocks differ between workers",
            ahead_seconds=round((recorded_at - now).total_seconds()),
            hint="nothing waits longer for it; check time synchronization (timedatectl) on every worker's machine",
        )

    # --- staying alive ---

    async def _beat(self) -> None:
        watches_from = self._engine.clock.steady() + GRACE_SECONDS
        while True:
            await self._queue.keep_alive()
            if self._engine.clock.steady() >= watches_from:
                await self._recover()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _recover(self) -> None:
        recovered = await self._queue.recover()
        for stream in recovered:
            log.warning("stream given to others", stream=stream, hint="the worker that had it is dead, or hangs")
        if recovered:
            self._look.set()

    async def _kept(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Keep a part going, however often the database is away."""
        while True:
            await self._tolerated(name, part())
            await asyncio.sleep(RETRY_SECONDS)

    async def _tolerated(self, name: str, work: Awaitable[Answer]) -> Answer | None:
        """Await what may fail because the database is away: whoever calls tries it again, sooner or later."""
        try:
            return await work
        except MilepostError as error:
            log.warning("fleet waits", part=name, reason=error.message)
            return None


@asynccontextmanager
async def joined(
    store_url: StoreUrl, engine: EngineContext, supervisor: Supervisor, journal_reader: JournalReader, share: Share
) -> AsyncIterator[Worker]:
    """Join the workers on a PostgreSQL database; leave them in the end. Raises StoreRefused or StoreAway."""
    news, follower = Interrupt(), JournalFollower(journal_reader)
    async with (
        connected(
            dsn_of(store_url), load_statements("postgresql") | load_statements("postgresql", "queue")
        ) as database,
        open_queue(database) as queue,
        listening(store_url, news.set),
    ):
        await follower.begin()
        yield Worker(engine, supervisor, queue, follower, news, share)
