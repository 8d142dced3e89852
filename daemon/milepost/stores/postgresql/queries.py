"""What a PostgreSQL store can be asked: checkpoints, rows and dead letters by key, and positions in the journal."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from psycopg.rows import TupleRow

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.evolve import fold
from milepost.core.gaps import Gap, ThreadsSearched
from milepost.core.journal import Codec, RunOf, instant_text
from milepost.core.model import (
    ContactRow,
    ConversationRow,
    DataSource,
    InteractionEventRow,
    Keys,
    Known,
    KnownDeadLetter,
    Stream,
)
from milepost.core.ports import DueDeadLetter, OpenGap
from milepost.core.position import Stretch
from milepost.core.retry import latest_redrive
from milepost.core.revisions import to_look_up
from milepost.core.webhooks import DueFact
from milepost.stores import messages, rows
from milepost.stores.erasure import StreamRows
from milepost.stores.moves import pages_by_contact, pages_elsewhere
from milepost.stores.postgresql.connection import Parameters
from milepost.stores.postgresql.encoding import searchable, storable
from milepost.stores.reader import DeadLetterState, StoredEntry, Thread
from milepost.stores.sql import stream_parameters

# Before and after every instant: the ends of the inbox.
BEFORE_ALL, AFTER_ALL = "-infinity", "infinity"
AFTER_ALL_RUNS = "~"

Ask = Callable[[str, Parameters], Awaitable[list[TupleRow]]]
"""Runs a statement, by its name, and returns its rows."""


class _Found(Struct, frozen=True):
    """The result of the statement `known`."""

    conversations: list[ConversationRow]
    contacts: list[ContactRow]
    interaction_events: list[str]
    dead_letters: list[tuple[str, str, str, bool]]
    forgotten: list[str]
    left_behind: list[tuple[str, str]]


_decode = msgspec.json.Decoder(_Found).decode


class PostgresqlSession:
    """The questions of a store, each statement asked by `ask`: inside a transaction, or in one of its own.

    Its methods are those of SqliteSession.
    """

    def __init__(self, ask: Ask, codec: Codec) -> None:
        self.ask = ask
        self.codec = codec

    async def _look_up(self, *asked: tuple[str, Parameters]) -> list[list[TupleRow]]:
        """Ask several questions, none of which depends on another; a store does that in one round trip."""
        return [await self.ask(*each) for each in asked]

    async def _write(self, statement: str, parameters: Parameters = ()) -> None:
        """Run a statement that writes; a store does that in a transaction of its own."""
        await self.ask(statement, parameters)

    # --- the store itself ---

    async def answers(self) -> None:
        """Read anything. Raises StoreAway or StoreRefused if the database does not answer."""
        await self.ask("answers", ())

    async def size_bytes(self) -> int:
        """Return the size of all tables in our schema, with their indexes."""
        ((size_bytes,),) = await self.ask("size", ())
        return int(size_bytes)

    async def write_nothing(self) -> None:
        """Write without changing anything."""
        await self._write("demand_writable")
        await self._write("write_nothing")

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None until that is on record."""
        found = await self.ask("source", ())
        return DataSource(*found[0]) if found else None

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        await self._write("record_source", (source.kind, source.base_url))

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self._write("replace_source", (source.kind, source.base_url))

    # --- checkpoints and rows ---

    async def load(self, stream: Stream) -> Checkpoint:
        """Return a stream's checkpoint: its snapshot, and the entries since."""
        stored = await self.ask("checkpoint", (stream.key,))
        checkpoint = rows.checkpoint(stored[0][0]) if stored else Checkpoint(stream)
        tail = await self.ask("entries_since", (stream.key, checkpoint.version))
        return fold((rows.entry(columns, self.codec) for columns in tail), checkpoint)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoint of every stream, configured or not, ordered by stream."""
        return [rows.checkpoint(state) for (state,) in await self.ask("checkpoints", ())]

    async def page_names(self) -> dict[str, str]:
        """Return the names of pages by id, as far as they are known."""
        return dict(await self.ask("page_names", ()))

    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        subjects = {storable(subject): subject for subject in keys.subjects}
        asked = _asked_of(keys, searchable(subjects))
        answers = dict(zip(asked, await self._look_up(*asked.items()), strict=True))
        ((found_as_json,),) = answers["known"]
        found = _decode(found_as_json)
        ((unseen, missed, all_missed),) = answers.get("known_of_sweep", [(0, (), 0)])
        ((stored,),) = answers.get("count_stored", [(0,)])
        ((stored_messages, stored_below),) = answers.get("count_messages", [(0, 0)])
        conversations = {row.conversation_id: row for row in found.conversations}
        known = Known(
            conversations,
            {row.contact_id: row for row in found.contacts},
            frozenset(found.interaction_events),
            {
                subjects[each]: KnownDeadLetter(key, print_, is_open)
                for each, key, print_, is_open in found.dead_letters
            },
            frozenset(found.forgotten),
            unseen,
            frozenset(missed),
            all_missed,
            stored,
            stored_messages,
            stored_below,
            await self._known_messages(keys, conversations),
            left_behind=dict(found.left_behind),
        )
        pages = pages_elsewhere(known, keys.stream)
        return await self._with_elsewhere(known, keys, pages) if pages or keys.locates_contacts else known

    async def _with_elsewhere(self, known: Known, keys: Keys, pages: frozenset[str]) -> Known:
        """Add what is known of the other pages under which some of the conversations stand."""
        page = stream_parameters(keys.stream)
        moved_to = await self.ask("moved_to", page)
        wanted = page | {"contacts": searchable(keys.contacts), "conversations": searchable(keys.conversations)}
        of_contacts = await self.ask("contact_pages", wanted) if keys.locates_contacts and moved_to else []
        contact_pages = pages_by_contact(of_contacts)
        pages = pages.union(*contact_pages.values()) - {keys.stream.page_id}
        there = wanted | {"pages": list(pages)}
        contacts = map(rows.contact_row, await self.ask("contacts_elsewhere", there))
        return replace(
            known,
            owed_elsewhere=tuple(rows.gap(state) for (state,) in await self.ask("owed_elsewhere", there)),
            left_out_elsewhere=rows.left_out(await self.ask("checkpoints_elsewhere", there)),
            contacts_elsewhere={(row.page_id, row.contact_id): row for row in contacts},
            moved_to={page_id: datetime.fromisoformat(at) for page_id, at in moved_to},
            contact_pages=contact_pages,
        )

    async def linked_pages(self, stream: Stream) -> tuple[str, ...]:
        """Return the page and those that rows have moved from or to."""
        return tuple(page_id for (page_id,) in await self.ask("linked_pages", stream_parameters(stream)))

    async def _known_messages(
        self, keys: Keys, conversations: Mapping[str, ConversationRow]
    ) -> dict[str, InteractionEventRow]:
        wanted = to_look_up(keys, conversations)
        if not wanted:
            return {}
        spans = {
            "conversations": [each.conversation_id for each in wanted],
            "oldest": [each.oldest_at for each in wanted],
            "newest": [each.newest_at for each in wanted],
        }
        found = map(messages.interaction_event_row, await self.ask("known_messages", spans))
        return {row.event_id: row for row in found}

    async def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of up to `limit` conversations whose ids follow, in the order of the ids."""
        found = await self.ask("conversations_after", (conversation_id, limit))
        return [(id_, platform, page_id) for id_, platform, page_id in found]

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        (counts,) = await self.ask("count_stream_rows", stream_parameters(stream))
        return StreamRows(*counts)

    # --- people who were erased ---

    async def forgotten_among(
        self, stream: Stream, conversation_ids: Iterable[str], contact_ids: Iterable[str]
    ) -> frozenset[str]:
        """Return those of these conversations and contacts of a stream that were erased."""
        keys = {"conversations": searchable(conversation_ids), "contacts": searchable(contact_ids)}
        return frozenset(key for (key,) in await self.ask("forgotten_among", stream_parameters(stream) | keys))

    async def is_about_forgotten(self, stream: Stream, subject: str, payload: str) -> bool:
        """Return whether a dead letter is about a contact or a conversation that was erased."""
        about = stream_parameters(stream) | {"subject": storable(subject), "payload": payload}
        ((is_about,),) = await self.ask("is_about_forgotten", about)
        return bool(is_about)

    # --- the journal ---

    async def entry_at(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return the seq and the hash of an entry, if there is one of this version."""
        found = await self.ask("entry_at", (stream.key, version))
        return (found[0][0], found[0][1]) if found else None

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return up to `limit` entries with a seq greater than `after`, oldest first."""
        statement = "entries_after" if stream is None else "stream_entries_after"
        return await self._entries(statement, {"stream": stream, "after": after, "limit": limit})

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return the newest `limit` entries, oldest first."""
        statement = "latest_entries" if stream is None else "latest_stream_entries"
        return (await self._entries(statement, {"stream": stream, "limit": limit}))[::-1]

    async def _entries(self, statement: str, parameters: Mapping[str, Any]) -> list[StoredEntry]:
        found = await self.ask(statement, parameters)
        return [StoredEntry(columns[0], rows.entry(columns, self.codec)) for columns in found]

    async def within_runs(self, versions: Mapping[Stream, int]) -> dict[Stream, Checkpoint]:
        """Return each stream's checkpoint just before the given version, folded from its latest run until then."""
        before: dict[Stream, Checkpoint] = {}
        for stream, version in versions.items():
            found = await self._entries("entries_of_run_before", {"stream": stream.key, "version": version})
            before[stream] = fold((each.entry for each in found), Checkpoint(stream))
        return before

    async def seq_before(self, instant: datetime) -> int:
        """Return the seq of the last entry that was recorded before an instant; 0 if there is none.

        Streams that commit together may differ by a moment, and a clock that was set back by more: then it is one of
        the seqs at which the instant was passed.
        """
        text = instant_text(instant)
        ((last,),) = await self.ask("last_seq", ())
        low, high = 0, int(last)  # all entries up to `low` are before the instant, none after `high` is
        while low < high:
            middle = (low + high + 1) // 2
            ((at,),) = await self.ask("recorded_at", (middle,))
            low, high = (middle, high) if at < text else (low, middle - 1)
        return low

    # --- runs and dead letters ---

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Return up to `limit` runs, newest first, starting with the one that precedes the run `before`."""
        parameters = {"stream": stream, "before": AFTER_ALL_RUNS if before is None else before, "limit": limit}
        statement = "runs_before" if stream is None else "stream_runs_before"
        return [rows.run(columns) for columns in await self.ask(statement, parameters)]

    async def find_dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        """Return a dead letter, without its payload."""
        found = await self.ask("dead_letter", (storable(dead_letter_id),))
        return rows.dead_letter(found[0]) if found else None

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first, starting with the one that follows `after`."""
        statement = "dead_letters_after" if stream is None else "stream_dead_letters_after"
        parameters = {**state.parameters(), "stream": stream, "after": after or "", "limit": limit}
        return [rows.dead_letter(columns[:-1]) for columns in await self.ask(statement, parameters)]

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters whose redrive is due, or whose payload was erased; oldest first."""
        times = instant_text(now), instant_text(latest_redrive(now))
        return rows.with_payloads(await self.ask("due_dead_letters", (stream.key, *times, limit)))

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts whose messages are stored, the earliest first."""
        found = await self.ask("due_facts", stream_parameters(stream) | {"limit": limit})
        return tuple(map(messages.due_fact, found))

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps: those between two sweeps before histories, the newest first."""
        found = await self.ask("open_gaps", stream_parameters(stream) | {"limit": limit})
        return tuple(OpenGap(rows.gap(state), bool(forgotten), bool(moved)) for state, forgotten, moved in found)

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories that are at their limit and were read no further back than `later_than`."""
        parameters = {"stream": stream.key, "newer_than": instant_text(later_than), "limit": limit}
        found = await self.ask("gaps_at_limit", parameters)
        return tuple(rows.gap(state) for (state,) in found)

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search the next conversations of the stream, about `limit`, by `updated_time`; those at `after` were."""
        span = stream_parameters(stream) | {"newer_than": instant_text(after) if after else BEFORE_ALL}
        last = next(iter(await self.ask("search_until", span | {"offset": limit - 1})), None)
        found = await self.ask("search_threads", span | {"until": last[0] if last else AFTER_ALL})
        return rows.threads_searched(found, last)

    async def dead_letters_with_payloads(self, dead_letter_ids: Iterable[str]) -> tuple[DueDeadLetter, ...]:
        """Return these dead letters, open or closed."""
        return rows.with_payloads(await self.ask("dead_letters_with_payloads", (searchable(dead_letter_ids),)))

    async def threads(self, conversation_ids: Iterable[str]) -> dict[str, Thread]:
        """Return who those of these conversations are with that are stored, and where Meta shows them."""
        found = await self.ask("threads", (searchable(conversation_ids),))
        return {conversation_id: Thread(*columns) for conversation_id, *columns in found}


def _asked_of(keys: Keys, subjects: list[str]) -> dict[str, Parameters]:
    """Return the statements that tell what is stored under the keys, and their parameters."""
    of_stream = stream_parameters(keys.stream)
    conversations = {"conversations": searchable(keys.conversations)}
    contacts, events = searchable(keys.contacts), searchable(keys.interaction_events)
    of_batch = {"contacts": contacts, "interaction_events": events, "subjects": subjects}
    asked: dict[str, Parameters] = {"known": {**of_stream, **conversations, **of_batch}}
    if keys.full_sweep_at is not None:
        stretch = keys.stretch or Stretch(keys.full_sweep_at, None, None, ())
        of_sweep = {"has_stretch": keys.stretch is not None, "sweep_started_at": instant_text(keys.full_sweep_at)}
        asked["known_of_sweep"] = {**stretch_parameters(keys.stream, stretch), **of_sweep, **conversations}
    if keys.counts_stored:
        asked["count_stored"] = of_stream
    if keys.counts_messages is not None:
        asked["count_messages"] = messages.span_parameters(keys.counts_messages)
    return asked


def stretch_parameters(stream: Stream, stretch: Stretch) -> dict[str, Any]:
    """Return the parameters of the statements that look through a stretch of the inbox."""
    return stream_parameters(stream) | {
        "sweep_started_at": instant_text(stretch.sweep_started_at),
        "newer_than": instant_text(stretch.newer_than) if stretch.newer_than else BEFORE_ALL,
        "older_than": instant_text(stretch.older_than) if stretch.older_than else AFTER_ALL,
        "seen": searchable(stretch.seen),
    }
