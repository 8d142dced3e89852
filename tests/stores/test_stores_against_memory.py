"""All stores return and hold the same, whatever is committed, missed, closed, erased and removed."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from contracts.store_contract import Tables
from kit.builders import NOON, at
from kit.memory_store import MemoryStore
from kit.mirror import Mirror, numbers, stored_numbers
from kit.postgres import Database
from milepost.core.changes import ChangeReader
from milepost.core.events import (
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    RedriveFailed,
    Resolution,
    Stage,
    StreamRemoved,
)
from milepost.core.model import Changes, DeadLetterPayload, Keys, PageRow, Platform, Stream
from milepost.core.ports import Committed, Store
from milepost.core.position import Stretch
from milepost.stores.open import forget, open_reader, open_store
from stores.histories import commit_after, contact_row, conversation_row, event_row, page_row
from stores.store_dump import PostgresDump, SqliteDump, StoreDump

STREAMS = (Stream(Platform.MESSENGER, "1"), Stream(Platform.MESSENGER, "2"), Stream(Platform.INSTAGRAM, "1"))
PEOPLE = ("ada", "bob", "eve")
SUBJECTS = ("1", "2", "3", "1/messages", "2/events/m_1", "contact ada", "contact bob", "sha256:1")
DEAD_LETTERS = tuple(f"d_{number}" for number in range(12))

EMPTY = """
    ALTER TABLE journal DISABLE TRIGGER USER;
    TRUNCATE journal, checkpoints, runs, dead_letters, dead_letter_payloads, pages, contacts,
        conversations, contact_interaction_events, deleted_rows, missed_conversations, forgotten, page_moves;
    ALTER TABLE journal ENABLE TRIGGER USER
"""

some = st.integers(0, 6)
instants = some.map(at)
people = st.sampled_from(PEOPLE)
# Each strategy is built once: building them takes longer than drawing from them.
maybe_instants = st.none() | instants
crowds = st.sets(people)
maybe_people = st.none() | people
maybe_noon = st.none() | st.just(NOON)
one_or_two, several, any_number = (st.sets(some, max_size=size) for size in (2, 4, None))


class Act(Struct, frozen=True):
    """Somebody is forgotten, or something is committed."""

    stream: Stream
    forgotten: str | None = None
    event: Event | None = None
    changes: Changes = Changes()
    seconds: int = 0


def thread(of: Stream, number: int) -> str:
    """Return the id of a conversation of a stream. No two streams share an id."""
    return f"{STREAMS.index(of)}{number}"


@cache
def pages(of: Stream) -> st.SearchStrategy[PageRow | None]:
    return st.none() | st.builds(page_row, of=st.just(of), name=maybe_people, seen_at=instants)


@cache
@st.composite
def rows(draw: st.DrawFn, of: Stream) -> Changes:
    conversations = {
        thread(of, number): replace(
            conversation_row(thread(of, number), of=of, contact_id=draw(maybe_people)),
            updated_time=draw(instants),
            deleted_at=draw(maybe_noon),
        )
        for number in draw(several)
    }
    events = {
        f"m_{thread(of, number)}": replace(
            event_row(f"m_{thread(of, number)}", of=of, conversation_id=thread(of, draw(some))),
            contact_id=draw(maybe_people),
        )
        for number in draw(several)
    }
    contacts = tuple(contact_row(each, of=of, name=draw(maybe_people)) for each in draw(crowds))
    return Changes(tuple(conversations.values()), contacts, tuple(events.values()), page=draw(pages(of)))


@cache
@st.composite
def stretches(draw: st.DrawFn, of: Stream) -> Stretch:
    seen = tuple(thread(of, number) for number in draw(any_number))
    return Stretch(draw(instants), draw(maybe_instants), draw(maybe_instants), seen)


@cache
def maybe_stretches(of: Stream) -> st.SearchStrategy[Stretch | None]:
    return st.none() | stretches(of)


@cache
@st.composite
def notes(draw: st.DrawFn, of: Stream) -> Changes:
    return replace(
        draw(rows(of)),
        missed=draw(maybe_stretches(of)),
        found=tuple(thread(of, number) for number in draw(one_or_two)),
        missed_are_deleted_at=draw(maybe_instants),
        forgets_missed=draw(st.sampled_from((False, False, True))),
    )


@cache
@st.composite
def dead_letters(draw: st.DrawFn, of: Stream) -> Act:
    key = draw(st.sampled_from(DEAD_LETTERS))
    again_at = draw(maybe_instants)
    events: tuple[Event, ...] = (
        DeadLetterOpened(key, Stage.FETCH, draw(st.sampled_from(SUBJECTS)), "bad", again_at, f"f_{again_at}"),
        RedriveFailed(key, draw(some), "still bad", again_at),
        DeadLetterClosed(key, draw(st.sampled_from(Resolution)), reason="enough"),
    )
    event = draw(st.sampled_from(events))
    payload = DeadLetterPayload(key, draw(st.sampled_from(("{}", '{"id": "bob"}', '{"id": "eve", "to": "ada"}'))))
    payloads = (payload,) if isinstance(event, DeadLetterOpened) else ()
    return Act(of, event=event, changes=replace(draw(rows(of)), payloads=payloads), seconds=draw(some))


@cache
@st.composite
def moves(draw: st.DrawFn, of: Stream) -> Changes:
    """Take over conversations of the platform's other streams, known or not, with what a batch brings of them."""
    others = [each for each in STREAMS if each.platform is of.platform]
    moved = {thread(draw(st.sampled_from(others)), number) for number in draw(several)}
    return replace(draw(rows(of)), moved=tuple(moved))


