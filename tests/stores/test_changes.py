"""The change feed of any database: whoever follows it has what the tables have."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from kit.builders import NOON, STREAM, at
from kit.mirror import TABLES, Mirror, numbers, stored_numbers
from kit.postgres import Database, fresh_database, running
from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangeOp
from milepost.core.errors import HistoryRewritten, StoreAway
from milepost.core.journal import instant_text
from milepost.core.model import Changes, Platform, Stream
from milepost.stores.changes import ChangesAsked
from milepost.stores.open import forget, open_reader, open_store, remove
from milepost.stores.postgresql import reader as reading
from milepost.stores.postgresql.connection import settings
from milepost.stores.postgresql.reader import KEYS_OF_LOCKS, settled
from milepost.stores.reader import load_statements
from milepost.stores.store import OpenStore
from stores.histories import ROWS, contact_row, conversation_row, event_row, write
from stores.sqlite_files import raw
from stores.store_dump import IN_POSTGRESQL, PostgresDump, StoreDump

OTHER = Stream(Platform.MESSENGER, "9")
ELSEWHERE = Changes(
    (conversation_row("t_9", of=OTHER, contact_id="c_9"),),
    (contact_row("c_9", of=OTHER),),
    (replace(event_row("m_9", of=OTHER, conversation_id="t_9"), contact_id="c_9"),),
)


async def followed(kept: StoreDump, mirror: Mirror, *, limit: int = 1000, stream: Stream | None = None) -> list[Change]:
    """Follow the feed to its end, and return what is new."""
    async with open_reader(kept.store_url) as reader:
        return await mirror.follow(reader, limit=limit, stream=stream)


@asynccontextmanager
async def mirrored(kept: StoreDump) -> AsyncIterator[tuple[OpenStore, Mirror]]:
    """Open the store with ROWS in it, and a mirror that has followed them."""
    mirror = Mirror()
    async with open_store(kept.store_url) as store:
        await write(store, ROWS)
        await followed(kept, mirror)
        yield store, mirror


def told(changes: list[Change]) -> set[tuple[ChangeKind, ChangeOp, str]]:
    """Return which rows changes are about, by the last column of their key."""
    return {(each.kind, each.op, tuple(each.key.values())[-1]) for each in changes}


def is_mirrored(kept: StoreDump, mirror: Mirror) -> bool:
    """Return whether a consumer has exactly the tables' rows, at their latest state."""
    with kept.asking() as ask:
        return numbers(mirror.rows) == stored_numbers(ask)


UPSERT, DELETE = ChangeOp.UPSERT, ChangeOp.DELETE
CONTACT, CONVERSATION, MESSAGE = ChangeKind.CONTACT, ChangeKind.CONVERSATION, ChangeKind.MESSAGE


