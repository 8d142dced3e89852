"""Committed entries become events in memory, in the order of their seqs, and the same as from the journal."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from milepost.core.ports import Commit, Committed
from milepost.engine.feed import Recorded
from milepost.service.events import broadcast
from milepost.service.events.broadcast import RecentEvents
from milepost.service.events.messages import EncodedEvent
from milepost.stores.reader import StoredEntry
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from service.events.journals import STREAMS, write
from stores.histories import life


class CountingReader(SqliteReader):
    """A journal reader that counts how often entries are read."""

    reads = 0

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        self.reads += 1
        return await super().entries(after=after, limit=limit, stream=stream)


@pytest.fixture
async def journal_reader(tmp_path: Path) -> AsyncIterator[CountingReader]:
    migrate(tmp_path / "milepost.db")
    async with open_sqlite_reader(tmp_path / "milepost.db") as opened:
        yield CountingReader(opened._database)


def commits(path: Path, number: int = 12) -> list[Recorded]:
    """Commit for each stream in turn, and return the notices."""
    made: list[Commit] = [each for row in zip(*(life(each, number) for each in STREAMS), strict=True) for each in row]
    notices, seq = list[Recorded](), 1
    for commit in made:
        notices.append(Recorded(commit.entries, Committed(seq, 0.0, 0.0), commit.checkpoint, 0.0, None))
        seq += write(path, commit)
    return notices


async def from_journal(journal_reader: CountingReader) -> list[EncodedEvent]:
    recent = RecentEvents(journal_reader)
    await recent.begin()
    return events_of(recent)


def events_of(recent: RecentEvents) -> list[EncodedEvent]:
    found: list[EncodedEvent] = []
    while page := recent.after(found[-1].seq if found else 0):
        found += page
    return found


async def reads_for(journal_reader: CountingReader, recent: RecentEvents, *batches: Iterable[Recorded]) -> int:
    """Announce commits, advancing after each batch of them; return how often the journal was read for its events."""
    for batch in batches:
        for notice in batch:
            recent.announce(notice)
        while await recent.advance():
            pass
    reads = journal_reader.reads
    assert events_of(recent) == await from_journal(journal_reader)
    return reads


@pytest.fixture
async def recent(journal_reader: CountingReader) -> RecentEvents:
    """Return the events of a journal that was empty at first."""
    recent = RecentEvents(journal_reader)
    await recent.begin()
    return recent


@pytest.fixture
def notices(recent: RecentEvents, tmp_path: Path) -> list[Recorded]:
    assert recent.end == 0
    return commits(tmp_path / "milepost.db")


async def test_events_from_memory_equal_those_of_the_journal_and_read_none_of_it(
    journal_reader: CountingReader, recent: RecentEvents, notices: list[Recorded]
) -> None:
    assert await reads_for(journal_reader, recent, *([each] for each in notices)) == 0


async def test_commits_that_are_announced_out_of_order_are_put_in_order(
    journal_reader: CountingReader, recent: RecentEvents, notices: list[Recorded]
) -> None:
    assert await reads_for(journal_reader, recent, reversed(notices)) == 0


@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_commits_that_are_never_announced_are_read_from_the_journal(
    journal_reader: CountingReader, recent: RecentEvents, notices: list[Recorded], missing: int
) -> None:
    announced = [*(each for number, each in enumerate(notices[:-1]) if number % 3 != missing), notices[-1]]
    assert await reads_for(journal_reader, recent, *([each] for each in announced)) > 0


async def test_a_commit_that_is_announced_again_or_was_read_already_makes_no_second_event(
    journal_reader: CountingReader, notices: list[Recorded]
) -> None:
    again = RecentEvents(journal_reader)
    await again.begin()
    assert await reads_for(journal_reader, again, *([each] for each in (*notices, *notices[-5:]))) == 0


async def test_commits_beyond_what_is_held_are_read_from_the_journal(
    journal_reader: CountingReader, recent: RecentEvents, notices: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_HELD", 10)
    assert await reads_for(journal_reader, recent, notices) > 0


async def test_an_announced_commit_that_the_journal_does_not_have_is_not_waited_for(
    recent: RecentEvents, notices: list[Recorded]
) -> None:
    last = notices[-1]
    recent.announce(Recorded(last.entries, Committed(10_000, 0.0, 0.0), last.checkpoint, 0.0, None))
    while await recent.advance():
        pass
    assert len(events_of(recent)) == sum(len(each.entries) for each in notices)
