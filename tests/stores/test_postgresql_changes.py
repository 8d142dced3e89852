"""The change feed of a PostgreSQL database, of which several transactions take numbers at the same time."""

import json
from typing import Any

import psycopg
import pytest

from contracts.changes_contract import OTHER, ROWS, followed, is_mirrored, told, write
from kit.mirror import Mirror
from kit.postgres import Database
from milepost.core.changes import ALL_KINDS, ChangeKind, ChangeOp
from milepost.core.model import Stream
from milepost.stores.changes import ChangesAsked
from milepost.stores.open import open_store
from milepost.stores.postgresql.connection import settings
from milepost.stores.postgresql.reader import KEYS_OF_LOCKS, settled
from milepost.stores.sql import load_statements
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


RENAME = "SET search_path TO milepost; UPDATE contacts SET name = 'Countess' WHERE contact_id = 'c_1'"
CLOSE = "SET search_path TO milepost; UPDATE conversations SET can_reply = false"


class TestTransactionsAtTheSameTime:
    async def test_a_change_with_a_smaller_number_that_is_committed_later_is_not_skipped(
        self, kept: StoreDump, database: Database
    ) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await followed(kept, mirror)
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

    async def test_a_transaction_that_is_rolled_back_holds_nothing_up(
        self, kept: StoreDump, database: Database
    ) -> None:
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await followed(kept, mirror)
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
        mirror = Mirror()
        async with open_store(kept.store_url) as store:
            await write(store, ROWS)
            await followed(kept, mirror)
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
