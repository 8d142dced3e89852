"""`store copy` brings every row over as it is, or names the row that cannot be."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.builders import STREAM
from milepost.core.errors import MilepostError, RowsRejected
from milepost.stores import copy as copying
from milepost.stores.copy import TABLES, CopyJob, Row, Table, copy_between
from milepost.stores.open import open_store
from milepost.stores.reader import Audit
from milepost.stores.url import StoreUrl
from stores.any_rows import any_changes
from stores.copies import Pair, copied, holds_nothing, ignore
from stores.databases import AnyDatabase, Databases, Everything
from stores.histories import commit_after

COMMITS = 12  # with about twice as many, most examples outgrow what Hypothesis can draw
ANY_CHANGES = any_changes(STREAM, with_nul=True)


@pytest.fixture
def there_and_back(maker: Databases) -> list[AnyDatabase]:
    return [maker.build("sqlite"), maker.build("postgresql"), maker.build("sqlite")]


def without_nul(everything: Everything) -> Everything:
    return {
        table: [tuple(each.replace("\0", "\ufffd") if isinstance(each, str) else each for each in row) for row in rows]
        for table, rows in everything.items()
    }


class TestRejectedRows:
    async def test_a_rejected_row_is_named_by_table_and_key_without_its_text(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("UPDATE conversations SET snippet = 'secret' || char(0) WHERE conversation_id LIKE '%/3/1'")

        with pytest.raises(MilepostError) as refused:
            await copied(source, target)

        assert refused.value.message == (
            "the target does not accept conversations conversation_id 'messenger:page-0/3/1': "
            "a text in it holds a NUL character, which PostgreSQL does not accept"
        )
        assert "--replace-nul" in refused.value.hint
        assert holds_nothing(target)

    async def test_nul_is_replaced_on_request(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("UPDATE conversations SET snippet = 'a' || char(0) || 'b' WHERE conversation_id LIKE '%/3/1'")

        await copied(source, target, replaces_nul=True)

        ((snippet,),) = target.rows("SELECT snippet FROM conversations WHERE conversation_id = 'messenger:page-0/3/1'")
        assert snippet == "a\N{REPLACEMENT CHARACTER}b"

    async def test_a_row_that_the_target_stores_differently_is_not_verified(self, into_postgresql: Pair) -> None:
        """An instant that is not in Milepost's format comes back differently."""
        source, target = into_postgresql
        source.execute("UPDATE contacts SET updated_at = '2026-03-01T12:00:00Z' WHERE contact_id LIKE '%/3/1'")

        with pytest.raises(MilepostError, match=r"not verified: contacts .*/3/1' differs"):
            await copied(source, target)
        assert holds_nothing(target)

    @settings(max_examples=4, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    async def test_any_row_without_nul_survives_a_copy_there_and_back(
        self, there_and_back: list[AnyDatabase], data: st.DataObject
    ) -> None:
        first, second, third = there_and_back
        for database in (second, third):
            empty(database)
        async with open_store(first.store_url, synchronous="normal") as store:
            for _ in range(COMMITS):
                before = await store.load(STREAM)
                changes = data.draw(ANY_CHANGES)
                await store.commit(commit_after(before, changes=changes, run_id=f"{before.version}"))
        first.execute("UPDATE contact_interaction_events SET attachments = NULL WHERE NOT json_valid(attachments)")
        first.execute("UPDATE contact_interaction_events SET edited_at = occurred_at WHERE event_id > 'a'")
        first.execute("UPDATE contact_interaction_events SET deleted_at = occurred_at WHERE event_id < 'a'")

        await copied(first, second, replaces_nul=True)
        await copied(second, third)

        assert third.everything() == second.everything()
        assert without_nul(first.everything()) == second.everything()


def empty(database: AnyDatabase) -> None:
    """Empty a database by marking it as an unfinished copy, which the next copy replaces."""
    if database.kind == "sqlite":
        database.file.unlink(missing_ok=True)
    else:
        database.execute("INSERT INTO unfinished_copy VALUES (1, '', now()) ON CONFLICT DO NOTHING")


class Memory:
    """A CopySource and a CopyTarget of one table in memory."""

    def __init__(self, rows: Sequence[Row] = (), refused: Row | None = None) -> None:
        self.rows = list(rows)
        self.is_published = False
        self.change: Callable[[list[Row]], list[Row]] = list
        self._refused = refused

    def counts(self) -> dict[str, int]:
        return {table.name: len(self._of(table)) for table in TABLES}

    def read(self, table: Table) -> Iterator[Row]:
        return iter(self._of(table))

    def _of(self, table: Table) -> list[Row]:
        return sorted(self.rows) if table.name == "dead_letter_payloads" else []

    def add(self, table: Table, rows: list[Row]) -> None:
        if self._refused in rows:
            raise RowsRejected("it is odd", hint="mend it")
        self.rows += self.change(rows)

    def rebuild(self) -> Audit:
        return Audit(0, 0, 0, 0, None)

    def verify(self) -> Audit:
        return self.rebuild()

    def refresh(self) -> None:
        pass

    def publish(self) -> None:
        self.is_published = True

    def interrupt(self) -> None:
        pass


SCHEMAS = CopyJob(StoreUrl("postgresql://one/x"), StoreUrl("postgresql://one/x", schema="other"))
"""Two schemas of one database are two databases."""


def copy_in_memory(source: Memory, target: Memory, chunk_rows: int) -> None:
    @contextmanager
    def opened(database: Memory) -> Iterator[Memory]:
        yield database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "CHUNK_ROWS", chunk_rows)
        asyncio.run(copy_between(SCHEMAS, opened(source), opened(target), ignore))


payloads = st.lists(st.tuples(st.text(max_size=2), st.integers(0, 2)), unique_by=lambda row: row[0], max_size=8)
chunk_sizes = st.integers(1, 4)


class TestAnyRows:
    @given(payloads, chunk_sizes)
    def test_all_rows_are_copied(self, rows: list[Row], chunk_rows: int) -> None:
        source, target = Memory(rows), Memory()
        copy_in_memory(source, target, chunk_rows)
        assert target.is_published
        assert sorted(target.rows) == sorted(rows)

    @given(payloads.filter(bool), chunk_sizes, st.sampled_from(["lost", "changed", "added"]))
    def test_a_target_that_loses_changes_or_adds_a_row_is_not_published(
        self, rows: list[Row], chunk_rows: int, fault: str
    ) -> None:
        odd = rows[0]
        changed: dict[str, list[Row]] = {"lost": [], "changed": [(odd[0], "?")], "added": [odd, (f"{odd[0]}…", 0)]}
        source, target = Memory(rows), Memory()
        target.change = lambda added: [new for row in added for new in (changed[fault] if row == odd else [row])]
        with pytest.raises(MilepostError, match="the copy is not verified: dead_letter_payloads dead_letter_id"):
            copy_in_memory(source, target, chunk_rows)
        assert not target.is_published

    @given(payloads.filter(bool), chunk_sizes, st.data())
    def test_the_rejected_row_is_named(self, rows: list[Row], chunk_rows: int, data: st.DataObject) -> None:
        odd = data.draw(st.sampled_from(rows))
        target = Memory(refused=odd)
        with pytest.raises(MilepostError) as refused:
            copy_in_memory(Memory(rows), target, chunk_rows)
        expected = f"the target does not accept dead_letter_payloads dead_letter_id {odd[0]!r}: it is odd"
        assert (refused.value.message, refused.value.hint) == (expected, "mend it")
        assert not target.is_published
