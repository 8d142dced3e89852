"""The change feed of a PostgreSQL database, of which several transactions take numbers at the same time."""

import psycopg
import pytest

from contracts.changes_contract import ROWS, ChangesContract, followed, is_mirrored, told, write
from kit.mirror import Mirror
from kit.postgres import Database
from milepost.core.changes import ChangeKind, ChangeOp
from milepost.stores.open import open_store
from milepost.stores.postgresql.changes import KEYS_OF_LOCKS, settled
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


RENAME = "SET search_path TO milepost; UPDATE contacts SET name = 'Countess' WHERE contact_id = 'c_1'"
CLOSE = "SET search_path TO milepost; UPDATE conversations SET can_reply = false"


class TestPostgresqlChanges(ChangesContract):
    """In PostgreSQL."""

    async def test_what_takes_smaller_numbers_and_is_committed_later_is_not_skipped(
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

    async def test_what_is_rolled_back_holds_nothing_up(self, kept: StoreDump, database: Database) -> None:
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
    def test_nothing_under_way(self) -> None:
        assert settled(17, ()) == 17

    def test_the_least_of_those_under_way(self) -> None:
        assert settled(17, (12, 15)) == 12

    def test_a_transaction_that_has_begun_since(self) -> None:
        assert settled(17, (19,)) == 17

    def test_keys_repeat_after_many_numbers(self) -> None:
        many = 5 * KEYS_OF_LOCKS
        assert settled(many + 2, (KEYS_OF_LOCKS - 3, 1)) == many - 3
