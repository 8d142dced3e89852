"""What every JournalReader must do: what verify detects, what rebuild restores, what a follower sees.

A subclass is named Test… and has two fixtures: `empty`, a database of this program's schema, and `filled`, one with
the lives of three streams.
"""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import NOON
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.errors import JournalDamaged
from milepost.core.events import NO_TALLY, Event, Reason, RunEnded, RunStarted, RunStatus
from milepost.core.evolve import evolve
from milepost.core.journal import Codec, RunOf
from milepost.core.model import Stream
from milepost.core.ports import Store
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import Record, prepare
from milepost.stores import rows
from milepost.stores.open import open_reader, open_store
from milepost.stores.reader import DeadLetterState, StoredEntry, Thread
from stores.histories import live, stream
from stores.store_dump import StoreDump

KEYS = {"checkpoints": "stream", "runs": "run_id", "dead_letters": "dead_letter_id"}
ONE_TOO_MANY = """
    CREATE TEMP TABLE one AS SELECT * FROM {table} LIMIT 1;
    UPDATE one SET {key} = 'extra';
    INSERT INTO {table} SELECT * FROM one
"""
STREAMS = [stream(number) for number in range(3)]
MIGRATIONS = Path(__file__).parents[2] / "migrations"
RENAMED = "0013_invalid_response"
OLD_WORD, NEW_WORD = '"kind":"nonsense"', '"kind":"invalid_response"'


class OldWords(Codec):
    """Writes entries as they were before `nonsense` became `invalid_response`."""

    def encode(self, event: Event) -> tuple[str, str]:
        tag, data = super().encode(event)
        return tag, data.replace(NEW_WORD, OLD_WORD)


async def fill(store: Store) -> None:
    """Commit the lives of three streams at the same time, so that their entries interleave."""
    await asyncio.gather(*(live(store, each, 23) for each in STREAMS))


async def finds_a_changed_journal(kept: StoreDump, tampering: str) -> None:
    before = kept.rows("SELECT * FROM journal ORDER BY seq")
    kept.unguard()
    kept.execute(tampering)
    assert kept.rows("SELECT * FROM journal ORDER BY seq") != before

    with pytest.raises(JournalDamaged):
        await verify(kept)


async def verify(kept: StoreDump) -> None:
    async with open_reader(kept.store_url) as journal_reader:
        await journal_reader.verify()


async def rebuild(kept: StoreDump) -> None:
    async with open_reader(kept.store_url, alone=True) as journal_reader:
        await journal_reader.rebuild()


