"""The watch that tells people: what it begins with, which of several workers tells, and what it does at the end."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from pydantic import SecretStr

from kit.builders import NETWORK, NOON, STREAM, at
from kit.notices import recorded
from kit.virtual_time import LeapingClock
from milepost.app import notices
from milepost.app.notices import HANDOVER_SECONDS, NoticeWatch, Observed
from milepost.core.checkpoint import Checkpoint, FailureStreak
from milepost.core.errors import BadConfiguration, StoreAway
from milepost.core.events import DeadLetterOpened, Reason, Stage
from milepost.core.notices import SETTLE
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded
from milepost.engine.interrupt import Stop
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.notices import NoticeText
from milepost.service.notices import Destination
from milepost.settings.model import Settings
from milepost.stores.reader import JournalReader, StoredEntry

ON = Settings.model_validate({"notify": {"urls": ("json://people",)}})
OFF = Settings()
STOPPED = Checkpoint(STREAM, failure_streak=FailureStreak(Reason.AUTHORIZATION, NOON, 1, NETWORK))
STALLED = Issue(IssueKind.STALLED, "streams are stalled")


class People:
    """A destination."""

    name = "json://people"

    def __init__(self) -> None:
        self.got: list[str] = []
        self.reason: str | None = None

    def send(self, text: NoticeText) -> str | None:
        if self.reason is None:
            self.got.append(text.title.removeprefix("Milepost: "))
        return self.reason


class Journal:
    """The part of a JournalReader that the watch reads."""

    def __init__(self) -> None:
        self.stored: list[StoredEntry] = []
        self.is_away = False

    async def latest(self, *, limit: int) -> Sequence[StoredEntry]:
        if self.is_away:
            raise StoreAway("away")
        return self.stored[-limit:]

    async def seq_before(self, _: object) -> int:
        return 0

    async def entries(self, *, after: int, limit: int) -> Sequence[StoredEntry]:
        return [each for each in self.stored if each.seq > after][:limit]

    def add(self, commit: Recorded) -> None:
        self.stored += [
            StoredEntry(commit.committed.first_seq + index, entry) for index, entry in enumerate(commit.entries)
        ]


class World:
    """A worker, the people that it may tell, and what is the case."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings = ON) -> None:
        self.people = People()
        self.journal = Journal()
        self.clock = LeapingClock(Stop())
        self.clock.ends_at = at(1e9)
        self.settings = settings
        self.checkpoints: list[Checkpoint] = []
        self.issues: list[Issue] = []
        self.is_notifier = True
        self.is_away = False

        self.error: Exception | None = None

        def destinations(urls: Sequence[str]) -> Sequence[Destination]:
            if self.error is not None:
                raise self.error
            return [self.people] if urls else []

        monkeypatch.setattr(notices, "destinations", destinations)
        self.watch = self.watching()

    def watching(self) -> NoticeWatch:
        """Return the watch of a process that begins now."""
        reader: JournalReader = self.journal  # type: ignore[assignment]  # the part of it that is read
        observed = Observed(lambda: self.checkpoints, lambda: self.issues, reader, self._is_notifier)
        return NoticeWatch(observed, lambda: self.settings, self.clock)

    async def _is_notifier(self) -> bool:
        if self.is_away:
            raise StoreAway("away")
        return self.is_notifier

    async def look(self, seconds: float = 0.0) -> list[str]:
        """Look once after so much time, and return what people have been told so far."""
        self.clock.time += timedelta(seconds=seconds)
        await self.watch.look()
        return await self.told()

    async def told(self) -> list[str]:
        while not self.watch._sender.is_idle:
            self.watch._sender.pump()
            await asyncio.sleep(0.001)
        return self.people.got


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def opened(seq: int, reason: str = "refused (code 1)") -> Recorded:
    commit = recorded(DeadLetterOpened(f"d_{seq}", Stage.FETCH, f"t_{seq}", reason))
    return Recorded(commit.entries, Committed(seq, 0.0, 0.0), commit.checkpoint, 0.0, None)


async def test_what_the_journal_held_at_the_start_is_told_and_what_comes_after_is_new(world: World) -> None:
    world.journal.add(opened(1))
    world.checkpoints = [STOPPED]
    await world.watch.begin()
    assert await world.look(60) == []
    world.watch.read(opened(2, "another reason (code 2)"))
    await world.look()
    assert await world.look(SETTLE.total_seconds()) == ["1 new dead letter"]


async def test_a_dead_letter_that_is_opened_while_the_watch_begins_is_counted_once(world: World) -> None:
    world.journal.add(opened(1))
    world.watch.read(opened(1))
    await world.watch.begin()
    world.watch.read(opened(2))
    assert await world.look(60) == [], "of the same reason within the hour"
    assert await world.look(3600) == ["1 new dead letter"]


