"""The walk over two databases: whatever they hold and wherever chunks end, they are equal afterwards."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.errors import MilepostError, RowsRejected, StoreRefused
from milepost.stores.moving import FORGOTTEN, JOURNAL, TABLES, Difference, Key, Row, Table, difference
from milepost.stores.moving_walk import Doing, Passage, Step, check, copy, demand_common_past
from milepost.stores.reader import JournalReader
from milepost.stores.unfinished import Mark

NOTES = Table("missed_conversations", ("stream", "conversation_id"))
PAYLOADS = Table("dead_letter_payloads", ("dead_letter_id",))

keys = st.sampled_from(["a", "aa", "b", "B", "é", "\ufffd", "\U0001f600", "a ", "0", "10", "9"])
tables = st.dictionaries(st.tuples(keys, keys), st.tuples(st.integers(0, 2)))
limits = st.integers(1, 4)


class Shelf:
    """An Origin and a Target in memory, of one table. It refuses what a test names."""

    def __init__(self, rows: Mapping[Key, Row], refuses: Key | None = None) -> None:
        self.rows = {key: (*key, *rest) for key, rest in rows.items()}
        self.writes: list[tuple[list[Key], list[Row]]] = []
        self._refuses = refuses

    async def read(self, table: Table, after: Key, limit: int) -> list[Row]:
        if table is JOURNAL:
            return []
        return [self.rows[key] for key in sorted(self.rows, key=_in_bytes) if _in_bytes(key) > _in_bytes(after)][:limit]

    async def count(self, table: Table) -> int:
        return len(self.rows) if table is not JOURNAL else 1

    async def write(self, table: Table, gone: Sequence[Key], new: Sequence[Row]) -> None:
        if self._refuses in {table.key_of(row) for row in new}:
            raise RowsRejected("it is odd", hint="mend it")
        for key in gone:
            del self.rows[key]
        for row in new:
            assert self.rows.setdefault(table.key_of(row), row) is row, "it was there already"
        self.writes.append((list(gone), list(new)))

    async def mark(self) -> Mark | None:
        raise NotImplementedError

    async def set_mark(self, mark: Mark | None) -> None:
        raise NotImplementedError

    async def is_at_work(self) -> bool:
        raise NotImplementedError

    @property
    def journal_reader(self) -> JournalReader:
        raise NotImplementedError


def _in_bytes(key: Key) -> tuple[object, ...]:
    return tuple(each.encode() if isinstance(each, str) else each for each in key)


def passage(origin: Shelf, target: Shelf, limit: int, steps: list[Step] | None = None) -> Passage:
    return Passage(origin, target, (steps if steps is not None else []).append, lambda row: row, limit)


@given(tables, tables, limits)
def test_a_table_that_was_walked_is_equal_and_nothing_was_written_that_was(
    wanted: dict[Key, Row], found: dict[Key, Row], limit: int
) -> None:
    origin, target, steps = Shelf(wanted), Shelf(found), list[Step]()

    done = asyncio.run(copy(passage(origin, target, limit, steps), NOTES))

    assert target.rows == origin.rows
    differing = {key for key in {*wanted, *found} if wanted.get(key) != found.get(key)}
    assert (done.rows, done.written) == (len(wanted), len(differing))
    assert sum(len({*gone, *map(NOTES.key_of, new)}) for gone, new in target.writes) == len(differing)
    assert all(len(gone) <= limit and len(new) <= limit for gone, new in target.writes), "memory is bounded"
    assert [step.is_done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [step.rows for step in steps] == sorted(step.rows for step in steps)
    assert steps[-1] == Step(Doing.COPYING, NOTES.name, len(wanted), len(wanted), len(differing), is_done=True)


@given(tables, tables, limits)
def test_a_check_finds_any_difference_and_writes_nothing(
    wanted: dict[Key, Row], found: dict[Key, Row], limit: int
) -> None:
    origin, target = Shelf(wanted), Shelf(found)
    if wanted == found:
        asyncio.run(check(passage(origin, target, limit), NOTES))
    else:
        with pytest.raises(MilepostError, match="is not the same in both"):
            asyncio.run(check(passage(origin, target, limit), NOTES))
    assert target.writes == []


@given(st.sets(keys, min_size=1), limits, st.data())
def test_the_row_that_is_refused_is_named_and_the_others_before_it_are_written(
    ids: set[str], limit: int, data: st.DataObject
) -> None:
    odd = data.draw(st.sampled_from(sorted(ids)))
    origin = Shelf({(each,): ("{}",) for each in ids})
    target = Shelf({}, refuses=(odd,))

    with pytest.raises(MilepostError) as refused:
        asyncio.run(copy(passage(origin, target, limit), PAYLOADS))

    assert refused.value.message == f"the target does not take dead_letter_payloads dead_letter_id {odd!r}: it is odd"
    assert refused.value.hint == "mend it"
    assert set(target.rows) >= {(each,) for each in ids if each < odd}


@given(st.dictionaries(keys.map(lambda each: (*("p", "p", "contact"), each)), st.just(())), limits, st.data())
def test_what_only_grows_loses_nothing(wanted: dict[Key, Row], limit: int, data: st.DataObject) -> None:
    kept = {key for key in wanted if data.draw(st.booleans())}
    asyncio.run(demand_common_past(passage(Shelf(wanted), Shelf(dict.fromkeys(kept, ())), limit)))

    more = Shelf(dict.fromkeys({*kept, ("p", "p", "contact", "unheard of")}, ()))
    with pytest.raises(StoreRefused, match="has a past of its own"):
        asyncio.run(demand_common_past(passage(Shelf(wanted), more, limit)))
    with pytest.raises(StoreRefused, match="has a past of its own"):
        asyncio.run(copy(passage(Shelf(wanted), more, limit), FORGOTTEN))


def test_a_stretch_ends_where_the_shorter_reaching_of_the_two_chunks_does() -> None:
    wanted, found = [("a", 1), ("c", 1)], [("b", 1), ("d", 1)]
    assert difference(PAYLOADS, wanted, found, 2) == Difference(("c",), 2, gone=(("b",),), new=(("a", 1), ("c", 1)))
    assert difference(PAYLOADS, wanted, found, 3).upto is None
    assert difference(PAYLOADS, [], found, 2) == Difference(("d",), 0, gone=(("b",), ("d",)))


def test_every_table_that_is_copied_has_its_key_first() -> None:
    assert [table.key_of(tuple(range(9))) for table in TABLES] == [
        (0, 1, 2, 3), (0,), (0, 1, 2), (0,), (0,), (0,), (0, 1), (0,),
    ]  # fmt: skip
    assert JOURNAL.beginning < (1,)
    assert NOTES.beginning < ("a", "")
