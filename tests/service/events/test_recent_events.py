"""Committed entries become events in memory, in the order of their seqs, and the same as from the journal."""

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.event_source import listening
from milepost.core.ports import Commit, Committed
from milepost.engine.feed import Recorded
from milepost.service.events import broadcast
from milepost.service.events.broadcast import RecentEvents
from milepost.service.events.messages import MAX_EVENTS, EncodedEvent, Status, digest_of
from milepost.stores.reader import StoredEntry
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from service.events.journals import STREAMS, write, write_lives
from service.events.test_event_stream import daemon_on
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


# --- digest -----------------------------------------------------------------------------------------------------------


def event(seq: int, stream: str = "messenger:1", status: Status = Status.PROGRESS) -> EncodedEvent:
    wire = f'id: {seq}\ndata: {{"status":"{status}","stream":"{stream}"}}\n\n'
    return EncodedEvent(seq, stream, status, wire.encode())


def told(digest: bytes) -> list[tuple[int, dict[str, object]]]:
    blocks = [block.partition("\ndata: ") for block in digest.decode().split("\n\n") if block]
    return [(int(head.removeprefix("id: ")), json.loads(data)) for head, _, data in blocks]


def test_the_last_of_similar_events_stands_for_all() -> None:
    found = told(digest_of([event(1), event(2, "messenger:2"), event(3), event(4, status=Status.RETRYING)]))
    assert [(seq, each["stream"], each.get("times")) for seq, each in found] == [
        (2, "messenger:2", None),
        (3, "messenger:1", 2),
        (4, "messenger:1", None),
    ]


def test_of_many_streams_each_status_becomes_one_event() -> None:
    events = [event(1 + number, f"messenger:{number % 400}") for number in range(800)]
    events += [event(801, "messenger:7", Status.STOPPED)]
    found = told(digest_of(events))
    assert len(found) == 2 <= MAX_EVENTS
    assert found[0][1] | {"times": 800, "streams": 400} == found[0][1]
    assert found[1][0] == 801


def test_what_differs_in_kind_is_told_apart() -> None:
    found = told(digest_of([event(1), replace(event(2), type="sync_requested"), event(3)]))
    assert [(seq, each.get("times")) for seq, each in found] == [(2, None), (3, 2)]


def test_nothing_has_no_digest() -> None:
    assert digest_of([]) == b""


def written(path: Path, commits: int) -> Path:
    migrate(path)
    write_lives(path, commits)
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return written(tmp_path / "milepost.db", commits=5)


async def test_a_reader_of_a_digest_gets_one_event_for_similar_ones(
    few: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "DIGEST_SECONDS", 0.0)
    async with daemon_on(few) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        async with listening(daemon.url, ("digest", "true"), ("last", "500")) as source:
            assert source.response.headers["Content-Encoding"] == "gzip"
            heard = (await source.some_events())[0]
            times = int(heard.told.get("times", 1))
            while int(heard.id) < newest:
                heard = (await source.some_events())[0]
                times += int(heard.told.get("times", 1))
            assert times == newest, "every entry is in one of them"
            added = await daemon.commit(*STREAMS)
            times = 0
            while times < added:
                times += int((await source.some_events())[0].told.get("times", 1))


async def test_a_reader_that_was_long_away_gets_a_digest_of_what_is_kept_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_KEPT", 10)
    path = written(tmp_path / "milepost.db", commits=30)
    async with daemon_on(path) as daemon, listening(daemon.url, ("digest", "true"), last_event_id="1") as source:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        heard = (await source.some_events())[0]
        assert newest > 20
        assert int(heard.id) > newest - 10