async def test_without_a_destination_nothing_is_watched_until_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, OFF)
    await world.watch.begin()
    world.watch.read(opened(1))
    world.checkpoints = [STOPPED]
    assert await world.look(60) == []
    world.settings = ON
    await world.look()
    assert await world.look(60) == [], "what was the case before counts as told"
    world.checkpoints = []
    other = Checkpoint(STREAM, failure_streak=FailureStreak(Reason.CONFIGURATION, at(200), 1, NETWORK))
    world.checkpoints = [other]
    await world.look()
    assert await world.look(SETTLE.total_seconds()) == [f"page {STREAM.page_id} is stopped"]
    world.settings = OFF
    world.checkpoints = []
    assert len(await world.look(3600)) == 1


async def test_while_the_database_is_away_at_the_start_the_watch_begins_later(world: World) -> None:
    world.journal.is_away = True
    await world.watch.begin()
    assert await world.look() == []
    world.journal.is_away = False
    await world.look()
    world.checkpoints = [STOPPED]
    await world.look()
    assert await world.look(SETTLE.total_seconds()) == [f"page {STREAM.page_id} is stopped"]


# --- several workers --------------------------------------------------------------------------------------------------


async def stops(world: World) -> list[str]:
    """Let a stream stop, and decide on its notice."""
    await world.watch.begin()
    await world.look()
    world.checkpoints = [STOPPED]
    await world.look()
    return await world.look(SETTLE.total_seconds())


async def test_a_worker_that_is_not_the_first_tells_nothing(world: World) -> None:
    world.is_notifier = False
    assert await stops(world) == []
    assert await world.look(HANDOVER_SECONDS) == []
    world.is_notifier = True
    assert await world.look(3600) == [], "the first one has told"


async def test_if_the_first_worker_dies_the_next_one_tells_what_was_decided_meanwhile(world: World) -> None:
    world.is_notifier = False
    assert await stops(world) == []
    world.is_notifier = True
    assert await world.look(HANDOVER_SECONDS - 5) == [f"page {STREAM.page_id} is stopped"]
    assert len(await world.look(5)) == 1


async def test_that_its_own_runs_do_not_end_each_worker_tells(world: World) -> None:
    world.is_notifier = False
    await world.watch.begin()
    await world.look()
    world.issues = [STALLED]
    await world.look()
    assert await world.look(SETTLE.total_seconds()) == ["stalled"]
    assert await world.look(60) == ["stalled"]


async def test_while_the_database_is_away_the_worker_that_told_goes_on(world: World) -> None:
    await world.watch.begin()
    await world.look()
    world.is_away = True
    world.issues = [Issue(IssueKind.STORE_AWAY, "the database is unavailable", NOON)]
    await world.look(600)
    assert await world.look(SETTLE.total_seconds()) == ["stalled"]


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_at_the_end_people_are_told_of_what_has_just_come(world: World) -> None:
    await world.watch.begin()
    await world.look()
    world.checkpoints = [STOPPED]
    stop = Stop()
    stop.request()
    await world.watch.run(stop)
    assert world.people.got == [f"page {STREAM.page_id} is stopped"]
    world.watch = world.watching()
    world.journal.add(opened(1))
    await world.watch.begin()
    assert len(await world.look(60)) == 1, "the next process knows that"


async def test_a_destination_that_takes_nothing_is_an_issue(world: World) -> None:
    await world.watch.begin()
    await world.look()
    assert list(world.watch.issues()) == []
    world.people.reason = "no"
    world.issues = [STALLED]
    await world.look()
    await world.look(SETTLE.total_seconds())
    (issue,) = world.watch.issues()
    assert (issue.kind, issue.reason) == (IssueKind.NOTICES, "json://people: no")


async def test_a_url_that_cannot_be_sent_to_is_an_issue_and_the_destinations_from_before_stay(world: World) -> None:
    await world.watch.begin()
    await world.look()
    world.error = BadConfiguration("notify.urls[0]: Apprise does not know such a URL", hint="see its wiki")
    world.settings = Settings.model_validate({"notify": {"urls": ("strange://people",)}})
    world.checkpoints = [STOPPED]
    await world.look()
    (issue,) = world.watch.issues()
    assert (issue.kind, issue.reason) == (IssueKind.NOTICES, world.error.message)
    assert await world.look(SETTLE.total_seconds()) == [f"page {STREAM.page_id} is stopped"]
    world.error = None
    world.settings = ON
    await world.look()
    assert list(world.watch.issues()) == []


async def test_after_an_unexpected_error_the_destinations_are_made_again(world: World) -> None:
    await world.watch.begin()
    world.error = ValueError("a broken library")
    with pytest.raises(ValueError, match="a broken library"):
        await world.look()
    world.error = None
    await world.look()
    world.checkpoints = [STOPPED]
    await world.look()
    assert await world.look(SETTLE.total_seconds()) == [f"page {STREAM.page_id} is stopped"]


def test_urls_are_secret() -> None:
    assert ON.notify.urls == (SecretStr("json://people"),)
    assert "people" not in repr(ON)
