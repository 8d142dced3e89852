"""The queries of a store, for either database: checkpoints, rows, dead letters and positions in the journal.

Each query is written once for the sessions of both, and each store has its statement, by name, in a .sql file. A
JournalReader reads beside a daemon or inside its service.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.changes import ALL_KINDS, ChangeKind, ChangesPage
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.events import Entry
from milepost.core.evolve import fold
from milepost.core.journal import RunOf, instant_text
from milepost.core.model import DataSource, Keys, Known, Stream
from milepost.core.ports import DueDeadLetter, OpenGap
from milepost.core.position import Gap, Stretch, ThreadSpan, ThreadsSearched, UnopenedThread
from milepost.core.retry import latest_redrive
from milepost.core.webhooks import DueFact
from milepost.stores import rows

PAGE = 1_000  # dead letters that are read at a time
AFTER_ALL_RUNS = "~"
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

Parameters = Mapping[str, Any] | tuple[Any, ...]


class Fetch(Protocol):
    """Runs a named statement and returns its rows."""

    def __call__(self, statement: str, parameters: Parameters = ()) -> Awaitable[list[Any]]:
        """Run a statement."""
        ...


def load_statements(store: str, *parts: str) -> dict[str, str]:
    """Read `<store>/<part>.sql`, or `statements.sql`: each statement under its `-- name:` line, with its comments."""
    statements: dict[str, str] = {}
    for part in parts or ("statements",):
        _, *split = _NAME.split((Path(__file__).parent / store / f"{part}.sql").read_text(encoding="utf-8"))
        statements |= zip(split[::2], map(str.strip, split[1::2]), strict=True)
    return statements


class DeadLetterState(StrEnum):
    """Which dead letters to list."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"

    def parameters(self) -> dict[str, bool]:
        """Return the parameters of the statements that list dead letters in this state."""
        return {"open": self is not DeadLetterState.CLOSED, "closed": self is not DeadLetterState.OPEN}


class StoredEntry(Struct, frozen=True):
    """An entry and its seq, its position in the journal as a whole."""

    seq: int
    entry: Entry


class Audit(Struct, frozen=True):
    """The totals of a verification or a rebuild."""

    entries: int
    streams: int
    runs: int
    dead_letters: int
    last_recorded_at: datetime | None
    gaps: int = 0


class Thread(Struct, frozen=True):
    """The person a stored conversation is with, and the API's `link` to it; None for what is unknown."""

    contact_name: str | None
    link: str | None


class StreamRows(Struct, frozen=True):
    """How many rows a stream has in each table."""

    contacts: int
    conversations: int
    interaction_events: int
    open_dead_letters: int


class Dialect(Struct, frozen=True):
    """How a database takes parameters: a list of keys, a text, and bounds before and after every instant."""

    keys: Callable[[Iterable[str]], Any]
    text: Callable[[str], str]
    before_all: str
    after_all: str

    def stretch_parameters(self, stream: Stream, stretch: Stretch) -> dict[str, Any]:
        """Return the parameters of the statements that look through a stretch of the inbox."""
        return stream_parameters(stream) | {
            "sweep_started_at": instant_text(stretch.sweep_started_at),
            "newer_than": instant_text(stretch.newer_than) if stretch.newer_than else self.before_all,
            "older_than": instant_text(stretch.older_than) if stretch.older_than else self.after_all,
            "seen": self.keys(stretch.seen),
        }


def stream_parameters(stream: Stream) -> dict[str, str]:
    """Return the parameters by which statements find the rows of a stream, or of its page."""
    return {"stream": stream.key, "platform": stream.platform.value, "page_id": stream.page_id}


def span_parameters(span: ThreadSpan) -> dict[str, str]:
    """Return the parameters of the statement that counts messages of a conversation."""
    return {
        "conversation_id": span.conversation_id,
        "back_to": instant_text(span.back_to),
        "newest_at": instant_text(span.newest_at),
        "as_of": instant_text(span.as_of),
    }


