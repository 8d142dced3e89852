"""Notices to people: watches for what needs a person, decides which notices are due, and has them sent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.dead_letters import group_of
from milepost.core.errors import MilepostError
from milepost.core.events import DeadLetterOpened, Entry
from milepost.core.notices import (
    APART,
    SETTLE,
    NewDeadLetter,
    NoticeKind,
    NoticeState,
    PeopleNotice,
    Situation,
    decide_notices,
    situation_of,
    state_at_start,
)
from milepost.core.ports import Clock
from milepost.engine.feed import Notice, Recorded
from milepost.engine.interrupt import Stop
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.humanize import counted
from milepost.reporting.notices import concerns_of_daemon, is_of_this_process, notice_in_words
from milepost.service.metrics.traffic import NoticeCounter
from milepost.service.notices import NoticeSender, destinations, urls_of
from milepost.settings.model import Settings
from milepost.stores.reader import JournalReader

LOOK_SECONDS = 5.0
PUMP_SECONDS = 1.0
HANDOVER_SECONDS = 30.0  # a few seconds longer than it takes to find out that the notifying worker is dead
ASK_SECONDS = 30.0  # between checks of which worker notifies: it cannot be asked while the database is away
LAST_SECONDS = 5.0  # at shutdown, for the notices that are still to be sent
LAST_LOOK_SECONDS = 0.05
MAX_LOADED = 10_000  # entries of the last hour
ADVICE = "see `milepost notify test`, and check notify.urls"

log = structlog.get_logger("milepost")


class Observed(Struct, frozen=True, eq=False):
    """What is watched: the streams' checkpoints, the daemon's issues, and the journal.

    `is_notifier` finds out whether this worker is the one that notifies people; it may raise MilepostError.
    """

    checkpoints: Callable[[], Sequence[Checkpoint]]
    issues: Callable[[], Sequence[Issue]]
    journal_reader: JournalReader
    is_notifier: Callable[[], Awaitable[bool]]


class NoticeWatch:
    """Notifies people. Every worker of a fleet comes to the same decisions, and one of them sends."""

    def __init__(self, observed: Observed, settings: Callable[[], Settings], clock: Clock) -> None:
        self.counter = NoticeCounter()
        self._observed = observed
        self._settings = settings
        self._clock = clock
        self._sender = NoticeSender(clock, self.counter.count)
        self._urls = urls_of(settings())
        self._adopted: tuple[str, ...] = ()
        self._refusal: Issue | None = None
        self._state: NoticeState | None = None  # None: nothing is watched
        self._opened: list[tuple[int, NewDeadLetter]] = []  # with their seq
        self._decided: list[tuple[float, PeopleNotice]] = []  # with when, by the steady clock
        self._is_notifier = False
        self._ask_at = 0.0

    def read(self, notice: Notice) -> None:
        """Take in the dead letters that were opened."""
        if isinstance(notice, Recorded) and self._urls:
            for seq, entry in enumerate(notice.entries, notice.committed.first_seq):
                self._opened.extend((seq, each) for each in _opened_in(entry))

    async def begin(self) -> None:
        """Find out which notices went out before the start. Whatever happens from now on is new."""
        if self._urls:
            await self._has_begun()

    async def run(self, stop: Stop) -> None:
        """Watch and notify until a stop is requested, and then send what is left."""
        look_at = self._clock.steady()
        while not stop.is_requested:
            if self._clock.steady() >= look_at:
                await self.look()
                look_at = self._clock.steady() + LOOK_SECONDS
            self._sender.pump()
            await stop.sleep(self._clock, PUMP_SECONDS)
        await self._end()

    async def look(self, settle: timedelta = SETTLE) -> None:
        """Decide once which notices are due, and have them sent."""
        settings = self._settings()
        await self._adopt(urls_of(settings))
        if not self._urls or not await self._has_begun():
            return
        now, opened, state = self._clock.now(), [each for _, each in self._opened], self._state or NoticeState()
        self._opened.clear()
        on = frozenset(map(NoticeKind, settings.notify.on))
        self._state, notices = decide_notices(state, self._situation(now), opened, now, on, settle)
        self._decided.extend((self._clock.steady(), each) for each in notices)
        await self._notify(now)

    def issues(self) -> Iterator[Issue]:
        """Yield an issue for URLs that cannot be sent to, and one for the destinations that accept no notices."""
        if self._refusal is not None:
            yield self._refusal
        failing = list(self._sender.failing())
        if failing:
            what = f"notices to people are not accepted by {counted(len(failing), 'destination')}"
            reason = "; ".join(f"{each.name}: {each.reason}" for each in failing)
            yield Issue(IssueKind.NOTICES, what, min(each.since for each in failing), reason, ADVICE)

    # --- the configuration and the beginning ---

    async def _adopt(self, urls: tuple[str, ...]) -> None:
        if urls == self._adopted:
            return
        if not urls:  # when notices are turned on again, they begin with what happens after that
            self._state, self._opened = None, []
        self._urls = urls
        try:
            found = await asyncio.to_thread(destinations, urls)
        except MilepostError as error:
            what = "notices to people cannot be sent to the URLs of the configuration"
            self._refusal = Issue(IssueKind.NOTICES, what, self._clock.now(), error.message, error.hint)
            log.error("notices cannot be sent", error=error.message, hint=error.hint)  # noqa: TRY400  (nothing to trace)
        else:
            self._refusal = None
            self.counter.expect(each.name for each in found)
            self._sender.adopt(dict(zip(urls, found, strict=True)))
        self._adopted = urls

    async def _has_begun(self) -> bool:
        """Find out, once, which notices went out before the start; return whether that is known."""
        if self._state is not None:
            return True
        now = self._clock.now()
        situation = self._situation(now)  # before anything is awaited: whatever happens meanwhile is new
        try:
            as_of, newest, opened = await self._load(now)
        except MilepostError:
            return False
        self._state = state_at_start(situation, opened, min(as_of, now), now)
        self._opened = [(seq, each) for seq, each in self._opened if seq > newest]
        return True

    async def _load(self, now: datetime) -> tuple[datetime, int, list[NewDeadLetter]]:
        """Return when the journal's last entry was recorded, its seq, and the dead letters of the last hour."""
        reader = self._observed.journal_reader
        (last,) = await reader.latest(limit=1) or (None,)
        if last is None:
            return now, 0, []
        seq, opened = max(await reader.seq_before(now - APART), last.seq - MAX_LOADED), list[NewDeadLetter]()
        while seq < last.seq and (stored := await reader.entries(after=seq, limit=min(1_000, last.seq - seq))):
            opened.extend(each for one in stored if one.seq <= last.seq for each in _opened_in(one.entry))
            seq = stored[-1].seq
        return last.entry.recorded_at, last.seq, opened

    def _situation(self, now: datetime) -> Situation:
        of_daemon = concerns_of_daemon(self._observed.issues(), now)
        return situation_of(self._observed.checkpoints(), now, of_daemon)

    # --- notifying ---

    async def _notify(self, now: datetime) -> None:
        """Send the decided notices if this worker notifies; otherwise hold them until another one has sent them."""
        may_notify = await self._may_notify()
        for _, notice in self._decided:
            if may_notify or is_of_this_process(notice):
                self._sender.send(notice_in_words(notice, now))
        since = self._clock.steady() - HANDOVER_SECONDS
        held = [(at, each) for at, each in self._decided if at > since and not is_of_this_process(each)]
        self._decided = [] if may_notify else held
        self._sender.pump()

    async def _may_notify(self) -> bool:
        """Return whether this worker notifies. Asks when there is a notice, and often enough to know beforehand."""
        if not self._decided and self._clock.steady() < self._ask_at:
            return self._is_notifier
        self._ask_at = self._clock.steady() + ASK_SECONDS
        with suppress(MilepostError):  # while the database is away, the last answer holds
            self._is_notifier = await self._observed.is_notifier()
        return self._is_notifier

    async def _end(self) -> None:
        """Send what is new and what waits. The notices of another worker are left to the workers that go on."""
        self._decided.clear()
        await self.look(timedelta(0))
        for _ in range(round(LAST_SECONDS / LAST_LOOK_SECONDS)):
            self._sender.pump()
            if self._sender.is_idle:
                return
            await asyncio.sleep(LAST_LOOK_SECONDS)


def _opened_in(entry: Entry) -> Iterator[NewDeadLetter]:
    match entry.event:
        case DeadLetterOpened(stage=stage, reason=reason):
            yield NewDeadLetter(group_of(stage, reason), stage, reason, entry.stream, entry.recorded_at)
        case _:
            return
