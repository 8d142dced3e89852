"""What every Store must do, in any database.

A subclass is named Test… and has three fixtures:

- `store`: a Store whose tables are empty;
- `look`: an async function that returns the Tables as they are, from beside the port;
- `refuse`: a function that makes the store refuse a row from now on, by its table and key.

A store that looks at what rows hold (every database does) passes CheckingStoreContract, too. What stores do for the
remedies is in remedies_contract.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at, sweep_started
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.errors import RowsRejected, VersionConflict
from milepost.core.events import DeadLetterOpened, Entry, Event, RunStarted, Stage
from milepost.core.evolve import evolve
from milepost.core.journal import Codec, check_link, instant_text, project
from milepost.core.model import (
    Changes,
    ContactRow,
    ConversationRow,
    DeadLetterPayload,
    InteractionEventRow,
    Keys,
    Known,
    PageRow,
    Platform,
    Stream,
    Table,
)
from milepost.core.ports import Commit, Committed, Rejected, Store
from milepost.core.position import Reading, ThreadSpan
from stores.any_rows import any_changes
from stores.histories import commit_after, contact_row, conversation_row, event_row, life, next_commit, page_row, stream


class JournalRow(Struct, frozen=True):
    """A row of the journal as it is stored."""

    seq: int
    stream: str
    version: int
    run_id: str | None
    recorded_at: str
    type: str
    data: str
    hash: str

    def entry(self) -> Entry:
        event = Codec().decode(self.type, self.data)
        recorded_at = datetime.fromisoformat(self.recorded_at)
        return Entry(
            Stream.parse(self.stream), self.version, self.run_id, recorded_at, self.type, self.data, self.hash, event
        )


class Tables(Struct, frozen=True):
    """Everything that a store holds."""

    journal: tuple[JournalRow, ...] = ()
    checkpoints: dict[str, Checkpoint] = {}
    runs: dict[str, Run] = {}
    conversations: dict[str, ConversationRow] = {}
    contacts: dict[tuple[str, str, str], ContactRow] = {}
    interaction_events: dict[str, InteractionEventRow] = {}
    dead_letters: dict[str, DeadLetter] = {}
    payloads: dict[str, str] = {}
    pages: dict[tuple[str, str], PageRow] = {}

    def refold(self) -> dict[str, Checkpoint]:
        """Fold the journal from scratch, checking its hash chains on the way."""
        checkpoints: dict[str, Checkpoint] = {}
        for row in self.journal:
            before = checkpoints.get(row.stream) or Checkpoint(Stream.parse(row.stream))
            check_link(before, row.entry())
            checkpoints[row.stream] = evolve(before, row.entry())
        return checkpoints


Look = Callable[[], Awaitable[Tables]]
Refuse = Callable[[Table, str], None]

# On purpose, one store is used for all examples: what they write meets what is there. The suite has several subclasses.
SHARED_BY_SUBCLASSES = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
NO_CHANGES = Changes()


async def commit(store: Store, *events: Event, changes: Changes = NO_CHANGES, of: Stream = STREAM) -> Commit:
    """Commit the next entry of the stream."""
    following = commit_after(await store.load(of), *events, changes=changes)
    assert isinstance(await store.commit(following), Committed)
    return following


def names(answer: object) -> set[tuple[Table, str]]:
    """Return the tables and keys of the rows that a store refused."""
    assert isinstance(answer, Rejected)
    return {(row.table, row.key) for row in answer.rows}


async def whole_or_not_at_all(commits: list[Commit], store: Store, look: Look) -> None:
    """Check that each of these first commits of their streams is stored completely or not at all."""
    tables = await look()
    for each in commits:
        loaded = await store.load(each.checkpoint.stream)
        assert loaded in (each.checkpoint, Checkpoint(each.checkpoint.stream))
        is_stored = loaded.version > 0
        assert sum(row.stream == loaded.stream.key for row in tables.journal) == loaded.version
        for row in each.changes.conversations:
            assert (row.conversation_id in tables.conversations) == is_stored
        for event in each.changes.interaction_events:
            assert (event.event_id in tables.interaction_events) == is_stored
        for payload in each.changes.payloads:
            assert (payload.dead_letter_id in tables.payloads) == is_stored
            assert (payload.dead_letter_id in tables.dead_letters) == is_stored


class StoreContract:
    takes_nul: ClassVar = True
    """Whether a text may hold a NUL: PostgreSQL accepts none."""

    # --- the journal and its projections ---

    async def test_an_unknown_stream_loads_as_an_empty_checkpoint(self, store: Store) -> None:
        assert await store.load(Stream.parse("messenger:never-seen")) == Checkpoint(
            Stream.parse("messenger:never-seen")
        )

    async def test_a_committed_checkpoint_is_loaded_again(self, store: Store) -> None:
        for each in life(STREAM, 20):
            await store.commit(each)

            assert await store.load(STREAM) == each.checkpoint

    async def test_streams_are_kept_apart(self, store: Store) -> None:
        instagram = Stream(Platform.INSTAGRAM, STREAM.page_id)

        mine = await commit(store)
        theirs = await commit(store, of=instagram)

        assert await store.load(STREAM) == mine.checkpoint
        assert await store.load(instagram) == theirs.checkpoint

    async def test_entries_are_numbered_without_a_gap(self, store: Store, look: Look) -> None:
        expected_seq = 1
        for each in life(STREAM, 10):
            committed = await store.commit(each)

            assert isinstance(committed, Committed)
            assert committed.first_seq == expected_seq
            expected_seq += len(each.entries)
        assert [row.seq for row in (await look()).journal] == list(range(1, expected_seq))

    async def test_every_entry_is_stored_as_it_was_sealed(self, store: Store, look: Look) -> None:
        commits = list(life(STREAM, 10))
        for each in commits:
            await store.commit(each)

        rows = (await look()).journal
        assert [row.entry() for row in rows] == [entry for each in commits for entry in each.entries]
        assert rows[0].recorded_at == instant_text(NOON)

    async def test_projections_are_the_fold_of_the_journal(self, store: Store, look: Look) -> None:
        ended = {}
        for each in (*life(stream(1), 23), *life(stream(2), 7)):
            await store.commit(each)
            assert each.run is not None
            ended[each.run.run_id] = each.run

        tables = await look()
        assert tables.checkpoints == tables.refold()
        assert tables.runs == ended
        folded = project((row.entry() for row in tables.journal), {})
        assert tables.dead_letters == {each.dead_letter_id: each for each in folded if isinstance(each, DeadLetter)}
        assert {dead_letter.closed_at is None for dead_letter in tables.dead_letters.values()} == {True, False}

    # --- one writer for each stream ---

    async def test_a_second_writer_is_refused_and_nothing_of_its_commit_is_stored(
        self, store: Store, look: Look
    ) -> None:
        stale = await store.load(STREAM)
        first = await commit(store)
        before = await look()

        with pytest.raises(VersionConflict):
            await store.commit(commit_after(stale, RunStarted(at(1)), changes=some_rows("stale"), run_id="stale"))

        assert await look() == before
        assert await store.load(STREAM) == first.checkpoint

    async def test_a_commit_that_skips_a_version_is_refused(self, store: Store, look: Look) -> None:
        unstored = commit_after(Checkpoint(STREAM), changes=some_rows("unstored"))

        with pytest.raises(VersionConflict):
            await store.commit(commit_after(unstored.checkpoint, RunStarted(at(1)), changes=some_rows("next")))

        assert (await look()).conversations == {}

    async def test_the_same_commit_is_refused_the_second_time(self, store: Store, look: Look) -> None:
        once = await commit(store, changes=some_rows("once"))
        before = await look()

        with pytest.raises(VersionConflict):
            await store.commit(once)

        assert await look() == before

    async def test_one_of_many_simultaneous_writers_wins(self, store: Store, look: Look) -> None:
        unborn = Checkpoint(STREAM)
        rivals = [commit_after(unborn, changes=some_rows(f"{n}"), run_id=f"run-{n}") for n in range(40)]

        answers = await asyncio.gather(*(store.commit(each) for each in rivals), return_exceptions=True)

        winners = [each for each, answer in zip(rivals, answers, strict=True) if not isinstance(answer, Exception)]
        assert len(winners) == 1
        assert sum(isinstance(answer, VersionConflict) for answer in answers) == 39
        assert set((await look()).conversations) == {row.conversation_id for row in winners[0].changes.conversations}

    # --- several commits of one stream together ---

    async def test_commits_that_follow_one_another_are_stored_together(self, store: Store, look: Look) -> None:
        commits = list(life(STREAM, 6))

        answers = await store.commit_all(commits)

        first_seqs = [1 + sum(len(each.entries) for each in commits[:place]) for place in range(6)]
        assert [answer.first_seq for answer in answers if isinstance(answer, Committed)] == first_seqs
        assert await store.load(STREAM) == commits[-1].checkpoint
        tables = await look()
        assert [row.entry() for row in tables.journal] == [entry for each in commits for entry in each.entries]
        assert set(tables.conversations) == {
            row.conversation_id for each in commits for row in each.changes.conversations
        }

    async def test_commits_together_of_a_second_writer_are_refused(self, store: Store, look: Look) -> None:
        stale = [commit_after(Checkpoint(STREAM), changes=some_rows("stale"), run_id="stale")]
        stale.append(commit_after(stale[0].checkpoint, RunStarted(at(1)), changes=some_rows("next"), run_id="stale"))
        await commit(store)
        before = await look()

        with pytest.raises(VersionConflict):
            await store.commit_all(stale)

        assert await look() == before

    # --- the outcome of a commit ---

    async def test_settling_a_stored_commit_returns_its_seq(self, store: Store) -> None:
        first = await commit(store, RunStarted(NOON), sweep_started())
        second = await commit(store)

        assert await store.settle(first) == Committed(1, 0.0, 0.0)
        assert await store.settle(second) == Committed(1 + len(first.entries), 0.0, 0.0)

    async def test_settling_a_commit_that_was_not_stored_returns_none(self, store: Store) -> None:
        stored = await commit(store)
        unstored = commit_after(stored.checkpoint)

        assert await store.settle(unstored) is None

    async def test_another_writer_s_commit_is_not_mistaken_for_the_one_to_settle(self, store: Store) -> None:
        unborn = Checkpoint(STREAM)
        mine, theirs = (commit_after(unborn, RunStarted(NOON), run_id=run_id) for run_id in ("mine", "theirs"))
        await store.commit(theirs)

        assert await store.settle(mine) is None

    # --- rows ---

    @pytest.fixture
    def events_written(self) -> dict[str, InteractionEventRow]:
        """Return the events of all examples, each as it was first written."""
        return {}

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SHARED_BY_SUBCLASSES)
    @given(data=st.data())
    async def test_any_committed_row_is_read_back(
        self, store: Store, look: Look, events_written: dict[str, InteractionEventRow], data: st.DataObject
    ) -> None:
        changes = data.draw(any_changes(STREAM, with_nul=self.takes_nul))
        asked = Keys(
            STREAM,
            tuple(row.conversation_id for row in changes.conversations),
            tuple(row.contact_id for row in changes.contacts),
            tuple(row.event_id for row in changes.interaction_events),
        )
        changes = _as_first_seen(changes, await store.known(asked))
        events_written |= {row.event_id: row for row in changes.interaction_events} | events_written

        await commit(store, changes=changes)

        known, tables = await store.known(asked), await look()
        assert known.conversations == {row.conversation_id: row for row in changes.conversations}
        assert known.contacts == {row.contact_id: row for row in changes.contacts}
        assert known.interaction_events == {row.event_id for row in changes.interaction_events}
        assert tables.interaction_events == events_written
        for payload in changes.payloads:
            assert payload.dead_letter_id in tables.payloads
        if (page := changes.page) is not None:
            stored = tables.pages[page.platform, page.page_id]
            assert (page.name or stored.name, page.username or stored.username) == (stored.name, stored.username)
            assert page.last_seen_at == stored.last_seen_at

    async def test_keys_that_were_never_stored_are_unknown(self, store: Store) -> None:
        await commit(store, changes=some_rows("a"))

        asked = Keys(STREAM, ("t_x", "", "T_A"), ("c_x", "C_A"), ("m_x", "M_A"), ("d_x", "D_A"), NOON)

        assert await store.known(asked) == Known()
        assert await store.known(Keys(STREAM)) == Known()

    async def test_contacts_belong_to_their_page_and_platform(self, store: Store) -> None:
        other_page, other_platform = Stream(STREAM.platform, "other"), Stream(Platform.INSTAGRAM, STREAM.page_id)
        mine, theirs = contact_row(name="Ada"), contact_row(name="Grace", of=other_page)

        await commit(store, changes=Changes(contacts=(mine, theirs)))

        assert (await store.known(Keys(STREAM, contacts=("c_1",)))).contacts == {"c_1": mine}
        assert (await store.known(Keys(other_page, contacts=("c_1",)))).contacts == {"c_1": theirs}
        assert (await store.known(Keys(other_platform, contacts=("c_1",)))).contacts == {}

    async def test_as_many_keys_as_the_largest_batch_has_can_be_looked_up(self, store: Store) -> None:
        rows = Changes(
            tuple(conversation_row(f"t_{n}") for n in range(200)),
            tuple(contact_row(f"c_{n}") for n in range(200)),
            tuple(event_row(f"m_{n}") for n in range(4_000)),
        )
        await commit(store, changes=rows)

        known = await store.known(
            Keys(
                STREAM,
                tuple(row.conversation_id for row in rows.conversations),
                tuple(row.contact_id for row in rows.contacts),
                (*(row.event_id for row in rows.interaction_events), *(f"new_{n}" for n in range(4_000))),
            )
        )

        assert (len(known.conversations), len(known.contacts), len(known.interaction_events)) == (200, 200, 4_000)

    async def test_a_row_written_again_holds_what_was_written_last(self, store: Store) -> None:
        await commit(store, changes=Changes((conversation_row(),), (contact_row(),)))
        conversation = replace(
            conversation_row(contact_id=None, snippet=None, message_count=None, synced_at=at(9), first_synced_at=NOON),
            deleted_at=at(9),
            can_reply=False,
            link=None,
        )
        contact = contact_row(name=None, username="ada", updated_at=at(9), first_seen_at=NOON)

        await commit(store, changes=Changes((conversation,), (contact,)))

        known = await store.known(Keys(STREAM, ("t_1",), ("c_1",)))
        assert known.conversations == {"t_1": conversation}
        assert known.contacts == {"c_1": contact}

    async def test_a_row_keeps_when_it_was_first_seen(self, store: Store) -> None:
        await commit(store, changes=Changes((conversation_row(),), (contact_row(),)))

        await commit(store, changes=Changes((conversation_row(synced_at=at(9)),), (contact_row(updated_at=at(9)),)))

        known = await store.known(Keys(STREAM, ("t_1",), ("c_1",)))
        assert known.conversations["t_1"].first_synced_at == NOON
        assert known.conversations["t_1"].synced_at == at(9)
        assert known.contacts["c_1"].first_seen_at == NOON
        assert known.contacts["c_1"].updated_at == at(9)

    async def test_a_page_keeps_when_it_was_first_seen_and_what_it_was_called(self, store: Store, look: Look) -> None:
        """A source may read it without learning its name."""
        await commit(store, changes=Changes(page=page_row(username="bakery")))
        await commit(store, changes=Changes(page=page_row(name="The Bakery", seen_at=at(9))))
        await commit(store, changes=Changes(page=page_row(name=None, seen_at=at(60))))

        (row,) = (await look()).pages.values()
        assert row == PageRow(STREAM.platform, STREAM.page_id, "The Bakery", "bakery", NOON, at(60))

    async def test_an_interaction_event_never_changes(self, store: Store, look: Look) -> None:
        first = event_row(text="hello")
        await commit(store, changes=Changes(interaction_events=(first,)))

        await commit(store, changes=Changes(interaction_events=(event_row(text="gone"), event_row("m_2"))))

        assert (await look()).interaction_events == {"m_1": first, "m_2": event_row("m_2")}

    async def test_an_interaction_event_is_revised_where_it_is_stored(self, store: Store, look: Look) -> None:
        await commit(store, changes=Changes(interaction_events=(event_row("m_1"), event_row("m_2"))))
        edited = replace(event_row("m_1", text="hallo"), attachments='[{"type":"file"}]', edited_at=at(9))
        unsent = replace(event_row("m_2", text=None), deleted_at=at(9))

        await commit(store, changes=Changes(revised=(edited, unsent, replace(event_row("m_3"), edited_at=at(9)))))

        assert (await look()).interaction_events == {"m_1": edited, "m_2": unsent}
        changed_its_mind = replace(unsent, text="hello", deleted_at=None)
        await commit(store, changes=Changes(revised=(changed_its_mind,)))
        assert (await look()).interaction_events == {"m_1": edited, "m_2": changed_its_mind}

    async def test_what_was_unsent_is_erased_from_the_payloads_of_open_dead_letters(
        self, store: Store, look: Look
    ) -> None:
        row, others = event_row("m_1", text="a secret"), event_row("m_2", text="no secret")
        kept = msgspec.json.encode(Changes(interaction_events=(row, others))).decode()
        raw = '{"id":"t_1","messages":{"data":[{"id":"m_1","message":"a secret","attachments":{"data":[]}}]}}'
        cut_short = '{"cut_short":"{\\"id\\":\\"m_1\\",\\"message\\":\\"a secret"}'
        for key, payload in (("d_1", kept), ("d_2", raw), ("d_3", cut_short)):
            opened = DeadLetterOpened(key, Stage.EVENTS, f"t_1/events/{key}", "why")
            await commit(store, opened, changes=Changes(payloads=(DeadLetterPayload(key, payload),)))
        await commit(store, changes=Changes(interaction_events=(row, others)))

        await commit(store, changes=Changes(revised=(replace(row, text=None, deleted_at=at(9)),)))

        payloads = (await look()).payloads
        assert payloads.keys() == {"d_1", "d_2", "d_3"}
        assert not any("a secret" in payload for payload in payloads.values())
        (left, other) = msgspec.json.decode(payloads["d_1"], type=Changes).interaction_events
        assert (left, other) == (replace(row, text=None), others)

    async def test_the_messages_of_a_reading_are_known_unless_its_fingerprint_is_that_of_the_conversation(
        self, store: Store
    ) -> None:
        rows = tuple(replace(event_row(f"m_{n}"), occurred_at=at(n)) for n in range(5))
        edited = replace(rows[2], text="hallo", edited_at=at(9))
        with_print = replace(conversation_row(), messages_fingerprint="abc")
        await commit(store, changes=Changes((with_print, conversation_row("t_2")), interaction_events=rows))
        await commit(store, changes=Changes(revised=(edited,)))

        async def known(fingerprint: str | None, thread: str = "t_1") -> dict[str, InteractionEventRow]:
            reading = Reading(thread, at(1), at(3), fingerprint)
            return (await store.known(Keys(STREAM, ("t_1", "t_2"), readings=(reading,)))).messages

        between = {"m_1": rows[1], "m_2": edited, "m_3": rows[3]}
        assert await known("another") == between
        assert await known(None) == between
        assert await known("abc") == {}
        assert await known("another", "t_unknown") == await known("another", "t_2") == {}

    async def test_the_stored_messages_of_a_reading_are_known_whether_or_not_it_is_as_before(
        self, store: Store
    ) -> None:
        row = replace(conversation_row(), messages_fingerprint="abc")
        await commit(store, changes=Changes((row,), interaction_events=tuple(event_row(f"m_{n}") for n in range(3))))

        async def known(fingerprint: str | None, updated_time: datetime, *more: str) -> frozenset[str]:
            event_ids = ("m_0", "m_2", *more)
            reading = Reading("t_1", at(1), at(3), fingerprint, event_ids, updated_time)
            asked = Keys(STREAM, ("t_1",), interaction_events=(*event_ids, "m_x", "m_1"), readings=(reading,))
            return (await store.known(asked)).interaction_events

        assert await known("abc", row.updated_time) == {"m_0", "m_1", "m_2"}
        assert await known("abc", at(99), "m_new") == {"m_0", "m_1", "m_2"}
        assert await known("another", row.updated_time, "m_new") == {"m_0", "m_1", "m_2"}
        assert await known(None, row.updated_time, "m_new") == {"m_0", "m_1", "m_2"}

    async def test_messages_are_counted_without_those_that_were_unsent(self, store: Store) -> None:
        rows = tuple(replace(event_row(f"m_{n}"), occurred_at=at(n)) for n in range(5))
        await commit(store, changes=Changes(interaction_events=(*rows, event_row("m_x", conversation_id="t_2"))))
        await commit(store, changes=Changes(revised=(replace(rows[0], text=None, deleted_at=at(9)),)))

        async def counted(newest: int, as_of: int) -> tuple[int, int]:
            known = await store.known(Keys(STREAM, counts_messages=ThreadSpan("t_1", at(2), at(newest), at(as_of))))
            return known.stored_messages, known.stored_below

        assert await counted(4, as_of=10) == (4, 2)
        assert await counted(3, as_of=10) == (3, 2)
        assert await counted(4, as_of=8) == (5, 3)

    async def test_the_payload_of_a_dead_letter_stays_out_of_the_journal(self, store: Store, look: Look) -> None:
        opened = DeadLetterOpened("d_1", Stage.FETCH, "t_bad", "id: expected str")
        payload = DeadLetterPayload("d_1", '{"id": 5, "snippet": "a secret"}')

        await commit(store, opened, changes=Changes(payloads=(payload,)))

        tables = await look()
        assert tables.payloads == {"d_1": payload.payload}
        assert not any("secret" in row.data for row in tables.journal)

    # --- rows that are refused ---

    @pytest.mark.parametrize("table", Table)
    async def test_a_refused_row_is_named_and_the_others_are_stored_without_it(
        self, store: Store, look: Look, refuse: Refuse, table: Table
    ) -> None:
        bad, good = some_rows("bad"), some_rows("good")
        key = {Table.CONVERSATIONS: "t_bad", Table.CONTACTS: "c_bad", Table.INTERACTION_EVENTS: "m_bad"}[table]
        refuse(table, key)
        both = Changes(
            good.conversations + bad.conversations,
            bad.contacts + good.contacts,
            good.interaction_events + bad.interaction_events,
        )
        before = await look()

        answer = await store.commit(commit_after(Checkpoint(STREAM), changes=both))

        assert names(answer) == {(table, key)}
        assert await look() == before
        await commit(store, changes=good)
        assert set((await look()).conversations) == {"t_good"}

    async def test_all_refused_rows_are_named(self, store: Store, refuse: Refuse) -> None:
        rows = Changes(
            tuple(conversation_row(f"t_{n}") for n in range(20)),
            tuple(contact_row(f"c_{n}") for n in range(20)),
            tuple(event_row(f"m_{n}") for n in range(60)),
        )
        bad = {(Table.CONVERSATIONS, "t_0"), (Table.CONVERSATIONS, "t_19"), (Table.CONTACTS, "c_7")}
        bad |= {(Table.INTERACTION_EVENTS, f"m_{n}") for n in (0, 9, 10, 59)}
        for table, key in bad:
            refuse(table, key)

        answer = await store.commit(commit_after(Checkpoint(STREAM), changes=rows))

        assert names(answer) == bad
        assert await store.load(STREAM) == Checkpoint(STREAM)

    async def test_a_second_writer_gets_a_conflict_and_no_refused_rows(self, store: Store, refuse: Refuse) -> None:
        stale = await store.load(STREAM)
        await commit(store)
        refuse(Table.CONTACTS, "c_stale")

        with pytest.raises(VersionConflict):
            await store.commit(commit_after(stale, changes=some_rows("stale"), run_id="stale"))

    # --- many at once ---

    async def test_commits_of_many_streams_at_once_are_all_stored(self, store: Store, look: Look) -> None:
        async def live(number: int) -> tuple[Checkpoint, list[int]]:
            checkpoint = await store.load(stream(number))
            seqs: list[int] = []
            for _ in range(6):
                following = next_commit(checkpoint)
                committed = await store.commit(following)
                assert isinstance(committed, Committed)
                seqs.extend(range(committed.first_seq, committed.first_seq + len(following.entries)))
                checkpoint = following.checkpoint
            return checkpoint, seqs

        lives = await asyncio.gather(*(live(number) for number in range(100)))

        tables = await look()
        assert {checkpoint.stream.key: checkpoint for checkpoint, _ in lives} == tables.checkpoints == tables.refold()
        seqs_told = {seq: checkpoint.stream.key for checkpoint, seqs in lives for seq in seqs}
        assert seqs_told == {row.seq: row.stream for row in tables.journal}
        assert len(tables.conversations) == len(tables.interaction_events) == 100 * 5 * 2

    @pytest.mark.parametrize("finished", [0, 1, 33])
    async def test_a_cancelled_commit_harms_no_other(self, store: Store, look: Look, finished: int) -> None:
        """Whichever is cancelled, and when: before anything is stored, in the middle, or while it commits others."""
        commits = [next(life(stream(number), 1)) for number in range(120)]
        tasks = [asyncio.ensure_future(store.commit(each)) for each in commits]
        await asyncio.gather(*tasks[:finished])
        for _ in range(3):
            await asyncio.sleep(0)

        doomed = (finished, finished + 3, *range(50, 110))
        for number in doomed:
            tasks[number].cancel()
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*tasks, return_exceptions=True)

        for number, answer in enumerate(answers):
            if number not in doomed:
                assert not isinstance(answer, BaseException), f"commit {number}: {answer!r}"
                assert await store.load(stream(number)) == commits[number].checkpoint
        await commit(store)
        await whole_or_not_at_all(commits, store, look)

    @pytest.mark.parametrize("finished", [0, 1])
    async def test_the_outcome_of_a_cancelled_commit_can_be_settled(
        self, store: Store, look: Look, finished: int
    ) -> None:
        """Its stream can continue at once: nothing is stored later, after somebody has loaded it."""
        tasks = [asyncio.ensure_future(store.commit(next(life(stream(number), 1)))) for number in range(60)]
        await asyncio.gather(*tasks[:finished])
        for _ in range(3):
            await asyncio.sleep(0)

        async def cancel_and_go_on(number: int) -> None:
            tasks[number].cancel()
            await asyncio.gather(tasks[number], return_exceptions=True)
            await commit(store, of=stream(number))

        await asyncio.gather(*(cancel_and_go_on(number) for number in (*range(finished, 60, 7), 59)))

        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await look()).checkpoints == (await look()).refold()


class CheckingStoreContract(StoreContract):
    REFUSED_ROWS: ClassVar = {
        "a half of a surrogate pair": (Changes((conversation_row("t_bad", snippet="a secret \ud83d"),)), {"t_bad"}),
        "a number beyond 64 bits": (Changes((conversation_row("t_bad", message_count=2**64),)), {"t_bad"}),
        "a direction that is none": (
            Changes(interaction_events=(event_row("m_bad", direction="a secret"),)),
            {"m_bad"},
        ),
        "an id with a NUL": (
            Changes((conversation_row("t\0bad"),), (contact_row("c\0bad"),), (event_row("m\0bad"), event_row("m"))),
            {"t\0bad", "c\0bad", "m\0bad"},
        ),
        "later rows of several": (
            Changes(
                (conversation_row("t_1"), conversation_row("t_bad", snippet="\udc00")),
                (contact_row(), contact_row("c_bad", name="a secret \udc00")),
                (event_row(), event_row("m_bad", direction=""), event_row("m_2"), event_row("m_bad_2", text="\ud800")),
            ),
            {"t_bad", "c_bad", "m_bad", "m_bad_2"},
        ),
    }

    @pytest.mark.parametrize("why", REFUSED_ROWS)
    async def test_nothing_is_stored_of_a_commit_whose_rows_are_refused(
        self, store: Store, look: Look, why: str
    ) -> None:
        opened = DeadLetterOpened("d_1", Stage.FETCH, "t_bad", "id: expected str")
        rows, bad = self.REFUSED_ROWS[why]
        refused = replace(rows, payloads=(DeadLetterPayload("d_1", "{}"),))
        first = await commit(store)
        before = await look()

        answer = await store.commit(commit_after(first.checkpoint, sweep_started(), opened, changes=refused))

        assert {key for _, key in names(answer)} == bad
        assert await look() == before
        assert await store.load(STREAM) == first.checkpoint

    @pytest.mark.parametrize("why", REFUSED_ROWS)
    async def test_the_reason_of_a_refusal_does_not_quote_the_row(self, store: Store, why: str) -> None:
        rows, _ = self.REFUSED_ROWS[why]

        answer = await store.commit(commit_after(Checkpoint(STREAM), changes=rows))

        assert isinstance(answer, Rejected)
        for row in answer.rows:
            assert len(row.reason.split()) > 3
            assert "secret" not in row.reason
            row.reason.encode()

    @pytest.mark.parametrize("why", REFUSED_ROWS)
    async def test_refused_rows_harm_no_commit_beside_them(self, store: Store, look: Look, why: str) -> None:
        commits = [next(life(stream(number), 1)) for number in range(40)]
        bad = {0, 7, 20, 39}
        for number in bad:
            commits[number] = replace(commits[number], changes=self.REFUSED_ROWS[why][0])

        answers = await asyncio.gather(*(store.commit(each) for each in commits))

        assert {number for number, answer in enumerate(answers) if isinstance(answer, Rejected)} == bad
        tables = await look()
        assert set(tables.checkpoints) == {stream(number).key for number in range(40) if number not in bad}
        assert tables.checkpoints == tables.refold()
        await whole_or_not_at_all(commits, store, look)

    async def test_of_commits_together_those_before_a_refused_one_are_stored_and_none_after_it(
        self, store: Store, look: Look
    ) -> None:
        (bad, _), *_ = self.REFUSED_ROWS.values()
        commits = list(life(STREAM, 5))
        commits[2] = replace(commits[2], changes=bad)

        answers = await store.commit_all(commits)

        assert [type(answer) for answer in answers] == [Committed, Committed, Rejected]
        assert await store.load(STREAM) == commits[1].checkpoint
        assert {row.version for row in (await look()).journal} == {
            entry.version for each in commits[:2] for entry in each.entries
        }

    async def test_commits_together_of_many_streams_at_once_harm_one_another_as_little_as_single_ones(
        self, store: Store, look: Look
    ) -> None:
        (bad, _), *_ = self.REFUSED_ROWS.values()
        lives = [list(life(stream(number), 8)) for number in range(10)]
        lives[3][0] = replace(lives[3][0], changes=bad)
        lives[7][5] = replace(lives[7][5], changes=bad)

        answers = await asyncio.gather(*(store.commit_all(each) for each in lives))

        stored = [sum(isinstance(answer, Committed) for answer in each) for each in answers]
        assert stored == [8, 8, 8, 0, 8, 8, 8, 5, 8, 8]
        for number, commits in enumerate(lives):
            expected = commits[stored[number] - 1].checkpoint if stored[number] else Checkpoint(stream(number))
            assert await store.load(stream(number)) == expected
        tables = await look()
        assert tables.checkpoints == tables.refold()

    async def test_a_commit_that_is_refused_for_no_row_says_so(self, store: Store, look: Look) -> None:
        sound = commit_after(Checkpoint(STREAM), changes=some_rows("a"))
        (entry,) = sound.entries
        before = await look()

        with pytest.raises(RowsRejected, match="version 1 of messenger:1234567890"):
            await store.commit(replace(sound, entries=(replace(entry, data="\ud83d"),)))

        assert await look() == before

    async def test_an_id_with_a_nul_is_not_mistaken_for_its_beginning(self, store: Store) -> None:
        await commit(store, changes=Changes((conversation_row("t"),), (contact_row("c"),), (event_row("m"),)))

        known = await store.known(Keys(STREAM, ("t\0bad",), ("c\0bad",), ("m\0bad",), ("d\0bad",), NOON))

        assert "t\0bad" not in known.conversations
        assert "c\0bad" not in known.contacts
        assert "m\0bad" not in known.interaction_events


def some_rows(name: str) -> Changes:
    return Changes((conversation_row(f"t_{name}"),), (contact_row(f"c_{name}"),), (event_row(f"m_{name}"),))


def _as_first_seen(changes: Changes, known: Known) -> Changes:
    """Return rows that are stored already as a writer would: with the instants at which they were first seen."""
    conversations = (
        replace(row, first_synced_at=known.conversations.get(row.conversation_id, row).first_synced_at)
        for row in changes.conversations
    )
    contacts = (
        replace(row, first_seen_at=known.contacts.get(row.contact_id, row).first_seen_at) for row in changes.contacts
    )
    return replace(changes, conversations=tuple(conversations), contacts=tuple(contacts))