class VerifyContract:
    async def test_verify_reports_what_it_has_read(self, filled: StoreDump) -> None:
        async with open_reader(filled.store_url) as journal_reader:
            audit = await journal_reader.verify()

        tables = filled.tables()
        assert (audit.entries, audit.streams) == (len(tables.journal), 3)
        assert (audit.runs, audit.dead_letters) == (len(tables.runs), len(tables.dead_letters))
        assert audit.last_recorded_at == tables.journal[-1].entry().recorded_at
        assert audit.runs >= 12
        assert audit.dead_letters >= 50

    async def test_verify_accepts_an_empty_journal(self, empty: StoreDump) -> None:
        async with open_reader(empty.store_url) as journal_reader:
            audit = await journal_reader.verify()

        assert (audit.entries, audit.streams, audit.last_recorded_at) == (0, 0, None)

    async def test_a_database_with_the_old_word_for_an_invalid_response_verifies(self, empty: StoreDump) -> None:
        problem = Problem(ProblemKind.INVALID_RESPONSE, 'it says "kind":"nonsense"', http_status=502)
        failed = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, None, NO_TALLY, problem)
        async with open_store(empty.store_url) as store:
            unborn = await store.load(STREAMS[0])
            await store.commit(prepare(unborn, Record((RunStarted(NOON), failed)), "run-1", NOON, OldWords()))
        kind = "postgresql" if empty.store_url.file is None else "sqlite"
        script = (MIGRATIONS / kind / f"{RENAMED}.sql").read_text()
        empty.execute(script.replace(OLD_WORD, "?").replace(NEW_WORD, OLD_WORD).replace("?", NEW_WORD))
        empty.execute(f"DELETE FROM schema_migrations WHERE name = '{RENAMED}'")
        assert OLD_WORD in str(empty.rows("SELECT problem FROM runs"))

        async with open_store(empty.store_url):  # it migrates
            pass

        await verify(empty)
        tables = empty.tables()
        assert OLD_WORD in tables.journal[1].data
        assert tables.runs["run-1"].problem == problem
        (state,) = (state for (state,) in empty.rows("SELECT state FROM checkpoints"))
        assert OLD_WORD not in str(state)

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE journal SET hash = upper(hash) WHERE seq = 60",
            "UPDATE journal SET run_id = 'another' WHERE seq = 60",
            "UPDATE journal SET run_id = NULL WHERE seq = 60",
            "UPDATE journal SET type = 'batch_lost' WHERE seq = 60",
            "UPDATE journal SET version = version + 1000 WHERE seq = 60",
            "UPDATE journal SET stream = 'messenger:elsewhere' WHERE seq = 60",
            "DELETE FROM journal WHERE seq = 60",
            "DELETE FROM journal WHERE seq = 1",
            "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
            "DELETE FROM journal WHERE stream = 'messenger:page-1'",
            "DELETE FROM journal",
            "UPDATE journal SET seq = -seq WHERE seq = 60",
        ],
    )
    async def test_verify_detects_a_changed_journal(self, filled: StoreDump, tampering: str) -> None:
        await finds_a_changed_journal(filled, tampering)

    @pytest.mark.parametrize("to_null", [False, True], ids=["to another value", "to NULL"])
    @pytest.mark.parametrize(("table", "key"), KEYS.items())
    async def test_verify_detects_any_changed_column_of_a_projection(
        self, filled: StoreDump, table: str, key: str, to_null: bool
    ) -> None:
        checked, before = 0, filled.projections()
        async with open_reader(filled.store_url, alone=True) as journal_reader:
            for column, value in filled.columns(table, only_nullable=to_null).items():
                put = "NULL" if to_null else value
                filled.execute(f"UPDATE {table} SET {column} = {put} WHERE {key} = (SELECT max({key}) FROM {table})")
                if filled.projections() != before:
                    checked += 1
                    with pytest.raises(JournalDamaged, match="journal rebuild"):
                        await journal_reader.verify()
                await journal_reader.rebuild()
                assert filled.projections() == before
        assert checked >= (1 if to_null else 5)

    @pytest.mark.parametrize(
        "tampering",
        [
            "DELETE FROM {table} WHERE {key} = (SELECT max({key}) FROM {table})",
            "DELETE FROM {table}",
            ONE_TOO_MANY,
        ],
        ids=["a row is missing", "all are missing", "one too many"],
    )
    @pytest.mark.parametrize(("table", "key"), KEYS.items())
    async def test_verify_detects_surplus_and_missing_rows(
        self, filled: StoreDump, tampering: str, table: str, key: str
    ) -> None:
        filled.execute(tampering.format(table=table, key=key))

        with pytest.raises(JournalDamaged, match="journal rebuild"):
            await verify(filled)

    async def test_verify_works_beside_a_daemon_that_writes(self, filled: StoreDump) -> None:
        are_verified = asyncio.Event()

        async def write(store: Store) -> None:
            while not are_verified.is_set():
                await fill(store)

        async with open_store(filled.store_url) as store, asyncio.TaskGroup() as group:
            group.create_task(write(store))
            for _ in range(3):
                await verify(filled)
            are_verified.set()
        await verify(filled)


class RebuildContract:
    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM checkpoints; DELETE FROM runs; DELETE FROM dead_letters",
            "UPDATE checkpoints SET state = '{}', version = 0; UPDATE runs SET status = '?', stream = 'x:y'",
            "UPDATE runs SET run_id = 'x' || run_id; UPDATE dead_letters SET dead_letter_id = 'x' || dead_letter_id",
            "UPDATE checkpoints SET stream = 'x' || stream",
            "SELECT 1",
        ],
    )
    async def test_rebuild_restores_every_projection_byte_for_byte(self, filled: StoreDump, damage: str) -> None:
        before = filled.projections()
        filled.execute(damage)

        await rebuild(filled)

        assert filled.projections() == before
        await verify(filled)

    async def test_rebuild_changes_nothing_if_the_journal_is_damaged(self, filled: StoreDump) -> None:
        filled.unguard()
        filled.execute("UPDATE journal SET hash = upper(hash) WHERE seq = 60; DELETE FROM runs")
        before = filled.projections()

        with pytest.raises(JournalDamaged):
            await rebuild(filled)

        assert filled.projections() == before

    async def test_a_start_continues_from_what_was_rebuilt(self, filled: StoreDump) -> None:
        filled.execute("DELETE FROM checkpoints; DELETE FROM runs; DELETE FROM dead_letters")
        await rebuild(filled)

        async with open_store(filled.store_url) as store:
            await fill(store)

        await verify(filled)