class Session:
    """The queries of a store. Results of several queries are as of one moment only inside a transaction."""

    def __init__(self, fetch: Fetch, dialect: Dialect) -> None:
        self.fetch = fetch
        self.dialect = dialect

    async def answers(self) -> None:
        """Run a trivial query. Raises StoreAway or StoreRefused if the database does not answer."""
        await self.fetch("answers")

    async def size_bytes(self) -> int:
        """Return the size of Milepost's own tables with their indexes."""
        ((size,),) = await self.fetch("size")
        return int(size)

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None until that is on record."""
        found = await self.fetch("source")
        return DataSource(*found[0]) if found else None

    # --- checkpoints and rows ---

    async def load(self, stream: Stream) -> Checkpoint:
        """Return a stream's checkpoint: its snapshot with the later entries folded in."""
        stored = await self.fetch("checkpoint", (stream.key,))
        checkpoint = rows.checkpoint(stored[0][0]) if stored else Checkpoint(stream)
        tail = await self.fetch("entries_since", (stream.key, checkpoint.version))
        return fold((rows.entry(columns) for columns in tail), checkpoint)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoint of every stream, configured or not, ordered by stream."""
        return [rows.checkpoint(state) for (state,) in await self.fetch("checkpoints")]

    async def page_names(self) -> dict[str, str]:
        """Return the known names of pages by id."""
        return dict(await self.fetch("page_names"))

    async def with_elsewhere(self, known: Known, keys: Keys) -> Known:
        """Add what is stored under other pages of these conversations, their messages and contacts."""
        pages = {*known.left_behind.values(), *(row.page_id for row in known.conversations.values())}
        pages.discard(keys.stream.page_id)
        if not pages and not keys.locates_contacts:
            return known
        page, as_keys = stream_parameters(keys.stream), self.dialect.keys
        moved_to = await self.fetch("moved_to", page)
        wanted = page | {"contacts": as_keys(keys.contacts), "conversations": as_keys(keys.conversations)}
        of_contacts = await self.fetch("contact_pages", wanted) if keys.locates_contacts and moved_to else ()
        contact_pages = _pages_by_contact(of_contacts)
        there = wanted | {"pages": as_keys(pages.union(*contact_pages.values()) - {keys.stream.page_id})}
        contacts = map(rows.contact_row, await self.fetch("contacts_elsewhere", there))
        checkpoints = [rows.checkpoint(state) for (state,) in await self.fetch("checkpoints_elsewhere", there)]
        return replace(
            known,
            owed_elsewhere=tuple(rows.gap(state) for (state,) in await self.fetch("owed_elsewhere", there)),
            left_out_elsewhere=tuple(each.left_out for each in checkpoints if each.left_out is not None),
            contacts_elsewhere={(row.page_id, row.contact_id): row for row in contacts},
            moved_to={page_id: datetime.fromisoformat(at) for page_id, at in moved_to},
            contact_pages=contact_pages,
        )

    async def linked_pages(self, stream: Stream) -> tuple[str, ...]:
        """Return the page and all pages that its rows have moved from or to."""
        return tuple(page_id for (page_id,) in await self.fetch("linked_pages", stream_parameters(stream)))

    async def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of the next `limit` conversations, in the order of their ids."""
        return await self.fetch("conversations_after", (conversation_id, limit))

    async def threads(self, conversation_ids: Iterable[str]) -> dict[str, Thread]:
        """Return, for those of the conversations that are stored, the person and the link."""
        found = await self.fetch("threads", (self.dialect.keys(conversation_ids),))
        return {conversation_id: Thread(*columns) for conversation_id, *columns in found}

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count the stored rows of a stream."""
        (counts,) = await self.fetch("count_stream_rows", stream_parameters(stream))
        return StreamRows(*counts)

    # --- the journal ---

    async def entry_at(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return the seq and the hash of a stream's entry of this version, if there is one."""
        found = await self.fetch("entry_at", (stream.key, version))
        return found[0] if found else None

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return up to `limit` entries with a seq greater than `after`, oldest first."""
        statement = "entries_after" if stream is None else "stream_entries_after"
        return await self._entries(statement, {"stream": stream, "after": after, "limit": limit})

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return the newest `limit` entries, oldest first."""
        statement = "latest_entries" if stream is None else "latest_stream_entries"
        return (await self._entries(statement, {"stream": stream, "limit": limit}))[::-1]

    async def _entries(self, statement: str, parameters: Parameters) -> list[StoredEntry]:
        found = await self.fetch(statement, parameters)
        return [StoredEntry(columns[0], rows.entry(columns)) for columns in found]

    async def within_runs(self, versions: Mapping[Stream, int]) -> dict[Stream, Checkpoint]:
        """Return each stream's checkpoint just before the given version, folded from its latest run until then."""
        before: dict[Stream, Checkpoint] = {}
        for stream, version in versions.items():
            found = await self._entries("entries_of_run_before", {"stream": stream.key, "version": version})
            before[stream] = fold((each.entry for each in found), Checkpoint(stream))
        return before

    async def seq_before(self, instant: datetime) -> int:
        """Return the seq of the last entry that was recorded before an instant; 0 if there is none.

        Entries are not strictly in the order of time: streams that commit together may differ by a moment, and a clock
        that was set back by more. Then the result is one of the seqs at which the instant was passed.
        """
        text = instant_text(instant)
        ((last,),) = await self.fetch("last_seq")
        low, high = 0, int(last)  # all entries up to `low` are before the instant, none after `high` is
        while low < high:
            middle = (low + high + 1) // 2
            ((at,),) = await self.fetch("recorded_at", (middle,))
            low, high = (middle, high) if at < text else (low, middle - 1)
        return low

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Return up to `limit` runs, newest first, starting just before the run `before`."""
        parameters = {"stream": stream, "before": AFTER_ALL_RUNS if before is None else before, "limit": limit}
        statement = "runs_before" if stream is None else "stream_runs_before"
        return [rows.run(columns) for columns in await self.fetch(statement, parameters)]

    # --- what is owed: dead letters, facts and gaps ---

    async def find_dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        """Return a dead letter, without its payload."""
        found = await self.fetch("dead_letter", (self.dialect.text(dead_letter_id),))
        return rows.dead_letter(found[0]) if found else None

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first, starting just after `after`."""
        statement = "dead_letters_after" if stream is None else "stream_dead_letters_after"
        parameters = {**state.parameters(), "stream": stream, "after": after or "", "limit": limit}
        return [rows.dead_letter(columns) for columns in await self.fetch(statement, parameters)]

    async def dead_letters_with_payloads(self, dead_letter_ids: Iterable[str]) -> tuple[DueDeadLetter, ...]:
        """Return these dead letters, open or closed."""
        wanted = (self.dialect.keys(dead_letter_ids),)
        return rows.with_payloads(await self.fetch("dead_letters_with_payloads", wanted))

    async def dead_letter(self, dead_letter_id: str) -> tuple[DeadLetter, str | None] | None:
        """Return a dead letter and its payload, which is deleted once it is closed or its person is erased."""
        found = await self.dead_letters_with_payloads((dead_letter_id,))
        return (found[0].dead_letter, found[0].payload) if found else None

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters whose redrive is due, or whose payload was erased; oldest first."""
        times = {"now": instant_text(now), "latest": instant_text(latest_redrive(now))}
        return rows.with_payloads(await self.fetch("due_dead_letters", {"stream": stream.key, "limit": limit, **times}))

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts whose messages are stored, the earliest first."""
        found = await self.fetch("due_facts", stream_parameters(stream) | {"limit": limit})
        return tuple(map(rows.due_fact, found))

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps, newest first: gaps between two sweeps precede histories."""
        found = await self.fetch("open_gaps", stream_parameters(stream) | {"limit": limit})
        return tuple(OpenGap(rows.gap(state), bool(forgotten), bool(moved)) for state, forgotten, moved in found)

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories that stopped at their limit and do not reach back to `later_than`."""
        parameters = {"stream": stream.key, "newer_than": instant_text(later_than), "limit": limit}
        return tuple(rows.gap(state) for (state,) in await self.fetch("gaps_at_limit", parameters))

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search about `limit` of the stream's conversations, by `updated_time`, that are later than `after`."""
        dialect = self.dialect
        span = stream_parameters(stream) | {"newer_than": instant_text(after) if after else dialect.before_all}
        last = next(iter(await self.fetch("search_until", span | {"offset": limit - 1})), None)
        found = await self.fetch("search_threads", span | {"until": last[0] if last else dialect.after_all})
        unopened = (
            UnopenedThread(
                key, rows.instant(first_synced_at), count, stored, rows.instant(oldest), rows.instant(newest or oldest)
            )
            for key, first_synced_at, count, stored, oldest, newest in found
        )
        return ThreadsSearched(tuple(unopened), rows.instant(last[0]) if last else None)


