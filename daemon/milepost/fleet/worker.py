"""One worker of a fleet: queues streams that are due, takes leases, runs them, and follows the journal."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import groupby
from typing import TypeVar

import structlog

from milepost.core.checkpoint import Checkpoint, is_ahead
from milepost.core.errors import MilepostError
from milepost.core.events import RunStarted, StreamResumed, SweepCompleted, SyncRequested
from milepost.core.evolve import evolve
from milepost.core.model import Platform, Stream
from milepost.core.ports import Committed
from milepost.core.retry import MAX_PARK_SECONDS
from milepost.engine.context import EngineContext
from milepost.engine.feed import Feed, Recorded
from milepost.engine.interrupt import Interrupt
from milepost.engine.supervisor import Supervisor
from milepost.fleet.leases import Lease, Leases, open_leases
from milepost.fleet.schedule import FleetSchedule
from milepost.stores.postgresql.connection import connected
from milepost.stores.postgresql.reader import listening
from milepost.stores.reader import JournalReader, StoredEntry, load_statements
from milepost.stores.url import StoreUrl

HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 2.0  # between polls of the queue for new jobs, and of the journal in case a notification was lost
MIN_POLL_SECONDS = 0.05
RETRY_SECONDS = 2.0  # while the database is unavailable
ENTRIES_AT_ONCE = 500
GRACE_SECONDS = 10.0  # for the others' heartbeats after an outage of the database, when none could be sent

Result = TypeVar("Result")
Share = Callable[[str, int], None]

log = structlog.get_logger("milepost")


class JournalFollower:
    """Follows the journal from where it ended when this worker started. `checkpoints` are as of the last entry read."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._seq, self._hash = 0, ""  # of the last entry that was read
        self.checkpoints: dict[Stream, Checkpoint] = {}
        self._reading = asyncio.Lock()

    async def begin(self) -> None:
        """Load the checkpoints of all streams."""
        (last,) = await self._journal_reader.latest(limit=1) or (None,)
        # Loaded after the seq, so that nothing in between is missed; reading an entry twice changes nothing.
        self.checkpoints = {each.stream: each for each in await self._journal_reader.checkpoints()}
        self._seq, self._hash = (0, "") if last is None else (last.seq, last.entry.hash)

    async def catch_up(self, on_commit: Callable[[Recorded], None]) -> None:
        """Read all new entries and report them as commits. Raises StoreAway or StoreRefused."""
        async with self._reading:
            while stored := await self._following():
                for notice in self._commits(stored):
                    on_commit(notice)
                self._seq, self._hash = stored[-1].seq, stored[-1].entry.hash

    async def _following(self) -> list[StoredEntry]:
        """Return the entries after the last one that was read. If the journal has lost that, begin at its end."""
        if self._seq == 0:
            return await self._journal_reader.entries(after=0, limit=ENTRIES_AT_ONCE)
        last, *following = await self._journal_reader.entries(after=self._seq - 1, limit=ENTRIES_AT_ONCE) or (None,)
        if last is not None and last.entry.hash == self._hash:
            return following
        hint = "what is missing is read again; a failover loses what its replica had not received, as a restore does"
        log.warning("the journal has lost its last entries", seq=self._seq, hint=hint)
        await self.begin()
        return []

    def _commits(self, stored: Iterable[StoredEntry]) -> Iterator[Recorded]:
        """Yield consecutive entries of one stream as one commit."""
        for stream, group in groupby(stored, key=lambda each: each.entry.stream):
            together = list(group)
            checkpoint = self.checkpoints.get(stream) or Checkpoint(stream)
            for each in together:
                if each.entry.version > checkpoint.version:
                    checkpoint = evolve(checkpoint, each.entry)
            self.checkpoints[stream] = checkpoint
            committed = Committed(together[0].seq, 0.0, 0.0)
            yield Recorded(tuple(each.entry for each in together), committed, checkpoint, 0.0, None)