class EntriesContract:
    async def test_entries_are_read_by_seq_with_and_without_a_stream(self, filled: StoreDump) -> None:
        everything = [StoredEntry(row.seq, row.entry()) for row in filled.tables().journal]
        async with open_reader(filled.store_url) as journal_reader:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                mine = [placed for placed in everything if of in (None, placed.entry.stream.key)]
                for after in (-1, 0, 1, 2, 50, 51, 52, 53, everything[-1].seq - 1, everything[-1].seq, 10**9):
                    for limit in (1, 7, 10_000):
                        expected = [placed for placed in mine if placed.seq > after][:limit]
                        assert await journal_reader.entries(after=after, limit=limit, stream=of) == expected
                for limit in (1, 7, 10_000):
                    assert await journal_reader.latest(limit=limit, stream=of) == mine[-limit:]

    @pytest.mark.parametrize("followed", [None, STREAMS[1].key])
    async def test_a_follower_misses_no_entry_while_entries_are_written(
        self, empty: StoreDump, followed: str | None
    ) -> None:
        seen: list[StoredEntry] = []
        async with (
            open_store(empty.store_url) as store,
            open_reader(empty.store_url) as journal_reader,
            asyncio.TaskGroup() as group,
        ):
            writing = group.create_task(fill(store))
            is_last_look = False
            while not is_last_look:
                is_last_look = writing.done()
                while found := await journal_reader.entries(
                    after=seen[-1].seq if seen else 0, limit=5, stream=followed
                ):
                    seen.extend(found)

        written = [StoredEntry(row.seq, row.entry()) for row in empty.tables().journal]
        assert seen == [placed for placed in written if followed in (None, placed.entry.stream.key)]

    async def test_a_page_has_the_name_that_is_known_on_any_platform(self, empty: StoreDump) -> None:
        pages = (
            "('messenger', '9', 'Corner Bakery', NULL)",
            "('instagram', '9', NULL, 'bakery')",
            "('instagram', '8', NULL, 'bikes')",
            "('messenger', '7', NULL, NULL)",
        )
        times = f"'{NOON:%Y-%m-%dT%H:%M:%S.000Z}', '{NOON:%Y-%m-%dT%H:%M:%S.000Z}'"
        rows = ", ".join(f"{page[:-1]}, {times})" for page in pages)
        empty.execute(
            f"INSERT INTO pages (platform, page_id, name, username, first_seen_at, last_seen_at) VALUES {rows}"
        )
        async with open_reader(empty.store_url) as journal_reader:
            assert await journal_reader.page_names() == {"9": "Corner Bakery", "8": "bikes"}

    async def test_checkpoints_are_ordered_by_stream(self, filled: StoreDump) -> None:
        async with open_reader(filled.store_url) as journal_reader:
            found = await journal_reader.checkpoints()

        assert [each.stream.key for each in found] == sorted(each.key for each in STREAMS)
        assert {each.stream.key: each for each in found} == filled.tables().refold()

    async def test_an_unreadable_checkpoint_says_how_to_repair_it(self, filled: StoreDump) -> None:
        filled.execute("UPDATE checkpoints SET state = '{}'")

        async with open_reader(filled.store_url) as journal_reader:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await journal_reader.checkpoints()


class PositionsContract:
    async def test_a_stream_is_folded_from_the_beginning_of_the_run_that_an_entry_is_in(
        self, filled: StoreDump
    ) -> None:
        stream = STREAMS[0]
        async with open_reader(filled.store_url) as journal_reader:
            whole = Checkpoint(stream)
            for placed in await journal_reader.entries(after=0, limit=1000, stream=stream.key):
                within = (await journal_reader.within_runs({stream: placed.entry.version}))[stream]
                assert within.version == whole.version
                if whole.run is not None and whole.run.ended_at is None:
                    assert within.run is not None
                    assert replace(within.run, mode=None) == replace(whole.run, mode=None)  # which is the sweep's
                whole = evolve(whole, placed.entry)

    async def test_each_of_many_streams_is_folded_by_itself(self, filled: StoreDump) -> None:
        async with open_reader(filled.store_url) as journal_reader:
            nobody = Stream.parse("messenger:nobody")
            found = await journal_reader.within_runs(dict.fromkeys(STREAMS, 5) | {nobody: 1})
        assert [found[each].version for each in STREAMS] == [4, 4, 4]
        assert found[nobody] == Checkpoint(nobody)

    async def test_the_last_seq_before_an_instant_is_found(self, filled: StoreDump) -> None:
        async with open_reader(filled.store_url) as journal_reader:
            instants = [each.entry.recorded_at for each in await journal_reader.entries(after=0, limit=1000)]
            for instant in (NOON, NOON + timedelta(days=1), *instants[::10]):
                seq = await journal_reader.seq_before(instant)
                assert seq == 0 or instants[seq - 1] < instant
                assert seq == len(instants) or instants[seq] >= instant