class TestChanges:
    async def test_a_row_has_all_columns_of_its_table(self, kept: StoreDump) -> None:
        mirror = Mirror()
        event = replace(event_row(), attachments='[{"type":"image"}]')
        async with open_store(kept.store_url) as store:
            await write(store, Changes((conversation_row(),), (contact_row(),), (event,)))

        changes = await followed(kept, mirror)

        assert [(each.kind, each.op) for each in changes] == [
            (CONTACT, UPSERT),
            (CONVERSATION, UPSERT),
            (MESSAGE, UPSERT),
        ]
        for each in changes:
            table, key = TABLES[each.kind]
            assert each.row is not None
            assert each.row.keys() == kept.columns(table, only_nullable=False).keys()
            assert each.key == {name: each.row[name] for name in key}
        contact, conversation, message = (each.row or {} for each in changes)
        assert (
            contact["updated_at"] == conversation["synced_at"] == message["occurred_at"] == "2026-03-01T12:00:00.000Z"
        )
        assert conversation["can_reply"] is True
        assert message["attachments"] == [{"type": "image"}]

    async def test_each_row_names_the_version_that_last_changed_it(self, kept: StoreDump) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            first = await write(store, ROWS)
            second = await write(store, Changes(contacts=(contact_row(name="Countess"),)))
            edited = replace(event_row("m_2", text="hallo"), edited_at=at(60))
            third = await write(store, Changes(revised=(edited,)))

        await followed(kept, mirror)

        assert {key[1][-1]: row["version"] for key, row in mirror.rows.items()} == {
            "t_1": first,
            "m_1": first,
            "c_1": second,
            "m_2": third,
        }
        assert is_mirrored(kept, mirror)

    async def test_nothing_new_leaves_a_consumer_where_it_is(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_reader(kept.store_url) as reader:
            assert (await reader.read_changes(0, 10)).next == 0
            await write(store, ROWS)
            end = await reader.last_change()

            page = await reader.read_changes(end, 10)

        assert (page.changes, page.next) == ((), end)

    async def test_a_consumer_ahead_of_a_restored_database_continues_at_its_end(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_reader(kept.store_url) as reader:
            await write(store, ROWS)
            end = await reader.last_change()

            beyond = await reader.read_changes(end + 100, 10)
            of_stream = await reader.read_changes(end + 100, 10, {CONTACT}, Stream(Platform.INSTAGRAM, "9"))

        assert (beyond.changes, beyond.next) == ((), end)
        assert (of_stream.changes, of_stream.next) == ((), end)

    async def test_a_mark_says_that_entries_were_lost_also_when_their_numbers_are_assigned_again(
        self, kept: StoreDump
    ) -> None:
        """As after a restore, or a failover to a replica that had not received the last commits."""
        async with mirrored(kept) as (store, mirror):
            await write(store, Changes(contacts=(contact_row(name="Countess"),)))
            await followed(kept, mirror)
            kept.unguard()
            kept.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
            with pytest.raises(HistoryRewritten, match=f"up to {mirror.place} is no longer"):
                await followed(kept, mirror)

            await write(store, Changes(contacts=(contact_row(name="Lovelace"),)))
            with pytest.raises(HistoryRewritten, match=f"up to {mirror.place} is no longer"):
                await followed(kept, mirror)

            again = Mirror()
            await followed(kept, again)
            await write(store, Changes(contacts=(contact_row("c_2"),)))
            assert len(await followed(kept, again)) == 1

    async def test_a_mark_says_that_an_erasure_was_lost_although_it_has_no_entry(self, kept: StoreDump) -> None:
        async with mirrored(kept) as (store, mirror):
            await forget(kept.store_url, STREAM, "c_1")
            await followed(kept, mirror)
            kept.execute("DELETE FROM deleted_rows")
            many = Changes(contacts=tuple(contact_row(f"c_{number}", of=OTHER) for number in range(20)))
            await write(store, many, OTHER)

            with pytest.raises(HistoryRewritten):
                await followed(kept, mirror)

    @pytest.mark.parametrize("mark", ["x", "1-0-0123456789abcdef", "1-0", "9" * 18 + "-1-0123456789abcdef"])
    async def test_a_mark_of_another_database_is_refused(self, kept: StoreDump, mark: str) -> None:
        async with mirrored(kept) as (_, mirror), open_reader(kept.store_url) as reader:
            with pytest.raises(HistoryRewritten):
                await reader.read_changes(mirror.place, 10, mark=mark)
            with pytest.raises(HistoryRewritten):
                await reader.read_changes(mirror.place + 1, 10, mark=mirror.mark)

            assert len((await reader.read_changes(0, 10, mark=mark)).changes) == 4

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_pages_of_any_size_come_to_the_same(self, kept: StoreDump, limit: int) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await write(store, ELSEWHERE, OTHER)
            await write(store, Changes((conversation_row(snippet="later"),)))

        changes = await followed(kept, mirror, limit=limit)

        assert len(changes) == 7
        assert is_mirrored(kept, mirror)

    async def test_a_row_that_changes_again_is_shown_again_at_its_latest_state_only(self, kept: StoreDump) -> None:
        async with mirrored(kept) as (store, mirror):
            for name in ("Countess", "Lovelace"):
                await write(store, Changes(contacts=(contact_row(name=name),)))

        (change,) = await followed(kept, mirror)

        assert change.row is not None
        assert (change.kind, change.row["name"]) == (CONTACT, "Lovelace")

    async def test_a_consumer_may_want_some_kinds_or_one_stream(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_reader(kept.store_url) as reader:
            await write(store, ROWS)
            await write(store, ELSEWHERE, OTHER)
            people = await Mirror().follow(reader, kinds={CONTACT})
            of_other = await Mirror().follow(reader, stream=OTHER, limit=2)
            nothing = await reader.read_changes(0, 10, {CONTACT}, Stream(Platform.INSTAGRAM, "9"))
            end = await reader.last_change()

        assert told(people) == {(CONTACT, UPSERT, "c_1"), (CONTACT, UPSERT, "c_9")}
        assert told(of_other) == {
            (CONTACT, UPSERT, "c_9"),
            (CONVERSATION, UPSERT, "t_9"),
            (MESSAGE, UPSERT, "m_9"),
        }
        assert (nothing.changes, nothing.next) == ((), end)

    async def test_who_was_forgotten_comes_as_deletes_without_rows(self, kept: StoreDump) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await write(store, ELSEWHERE, OTHER)
            await followed(kept, mirror)

            await forget(kept.store_url, STREAM, "c_1")
            changes = await followed(kept, mirror)

        assert told(changes) == {
            (CONTACT, DELETE, "c_1"),
            (CONVERSATION, DELETE, "t_1"),
            (MESSAGE, DELETE, "m_1"),
            (MESSAGE, DELETE, "m_2"),
        }
        (contact,) = (each for each in changes if each.kind is CONTACT)
        assert contact.key == {"platform": STREAM.platform, "page_id": STREAM.page_id, "contact_id": "c_1"}
        assert is_mirrored(kept, mirror)

    async def test_a_reaction_of_who_was_forgotten_changes_the_message_of_somebody_else(self, kept: StoreDump) -> None:
        mirror = Mirror()
        reacted = replace(event_row("m_1"), reactions='[{"from":"bob","reaction":"love"}]')
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await write(store, Changes(revised=(reacted,)))
            latest = await write(store, Changes(contacts=(contact_row(name="Countess"),)))
            await followed(kept, mirror)

            await forget(kept.store_url, STREAM, "bob")
            (change,) = await followed(kept, mirror)

        assert change.row is not None
        assert (change.key, change.row["reactions"], change.row["version"]) == ({"event_id": "m_1"}, None, latest)
        assert is_mirrored(kept, mirror)

    async def test_the_row_that_changed_last_is_deleted(self, kept: StoreDump) -> None:
        """Its number is the greatest, and the deletion takes a greater one."""
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
        await followed(kept, mirror)

        for _ in range(2):
            kept.execute(
                "DELETE FROM contact_interaction_events"
                " WHERE change_seq = (SELECT max(change_seq) FROM contact_interaction_events)"
            )
            ((kind, op, _),) = told(await followed(kept, mirror))
            assert (kind, op) == (MESSAGE, DELETE)
        assert is_mirrored(kept, mirror)

    async def test_a_request_looks_only_so_far_for_the_changes_of_one_stream(
        self, kept: StoreDump, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many others there are, it ends, with an empty page from which the next one goes on."""
        monkeypatch.setattr("milepost.stores.changes.PASSED_OVER", 2)
        monkeypatch.setattr("milepost.stores.changes.MAX_STATEMENTS", 3)
        async with open_store(kept.store_url) as store:
            await write(store, Changes(contacts=tuple(contact_row(f"c_{number}") for number in range(10))))
            await write(store, ELSEWHERE, OTHER)
        async with open_reader(kept.store_url) as reader:
            page = await reader.read_changes(0, 100, stream=OTHER)
            of_other = await Mirror().follow(reader, stream=OTHER)
        assert (page.changes, page.next) == ((), 6)
        assert len(of_other) == 3

    async def test_a_stream_that_is_removed_and_read_again(self, kept: StoreDump) -> None:
        mirror, late = Mirror(), Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await followed(kept, mirror)
        await remove(kept.store_url, STREAM, "test", NOON)

        assert {each.op for each in await followed(kept, mirror)} == {DELETE}
        assert is_mirrored(kept, mirror)

        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
        await followed(kept, mirror)
        await followed(kept, late)
        assert is_mirrored(kept, mirror)
        assert is_mirrored(kept, late)

    async def test_rows_that_move_to_another_page_leave_the_stream_they_were_in(self, kept: StoreDump) -> None:
        every, of_stream, of_other = Mirror(), Mirror(), Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await followed(kept, every)
            await followed(kept, of_stream, stream=STREAM)

            version = await write(store, Changes(moved=("t_1",)), OTHER)
            changes = await followed(kept, every)

        assert told(changes) == {
            (CONTACT, DELETE, "c_1"),
            (CONTACT, UPSERT, "c_1"),
            (CONVERSATION, UPSERT, "t_1"),
            (MESSAGE, UPSERT, "m_1"),
            (MESSAGE, UPSERT, "m_2"),
        }
        assert {each.row["version"] for each in changes if each.row is not None} == {version}
        assert is_mirrored(kept, every)
        await followed(kept, of_stream, stream=STREAM)
        await followed(kept, of_other, stream=OTHER)
        assert of_stream.rows == {}
        assert of_other.rows == every.rows

    async def test_messages_that_turn_out_to_be_ours_change_and_so_does_their_contact(self, kept: StoreDump) -> None:
        async with mirrored(kept) as (store, mirror):
            version = await write(store, Changes(own_id="c_1"))
            changes = await followed(kept, mirror)

        assert told(changes) == {
            (CONTACT, DELETE, "c_1"),
            (CONVERSATION, UPSERT, "t_1"),
            (MESSAGE, UPSERT, "m_1"),
            (MESSAGE, UPSERT, "m_2"),
        }
        assert {each.row["version"] for each in changes if each.row is not None} == {version}
        assert is_mirrored(kept, mirror)

    async def test_conversations_that_a_sweep_missed_change(self, kept: StoreDump) -> None:
        async with mirrored(kept) as (store, mirror):
            kept.execute(f"INSERT INTO missed_conversations VALUES ('{STREAM}', 't_1', '2026-03-01T12:00:00.000Z')")

            version = await write(store, Changes(missed_are_deleted_at=at(60)))
            (change,) = await followed(kept, mirror)

        assert change.row is not None
        assert (change.kind, change.row["version"]) == (CONVERSATION, version)
        assert change.row["deleted_at"] == instant_text(at(60))
        assert is_mirrored(kept, mirror)

    async def test_messages_are_history_unless_they_were_sent_since_the_last_sweep(self, kept: StoreDump) -> None:
        mirror = Mirror()
        old, new = (replace(event_row(name), occurred_at=NOON + timedelta(hours=n)) for n, name in enumerate("ab"))
        first = event_row("m_1")
        async with open_store(kept.store_url) as store:
            await write(store, Changes(interaction_events=(first,)))
            await write(store, Changes(interaction_events=(old, new), news_after=NOON))

        changes = await followed(kept, mirror)

        assert {each.key["event_id"]: each.history for each in changes} == {"m_1": True, "a": True, "b": False}
        assert all(each.row is not None and each.row["history"] is each.history for each in changes)

    async def test_whatever_else_changes_a_row_is_noticed(self, kept: StoreDump) -> None:
        """Say, an operator who mends a row by hand."""
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
        await followed(kept, mirror)

        kept.execute("UPDATE contacts SET name = 'Countess'; DELETE FROM contact_interaction_events")

        assert told(await followed(kept, mirror)) == {
            (CONTACT, UPSERT, "c_1"),
            (MESSAGE, DELETE, "m_1"),
            (MESSAGE, DELETE, "m_2"),
        }
        assert is_mirrored(kept, mirror)


# --- SQLite -----------------------------------------------------------------------------------------------------------


SQL = load_statements("sqlite", "changes")


@pytest.mark.parametrize("stream", [None, OTHER])
@pytest.mark.parametrize("name", sorted(SQL))
def test_a_statement_finds_its_rows_by_their_numbers(path: Path, name: str, stream: Stream | None) -> None:
    parameters = ChangesAsked(7, 10, ALL_KINDS, stream).parameters(7, 20)
    with raw(path) as connection:
        steps = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", parameters)]

    reads = [step for step in steps if re.match(r"(SEARCH|SCAN) (contact|conversation|deleted)", step)]
    assert reads
    assert all(re.search(r"\((change_seq|rowid)>\? AND (change_seq|rowid)<\?\)", step) for step in reads)
    sorted_pages = 4 if name == "changes_up_to" else 0  # which merges a page of each table
    assert sum("TEMP B-TREE" in step for step in steps) == sorted_pages


# --- PostgreSQL, where several transactions take numbers at the same time ---------------------------------------------


RENAME = "SET search_path TO milepost; UPDATE contacts SET name = 'Countess' WHERE contact_id = 'c_1'"
CLOSE = "SET search_path TO milepost; UPDATE conversations SET can_reply = false"


@IN_POSTGRESQL
class TestTransactionsAtTheSameTime:
    async def test_a_change_with_a_smaller_number_that_is_committed_later_is_not_skipped(
        self, kept: StoreDump, database: Database
    ) -> None:
        async with mirrored(kept) as (_, mirror):
            with database.connect() as slow:
                slow.autocommit = False
                slow.execute(RENAME)  # it has taken its number

                kept.execute(CLOSE)  # takes the next number, and is committed
                assert await followed(kept, mirror) == []

                slow.commit()
            changes = await followed(kept, mirror)

        assert told(changes) == {
            (ChangeKind.CONTACT, ChangeOp.UPSERT, "c_1"),
            (ChangeKind.CONVERSATION, ChangeOp.UPSERT, "t_1"),
        }
        assert is_mirrored(kept, mirror)

    async def test_a_transaction_that_holds_the_feed_up_is_reported_while_it_lasts(
        self, kept: StoreDump, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody may have left it open. Consumers seem to be up to date meanwhile."""
        monkeypatch.setattr(reading, "HELD_UP_SECONDS", 0.0)
        async with mirrored(kept), open_reader(kept.store_url) as reader:
            await reader.last_change()  # nothing is held up yet, however long ago this is
            with database.connect() as slow, capture_logs() as logs:
                slow.autocommit = False
                slow.execute(RENAME)
                kept.execute(CLOSE)
                before = await reader.last_change()
                assert await reader.last_change() == before
                assert [(line["event"], line["after"], line["waiting"]) for line in logs] == [
                    ("change feed held up by an open transaction", before, 2)
                ]
                slow.commit()
                assert await reader.last_change() == await reader.last_change() > before
                assert len(logs) == 1

    async def test_a_transaction_that_is_rolled_back_holds_nothing_up(
        self, kept: StoreDump, database: Database
    ) -> None:
        async with mirrored(kept) as (_, mirror):
            with database.connect() as failing:
                failing.autocommit = False
                failing.execute(RENAME)
                with pytest.raises(psycopg.Error), failing.transaction():
                    failing.execute("UPDATE conversations SET can_reply = 1 / 0 > 1")
                kept.execute(CLOSE)
                failing.rollback()

            changes = await followed(kept, mirror)

        assert told(changes) == {(ChangeKind.CONVERSATION, ChangeOp.UPSERT, "t_1")}

    async def test_a_transaction_that_goes_on_after_a_failure_is_still_waited_for(
        self, kept: StoreDump, database: Database
    ) -> None:
        """What is rolled back to a savepoint gives its lock up; the next statement takes another."""
        async with mirrored(kept) as (_, mirror):
            with database.connect() as slow:
                slow.autocommit = False
                slow.execute("SET search_path TO milepost")
                with pytest.raises(psycopg.Error), slow.transaction():
                    slow.execute("UPDATE contacts SET name = (1 / length('')::integer)::text")
                slow.execute(RENAME)
                kept.execute(CLOSE)

                assert await followed(kept, mirror) == []
                slow.commit()

            assert len(await followed(kept, mirror)) == 2

    async def test_a_transaction_whose_lock_comes_late_sets_nobody_back(
        self, kept: StoreDump, database: Database
    ) -> None:
        """It has read the last number, and takes its lock when that number and more have been handed out."""
        async with mirrored(kept) as (_, mirror), open_reader(kept.store_url) as reader:
            with database.connect() as late:
                late.autocommit = False
                late.execute("SELECT pg_advisory_xact_lock_shared(hashtext('milepost changes'), 0)")

                assert (await reader.read_changes(mirror.place, 10)).next == mirror.place
                assert await mirror.follow(reader) == []

    async def test_transactions_in_another_schema_or_database_hold_nothing_up(
        self, kept: StoreDump, database: Database
    ) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            with database.connect() as other:
                other.autocommit = False
                other.execute("SELECT pg_advisory_xact_lock_shared(hashtext('other changes'), 0), txid_current()")

                await followed(kept, mirror)

        assert is_mirrored(kept, mirror)


async def test_a_replica_does_not_claim_to_know_how_far_the_feed_is_complete() -> None:
    """The transactions under way on the primary do not show in it: their numbers would be passed over for good."""
    with running() as server, fresh_database(server, template=None) as database:
        async with mirrored(PostgresDump(database)) as (_, mirror):
            pass
        server.become_standby()
        async with open_reader(database.store_url) as reader:
            for ask in (lambda: mirror.follow(reader), reader.last_change):
                with pytest.raises(StoreAway, match="replica"):
                    await ask()

            server.sql("SELECT pg_promote()")
            assert await mirror.follow(reader) == []


class TestSettled:
    def test_everything_is_settled_if_no_transaction_is_under_way(self) -> None:
        assert settled(17, ()) == 17

    def test_the_smallest_number_under_way_bounds_what_is_settled(self) -> None:
        assert settled(17, (12, 15)) == 12

    def test_a_transaction_that_has_begun_since_does_not_count(self) -> None:
        assert settled(17, (19,)) == 17

    def test_keys_repeat_after_many_numbers(self) -> None:
        many = 5 * KEYS_OF_LOCKS
        assert settled(many + 2, (KEYS_OF_LOCKS - 3, 1)) == many - 3


GROWTH = """
SET search_path TO milepost;
INSERT INTO contacts (platform, page_id, contact_id, first_seen_at, last_interaction_at, updated_at)
SELECT 'messenger', n % 100, 'c_' || n, now(), now(), now() FROM generate_series(1, 9000) AS n;
INSERT INTO conversations (conversation_id, platform, page_id, contact_id, updated_time, first_synced_at, synced_at)
SELECT 't_' || n, 'messenger', n % 100, 'c_' || n, now(), now(), now() FROM generate_series(1, 9000) AS n;
INSERT INTO contact_interaction_events
SELECT 'm_' || n, 't_' || n, 'messenger', n % 100, 'c_' || n, 'in', 'message', NULL, NULL, now()
FROM generate_series(1, 9000) AS n;
INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
SELECT 'message', 'messenger', n % 100, 'd_' || n, false FROM generate_series(1, 9000) AS n;
"""
READING = {
    **{name: text for name, text in load_statements("postgresql", "changes").items() if "change_seqs" not in text},
    "last_change": load_statements("postgresql")["last_change"],
}
del READING["numbers_in_use"]


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(inner for each in node.get("Plans", ()) for inner in nodes(each))]


@IN_POSTGRESQL
@pytest.mark.parametrize("is_analysed", [False, True])
def test_statements_find_their_rows_by_their_numbers_also_in_tables_that_nobody_has_analysed(
    kept: StoreDump, database: Database, *, is_analysed: bool
) -> None:
    kept.execute(GROWTH + ("ANALYZE;" if is_analysed else ""))
    streams: tuple[Stream | None, ...] = (None, OTHER)
    with database.connect() as connection:
        connection.autocommit = False
        connection.execute(load_statements("postgresql")["settings"].encode(), settings("milepost"))
        for place in (0, 18_000, 35_990):
            for asked in (ChangesAsked(place, 100, ALL_KINDS, stream) for stream in streams):
                for name, statement in READING.items():
                    # A page is looked for up to the end of the feed, or in a small part of it, and read up to where it
                    # is full.
                    end = 36_000 if asked.stream is None else place + 1_000
                    parameters = asked.parameters(place, end if name == "changes_up_to" else place + 100)
                    explained = f"EXPLAIN (FORMAT JSON) {statement.rstrip(';')}".encode()
                    ((plan,),) = connection.execute(explained, parameters).fetchall()
                    read = [each for each in nodes(json.loads(plan)[0]["Plan"]) if "Relation Name" in each]
                    assert read, name
                    for each in read:
                        assert each["Node Type"] in {"Index Scan", "Index Only Scan"}, (name, place, asked.stream)
                        # The last number is at the end of the index.
                        assert name == "last_change" or "change_seq" in each["Index Cond"]