def _pages_by_contact(found: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return the pages of each contact, from pairs of contact and page."""
    pages: dict[str, set[str]] = {}
    for contact_id, page_id in found:
        pages.setdefault(contact_id, set()).add(page_id)
    return {contact_id: frozenset(of) for contact_id, of in pages.items()}


class JournalReader(Session, ABC):
    """The journal, its projections and the change feed, for reading: follow it, list what it holds, check it.

    Its methods raise StoreAway and StoreRefused as a Store's do.
    """

    @abstractmethod
    async def read_changes(
        self,
        after: int,
        limit: int,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
        mark: str = "",
    ) -> ChangesPage:
        """Return up to `limit` changes with a seq greater than `after`. Raises HistoryRewritten: see ChangeReader."""

    @abstractmethod
    async def last_change(self) -> int:
        """Return the seq of the latest change; 0 if there is none."""

    @abstractmethod
    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""

    @abstractmethod
    async def rebuild(self) -> Audit:
        """Rebuild the projections from the journal, in one transaction. Raises JournalDamaged."""


async def all_dead_letters(
    journal_reader: JournalReader, state: DeadLetterState, *, stream: str | None = None, after: str | None = None
) -> AsyncGenerator[DeadLetter, None]:
    """Yield all dead letters in a state, oldest first, starting just after `after`."""
    while True:
        page = await journal_reader.dead_letters(state, stream=stream, after=after, limit=PAGE)
        for each in page:
            yield each
        if len(page) < PAGE:
            return
        after = page[-1].dead_letter_id