@cache
@st.composite
def own_ids(draw: st.DrawFn, of: Stream) -> Changes:
    return replace(draw(rows(of)), own_id=draw(people))


@cache
def acts(of: Stream) -> st.SearchStrategy[Act]:
    return st.one_of(
        st.builds(Act, st.just(of), changes=rows(of)),
        st.builds(Act, st.just(of), changes=notes(of)),
        st.builds(Act, st.just(of), changes=moves(of), seconds=some),
        st.builds(Act, st.just(of), changes=own_ids(of)),
        dead_letters(of),
        st.builds(Act, st.just(of), forgotten=people),
        st.builds(Act, st.just(of), event=st.just(StreamRemoved("somebody"))),
    )


async def act(store: Store, each: Act) -> Committed:
    events = () if each.event is None else (each.event,)
    checkpoint = await store.load(each.stream)
    answer = await store.commit(commit_after(checkpoint, *events, changes=each.changes, now=at(each.seconds)))
    assert isinstance(answer, Committed)
    return answer


def tables_in(memory: MemoryStore) -> Tables:
    return Tables(
        conversations=memory.conversations,
        contacts=memory.contacts,
        interaction_events=memory.interaction_events,
        dead_letters=memory.dead_letters,
        payloads=memory.payloads,
        pages=memory.pages,
    )


async def answer_the_same(store: Store, memory: MemoryStore, of: Stream) -> None:
    for sweep in range(7):
        stretch = Stretch(at(sweep), at(5), at(1), (thread(of, 2),))
        threads = tuple(thread(of, number) for number in range(7))
        events = tuple(f"m_{each}" for each in threads)
        keys = Keys(of, threads, PEOPLE, events, SUBJECTS, at(sweep), stretch)
        assert await store.known(keys) == await memory.known(keys)
        assert await store.due_dead_letters(of, at(sweep), 3) == await memory.due_dead_letters(of, at(sweep), 3)
    assert set(await store.find_open_dead_letters(DEAD_LETTERS)) == set(
        await memory.find_open_dead_letters(DEAD_LETTERS)
    )


class Consumers:
    """Consumers of the change feed: of everything and of each stream, after every step, and one that comes late."""

    def __init__(self, kept: StoreDump) -> None:
        self._kept = kept
        self._every = Mirror()
        self._of_streams = {stream: Mirror() for stream in STREAMS}

    async def follow(self, reader: ChangeReader) -> None:
        """Follow the feed to its end, and check that each consumer has the rows of the tables."""
        await self._every.follow(reader, limit=3)
        with self._kept.asking() as ask:
            stored = stored_numbers(ask)
        assert numbers(self._every.rows) == stored
        for stream, mirror in self._of_streams.items():
            await mirror.follow(reader, limit=3, stream=stream)
            assert mirror.rows == {
                key: row
                for key, row in self._every.rows.items()
                if (row["platform"], row["page_id"]) == (stream.platform, stream.page_id)
            }

    async def follow_from_the_beginning(self, reader: ChangeReader) -> None:
        """Load everything at the end, and check that it equals what the others have."""
        late = Mirror()
        await late.follow(reader)
        assert late.rows == self._every.rows


async def are_one(kept: StoreDump, life: list[Act]) -> None:
    opened: set[str] = set()
    memory, consumers = MemoryStore(), Consumers(kept)
    async with (
        open_store(kept.store_url, synchronous="normal", events_chunk_size=2) as store,
        open_reader(kept.store_url) as reader,
    ):
        for each in life:
            if each.forgotten is not None:
                gone = await forget(kept.store_url, each.stream, each.forgotten)
                counted = (gone.contacts, gone.conversations, gone.interaction_events, gone.payloads)
                assert counted == memory.forget(each.stream, each.forgotten)
            elif isinstance(each.event, DeadLetterOpened) and each.event.dead_letter_id in opened:
                continue  # a dead letter is opened once
            else:
                if isinstance(each.event, DeadLetterOpened):
                    opened.add(each.event.dead_letter_id)
                assert (await act(store, each)).first_seq == (await act(memory, each)).first_seq
            await answer_the_same(store, memory, each.stream)
            await consumers.follow(reader)
        await consumers.follow_from_the_beginning(reader)
    tables = replace(kept.tables(), journal=(), checkpoints={}, runs={})
    assert tables == tables_in(memory)


lives = st.lists(st.sampled_from(STREAMS).flatmap(acts), max_size=25)
engine = [HealthCheck.function_scoped_fixture]


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=engine)
@given(life=lives)
async def test_sqlite_behaves_like_the_memory_store(migrated: Path, life: list[Act]) -> None:
    with TemporaryDirectory() as directory:
        await are_one(SqliteDump(Path(shutil.copy(migrated, directory))), life)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=engine)
@given(life=lives)
async def test_postgresql_behaves_like_the_memory_store(database: Database, life: list[Act]) -> None:
    database.sql(EMPTY)
    await are_one(PostgresDump(database), life)


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=engine)
@given(life=lives)
async def test_sqlite_behaves_like_the_memory_store_over_many_lives(migrated: Path, life: list[Act]) -> None:
    with TemporaryDirectory() as directory:
        await are_one(SqliteDump(Path(shutil.copy(migrated, directory))), life)


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=engine)
@given(life=lives)
async def test_postgresql_behaves_like_the_memory_store_over_many_lives(database: Database, life: list[Act]) -> None:
    database.sql(EMPTY)
    await are_one(PostgresDump(database), life)