class RunsContract:
    async def test_runs_are_listed_page_by_page_newest_first(self, filled: StoreDump) -> None:
        everything = [rows.run(each) for each in filled.rows("SELECT * FROM runs ORDER BY run_id DESC")]
        assert len(everything) > 7
        async with open_reader(filled.store_url) as journal_reader:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                found: list[RunOf] = []
                while page := await journal_reader.runs(
                    before=found[-1].run.run_id if found else None, limit=7, stream=of
                ):
                    assert len(page) <= 7
                    found.extend(page)
                assert found == [each for each in everything if of in (None, each.stream.key)]

    @pytest.mark.parametrize("damage", ["status = 'lost'", "problem = '{}'"])
    async def test_an_unreadable_run_says_how_to_repair_it(self, filled: StoreDump, damage: str) -> None:
        filled.execute(f"UPDATE runs SET {damage}")

        async with open_reader(filled.store_url) as journal_reader:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await journal_reader.runs(limit=1)


def is_in(dead_letter: DeadLetter, state: DeadLetterState) -> bool:
    return state is DeadLetterState.ALL or (dead_letter.closed_at is None) is (state is DeadLetterState.OPEN)


class DeadLettersContract:
    async def test_dead_letters_are_listed_page_by_page_oldest_first(self, filled: StoreDump) -> None:
        everything = sorted(
            filled.tables().dead_letters.values(), key=lambda each: (each.opened_at, each.dead_letter_id)
        )
        async with open_reader(filled.store_url) as journal_reader:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                for state in DeadLetterState:
                    expected = [each for each in everything if of in (None, each.stream.key) and is_in(each, state)]
                    found: list[DeadLetter] = []
                    while page := await journal_reader.dead_letters(
                        state, stream=of, after=found[-1].dead_letter_id if found else None, limit=7
                    ):
                        assert len(page) <= 7
                        found.extend(page)
                    assert found == expected
        assert 0 < sum(each.closed_at is not None for each in everything) < len(everything)

    async def test_a_dead_letter_has_its_payload_while_it_is_open(self, filled: StoreDump) -> None:
        tables = filled.tables()
        async with open_reader(filled.store_url) as journal_reader:
            for key, dead_letter in tables.dead_letters.items():
                assert await journal_reader.dead_letter(key) == (
                    dead_letter,
                    "{}" if dead_letter.closed_at is None else None,
                )
            assert await journal_reader.dead_letter("unknown") is None

    async def test_a_stored_conversation_has_its_link_and_the_name_of_its_contact(self, filled: StoreDump) -> None:
        tables = filled.tables()
        contacts = {(each.platform, each.page_id, each.contact_id): each for each in tables.contacts.values()}
        async with open_reader(filled.store_url) as journal_reader:
            found = await journal_reader.threads([*tables.conversations, "unknown"])
        assert found.keys() == tables.conversations.keys() != set()
        for key, row in tables.conversations.items():
            contact = contacts.get((row.platform, row.page_id, row.contact_id or ""))
            name = None if contact is None else contact.name or contact.username
            assert found[key] == Thread(name, row.link)

    async def test_an_unreadable_dead_letter_says_how_to_repair_it(self, filled: StoreDump) -> None:
        filled.execute("UPDATE dead_letters SET resolution = 'lost'")

        async with open_reader(filled.store_url) as journal_reader:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await journal_reader.dead_letters(DeadLetterState.ALL, limit=1)


class JournalReaderContract(
    VerifyContract, RebuildContract, EntriesContract, PositionsContract, RunsContract, DeadLettersContract
):
    """All contracts of a JournalReader."""