class Worker:
    """Runs those of the supervisor's streams that it has leases for.

    `announced` is set when any worker has written to the journal. `feed` has the commits of all workers. `share` is
    called with the number of workers that call the API for a page.
    """

    def __init__(
        self,
        engine: EngineContext,
        supervisor: Supervisor,
        leases: Leases,
        follower: JournalFollower,
        announced: Interrupt,
        share: Share,
    ) -> None:
        self.feed = Feed()
        self._engine = engine
        self._supervisor = supervisor
        self._leases = leases
        self._follower = follower
        self._announced = announced
        self._share = share
        self._schedule = FleetSchedule(
            lambda: follower.checkpoints, engine.clock, lambda stream: supervisor.mailbox(stream).is_prompted
        )
        self._wake = Interrupt()  # set when there may be something to offer or to take
        self._held: dict[Stream, Lease] = {}
        self._loading = 0  # streams whose runs take their slots once their checkpoints are loaded
        self._has_reported_skew = False

    async def run(self) -> None:
        """Run streams until a stop is requested, then finish the runs under way."""
        async with asyncio.TaskGroup() as beside:
            tasks = [
                beside.create_task(self._repeated("heartbeat", self._send_heartbeats), name="heartbeat"),
                beside.create_task(self._repeated("journal", self._follow_journal), name="follower"),
            ]
            async with asyncio.TaskGroup() as slots:
                while not self._engine.stop.is_requested:
                    self._wake.clear()
                    self._supervisor.prompted.clear()
                    await self._unless_away("queue", self._offer_and_take(slots))
                    await self._rest()
            for task in tasks:  # only after the last run, because a worker without heartbeats is declared dead
                task.cancel()

    async def is_first(self) -> bool:
        """Return whether this worker does the work that only one worker may do. Raises StoreAway or StoreRefused."""
        return await self._leases.is_first()

    async def is_elsewhere(self, stream: Stream) -> bool:
        """Return whether another worker has a stream now. Raises StoreAway or StoreRefused."""
        return stream not in self._held and await self._leases.is_held_elsewhere(stream.key)

    # --- runs ---

    async def _offer_and_take(self, slots: asyncio.TaskGroup) -> None:
        """Queue every stream that is due, and take as many leases as there are free slots."""
        await self._leases.release_all_but({lease.job_id for lease in self._held.values()})
        now, idle = self._engine.clock.now(), self._idle()
        due = self._due(now)
        await self._leases.offer(stream.key for stream in idle if (at := due(stream, None)) is not None and at <= now)
        while self._has_free_slot and not self._engine.stop.is_requested:
            lease = await self._leases.take([stream.key for stream in self._idle()])
            if lease is None:
                break
            stream = Stream.parse(lease.stream)
            self._held[stream] = lease
            slots.create_task(self._work(stream, lease), name=f"run of {lease.stream}")
            await asyncio.sleep(0)  # it begins to load, so that `_has_free_slot` is up to date
        # While there are free slots here, another worker has the lease, or is about to take it.
        late = [] if self._has_free_slot else self._idle()
        self._engine.slots.note_due(stream for stream in late if (at := due(stream, None)) is not None and at <= now)

    @property
    def _has_free_slot(self) -> bool:
        return self._engine.slots.free > self._loading

    async def _work(self, stream: Stream, lease: Lease) -> None:
        """Run a stream, unless it is no longer due: another worker may have been faster.

        If its checkpoint cannot be loaded, the run notes that as its failure, or waits for the database.
        """
        try:
            loaded = await self._load(stream)
            before = loaded or self._follower.checkpoints.get(stream) or Checkpoint(stream)
            if loaded is not None and not self._is_still_due(stream, loaded):
                self._postpone(stream, POLL_SECONDS)  # until then, its entries should have been read
                return
            self._share_page_of(stream)
            request = self._supervisor.mailbox(stream).take_run_request()
            is_full = self._schedule.wants_full(stream) or (request is not None and request.full)
            await self._supervisor.run_once(stream, full=is_full)
            await self._unless_away("journal", self._follower.catch_up(self._on_commit))
            self._postpone_if_nothing_happened(stream, before)
        finally:
            await self._unless_away("queue", self._leases.end(lease))
            del self._held[stream]
            self._share_page_of(stream)
            self._wake.set()

    async def _load(self, stream: Stream) -> Checkpoint | None:
        """Return the stream's checkpoint; None if the database is unavailable."""
        self._loading += 1
        try:
            return await self._unless_away("store", self._engine.store.load(stream))
        finally:
            self._loading -= 1

    def _is_still_due(self, stream: Stream, checkpoint: Checkpoint) -> bool:
        """Check again, now with the lease. A run that is still open was left by a worker that died."""
        if stream not in self._supervisor.streams:  # its page was removed meanwhile
            return False
        now, run = self._engine.clock.now(), checkpoint.run
        at = self._due(now)(stream, checkpoint)
        is_abandoned = run is not None and run.ended_at is None and checkpoint.operator_pause is None
        return is_abandoned or (at is not None and at <= now)

    def _idle(self) -> list[Stream]:
        return [stream for stream in self._supervisor.streams if stream not in self._held]

    def _due(self, now: datetime) -> Callable[[Stream, Checkpoint | None], datetime | None]:
        """Return a function that returns when a stream is due, seen from one instant for all streams."""
        holds, schedule = self._engine.rate_limits.holds(), self._supervisor.schedule

        def due(stream: Stream, checkpoint: Checkpoint | None) -> datetime | None:
            if self._supervisor.mailbox(stream).run_requested:  # the cause of its stop was fixed
                return now
            return self._schedule.due_at(stream, now, schedule, holds(stream), checkpoint)

        return due

    def _postpone_if_nothing_happened(self, stream: Stream, before: Checkpoint) -> None:
        """Keep a run that recorded nothing from being repeated at once.

        Either nothing could be recorded, or there was nothing to do. A stream under a rate limit continues when the
        limit ends.
        """
        now, after = self._engine.clock.now(), self._follower.checkpoints.get(stream)
        held_until = self._engine.rate_limits.held_until(stream)
        is_held = held_until is not None and held_until > now
        if not is_held and (after is None or after.version <= before.version):
            self._postpone(stream, min(self._supervisor.schedule.interval_seconds, MAX_PARK_SECONDS))

    def _postpone(self, stream: Stream, seconds: float) -> None:
        self._schedule.postpone(stream, self._engine.clock.now() + timedelta(seconds=seconds))

    async def _rest(self) -> None:
        """Wait until a stream may be due, but at most until the next poll of the queue."""
        await asyncio.sleep(MIN_POLL_SECONDS)
        now = self._engine.clock.now()
        due = self._due(now)
        next_at = min((at for stream in self._idle() if (at := due(stream, None)) is not None), default=None)
        seconds = POLL_SECONDS if next_at is None or next_at <= now else (next_at - now).total_seconds()
        prompted = self._supervisor.prompted
        async with self._engine.stop.interruptible(self._wake, prompted):
            await self._engine.clock.sleep_until(now + timedelta(seconds=min(seconds, POLL_SECONDS)))

    def _share_page_of(self, stream: Stream) -> None:
        """Halve a page's pace while another worker runs its other stream: the platform limits the whole page."""
        siblings = [Stream(platform, stream.page_id) for platform in Platform]
        is_here = any(each in self._held for each in siblings)
        is_elsewhere = any(self._is_open(each) for each in siblings if each not in self._held)
        self._share(stream.page_id, 2 if is_here and is_elsewhere else 1)

    def _is_open(self, stream: Stream) -> bool:
        checkpoint = self._follower.checkpoints.get(stream)
        run = checkpoint.run if checkpoint is not None else None
        return run is not None and run.ended_at is None

    # --- the journal ---

    async def _follow_journal(self) -> None:
        while True:
            self._announced.clear()
            await self._follower.catch_up(self._on_commit)
            async with self._announced.interruptible():
                await asyncio.sleep(POLL_SECONDS)

    def _on_commit(self, notice: Recorded) -> None:
        stream = notice.checkpoint.stream
        mailbox = self._supervisor.mailbox(stream)
        self._engine.rate_limits.observe(notice.checkpoint)
        mailbox.observe_version(notice.checkpoint.version)
        self._schedule.on_entries(notice.entries)
        self._report_skew(max(entry.recorded_at for entry in notice.entries))
        for entry in notice.entries:
            match entry.event:
                case SyncRequested() | StreamResumed():
                    mailbox.take_run_request()  # the schedule of every worker has it
                case RunStarted(started_at=started_at) | SweepCompleted(run_started_at=started_at):
                    mailbox.observe_run(started_at)
                case _:
                    pass
        self._share_page_of(stream)
        self.feed.publish(notice)
        if not self._is_open(stream):
            self._wake.set()

    def _report_skew(self, recorded_at: datetime) -> None:
        """Log once that another worker's clock is ahead of ours."""
        now = self._engine.clock.now()
        if self._has_reported_skew or not is_ahead(recorded_at, now):
            return
        self._has_reported_skew = True
        log.warning(
            "clocks differ between workers",
            ahead_seconds=round((recorded_at - now).total_seconds()),
            hint="nothing waits longer for it; check time synchronization (timedatectl) on every worker's machine",
        )

    # --- heartbeats ---

    async def _send_heartbeats(self) -> None:
        recovers_from = self._engine.clock.steady() + GRACE_SECONDS
        while True:
            await self._leases.keep_alive()
            if self._engine.clock.steady() >= recovers_from:
                await self._recover()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _recover(self) -> None:
        recovered = await self._leases.recover()
        for stream in recovered:
            log.warning("stream reassigned", stream=stream, hint="the worker that ran it is dead or hangs")
        if recovered:
            self._wake.set()

    async def _repeated(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Repeat a part of the work, whether or not the database is available."""
        while True:
            await self._unless_away(name, part())
            await asyncio.sleep(RETRY_SECONDS)

    async def _unless_away(self, name: str, work: Awaitable[Result]) -> Result | None:
        """Return the result, or None if the database is unavailable; callers retry later."""
        try:
            return await work
        except MilepostError as error:
            log.warning("database unavailable, retrying", part=name, reason=error.message, hint=error.hint)
            return None


@asynccontextmanager
async def joined(
    store_url: StoreUrl, engine: EngineContext, supervisor: Supervisor, journal_reader: JournalReader, share: Share
) -> AsyncIterator[Worker]:
    """Join the workers on a PostgreSQL database, and leave at the end. Raises StoreRefused or StoreAway."""
    announced, follower = Interrupt(), JournalFollower(journal_reader)
    async with (
        connected(store_url, load_statements("postgresql", "statements", "queue")) as database,
        open_leases(database) as leases,
        listening(store_url, announced.set),
    ):
        await follower.begin()
        yield Worker(engine, supervisor, leases, follower, announced, share)
