"""What removing a stream must do in any database.

The fixture `kept` is an empty database of this program's schema. See tests/stores/test_contracts.py.
"""

import pytest
from msgspec.structs import replace

from contracts.store_contract import Tables
from kit.builders import NOON, at
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Changes, Stream
from milepost.core.position import Stretch
from milepost.stores.open import forget, open_reader, open_store, remove
from milepost.stores.reader import StreamRows
from stores.histories import commit_after, contact_row, conversation_row, event_row, life, live, stream
from stores.store_dump import StoreDump

GONE, OTHER = stream(1), stream(2)
BY = "a test"


async def two_lives(kept: StoreDump) -> tuple[Checkpoint, Checkpoint]:
    """Commit two streams' lives so far: an open run, dead letters open and closed, and missed conversations."""
    async with open_store(kept.store_url) as store:
        checkpoints = []
        for each in (GONE, OTHER):
            checkpoint = await live(store, each, 23)
            missing = Changes(missed=Stretch(NOON, None, None, ()))
            following = commit_after(checkpoint, changes=missing, now=at(checkpoint.version), run_id=f"{each.key}-open")
            await store.commit(following)
            checkpoints.append(following.checkpoint)
    gone, other = checkpoints
    return gone, other


def of(tables: Tables, one: Stream) -> Tables:
    """Return a stream's rows in the tables beside the journal."""
    page = (one.platform.value, one.page_id)
    run_ids = {row.run_id for row in tables.journal if row.stream == one.key}
    dead_letters = {key: dead_letter for key, dead_letter in tables.dead_letters.items() if dead_letter.stream == one}
    return Tables(
        (),
        {key: each for key, each in tables.checkpoints.items() if key == one.key},
        {key: run for key, run in tables.runs.items() if key in run_ids},
        {key: row for key, row in tables.conversations.items() if (row.platform, row.page_id) == page},
        {key: row for key, row in tables.contacts.items() if key[:2] == page},
        {key: row for key, row in tables.interaction_events.items() if (row.platform, row.page_id) == page},
        dead_letters,
        {key: payload for key, payload in tables.payloads.items() if key in dead_letters},
        {key: row for key, row in tables.pages.items() if key == page},
    )


async def rebuilt_equal(kept: StoreDump) -> None:
    """Check that the projections equal their fold, and that a rebuild restores them byte for byte."""
    before = kept.projections()
    async with open_reader(kept.store_url, alone=True) as journal_reader:
        verified = await journal_reader.verify()
        assert await journal_reader.rebuild() == verified
    assert kept.projections() == before


class RemovalContract:
    async def test_a_removal_deletes_all_of_the_stream_and_nothing_of_another(self, kept: StoreDump) -> None:
        gone, _ = await two_lives(kept)
        before = kept.tables()
        theirs = of(before, GONE)

        removed = await remove(kept.store_url, GONE, BY, at(1_000))

        assert removed == StreamRows(
            len(theirs.contacts), len(theirs.conversations), len(theirs.interaction_events), gone.open_dead_letters
        )
        after = kept.tables()
        beginning = after.checkpoints[GONE.key]
        assert of(after, GONE) == Tables(checkpoints={GONE.key: beginning})
        assert beginning == Checkpoint(GONE, gone.version + 1, beginning.hash, at(1_000), removed_at=at(1_000))
        assert of(after, OTHER) == of(before, OTHER)
        assert kept.rows("SELECT DISTINCT stream FROM missed_conversations") == [(OTHER.key,)]

    async def test_a_removal_keeps_the_history_and_adds_who_asked(self, kept: StoreDump) -> None:
        gone, _ = await two_lives(kept)
        before = kept.tables().journal

        await remove(kept.store_url, GONE, BY, NOON)

        *history, entry = kept.tables().journal
        assert tuple(history) == before
        assert (entry.stream, entry.version, entry.run_id) == (GONE.key, gone.version + 1, None)
        assert (entry.type, entry.data) == ("stream_removed", '{"by":"a test"}')

    async def test_a_rebuild_after_a_removal_changes_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        await remove(kept.store_url, GONE, BY, NOON)
        await rebuilt_equal(kept)

        async with open_store(kept.store_url) as store:
            checkpoint = await live(store, GONE, 9)
        await rebuilt_equal(kept)
        assert kept.tables().checkpoints[GONE.key] == checkpoint

        await remove(kept.store_url, GONE, BY, NOON)
        await remove(kept.store_url, OTHER, BY, NOON)
        await rebuilt_equal(kept)
        tables = kept.tables()
        assert tables == Tables(tables.journal, tables.checkpoints)

    async def test_a_removed_stream_that_is_worked_again_starts_over(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            commits = list(life(GONE, 9))
            for each in commits:
                await store.commit(each)
        first = of(kept.tables(), GONE)
        await remove(kept.store_url, GONE, BY, NOON)

        async with open_store(kept.store_url) as store:
            checkpoint = await store.load(GONE)
            for each in commits:
                again = commit_after(
                    checkpoint,
                    *(entry.event for entry in each.entries),
                    changes=each.changes,
                    run_id=each.entries[0].run_id or "",
                    now=each.entries[0].recorded_at,
                )
                await store.commit(again)
                checkpoint = again.checkpoint

        last = of(kept.tables(), GONE)
        assert replace(last, checkpoints={}) == replace(first, checkpoints={})
        assert (checkpoint.total, checkpoint.sweep, checkpoint.open_dead_letters) == (
            commits[-1].checkpoint.total,
            commits[-1].checkpoint.sweep,
            commits[-1].checkpoint.open_dead_letters,
        )

    async def test_a_forgotten_person_stays_forgotten_after_a_removal(self, kept: StoreDump) -> None:
        people = ("ada", "bob")
        rows = Changes(
            tuple(conversation_row(f"t_{each}", of=GONE, contact_id=each) for each in people),
            tuple(contact_row(each, of=GONE) for each in people),
            tuple(event_row(f"m_{each}", of=GONE, conversation_id=f"t_{each}") for each in people),
        )
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(Checkpoint(GONE), changes=rows))
        await forget(kept.store_url, GONE, "ada")
        await remove(kept.store_url, GONE, BY, NOON)

        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(GONE), changes=rows))

        tables = kept.tables()
        assert set(tables.conversations) == {"t_bob"}
        assert {contact_id for _, _, contact_id in tables.contacts} == {"bob"}
        assert set(tables.interaction_events) == {"m_bob"}

    async def test_a_removal_is_complete_or_does_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        kept.refuse_deletes("contact_interaction_events")
        before = kept.tables()

        with pytest.raises(Exception, match="not this one"):
            await remove(kept.store_url, GONE, BY, NOON)

        assert kept.tables() == before

    async def test_removing_an_unknown_stream_changes_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        await remove(kept.store_url, GONE, BY, NOON)
        before = kept.tables()

        assert await remove(kept.store_url, GONE, BY, NOON) is None
        assert await remove(kept.store_url, stream(3), BY, NOON) is None

        assert kept.tables() == before

    async def test_the_rows_of_a_stream_are_counted_before_its_removal(self, kept: StoreDump) -> None:
        await two_lives(kept)
        async with open_reader(kept.store_url) as journal_reader:
            counted = await journal_reader.count_rows(GONE)
            assert counted.conversations > 0
            assert await journal_reader.count_rows(stream(3)) == StreamRows(0, 0, 0, 0)
        assert await remove(kept.store_url, GONE, BY, NOON) == counted
        async with open_reader(kept.store_url) as journal_reader:
            assert await journal_reader.count_rows(GONE) == StreamRows(0, 0, 0, 0)
