"""An audit takes no more memory for a long journal than for a short one."""

import tracemalloc
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, entries
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError
from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Entry, Event, RedriveFailed, Resolution, Stage
from milepost.core.evolve import evolve
from milepost.core.journal import GapOf
from milepost.core.position import Gap, GapEnding, MessagesOwed, MessagesRead
from milepost.stores.audit import HeldOnDisk, Ledger, Row, Table, rebuild
from milepost.stores.reader import Parameters

BATCH = 50


def owed(number: int) -> Gap:
    newest_at = NOON - timedelta(seconds=number)
    return Gap(f"{number:016x}", f"t_{number:016}", NOON, newest_at, newest_at, NOON, cursor=f"{number:0100}")


class Written(Ledger):
    """A journal of some events. It only counts the rows that are written into the projection `table`."""

    def __init__(self, table: Table, events: Callable[[int], Iterable[Event]], number: int) -> None:
        self.written = 0
        self._table = table
        self._events = events
        self._number = number

    def ask(self, statement: str, parameters: Parameters = ()) -> Iterable[tuple[str, int]]:
        return ()

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        raise NotImplementedError

    def write(self, table: Table, projected: list[Row]) -> None:
        self.written += len(projected) if table == self._table else 0

    def entries(self) -> Iterator[Entry]:
        checkpoint = Checkpoint(STREAM)
        for event in self._events(self._number):
            (entry,) = entries(event, after=checkpoint)
            checkpoint = evolve(checkpoint, entry)
            yield entry


def histories(number: int) -> Iterator[Event]:
    """Yield the events of a first copy that owes so many histories, and has read the first."""
    for first in range(0, number, BATCH):
        yield MessagesOwed(tuple(map(owed, range(first, first + BATCH))))
    yield MessagesRead(owed(0), ending=GapEnding.CLOSED)
    yield MessagesRead(owed(1), stored=20)


def failures(number: int) -> Iterator[Event]:
    """Yield the events of so many dead letters, of which the first has failed again and the second was redriven."""
    for each in range(number):
        yield DeadLetterOpened(f"{each:016x}", Stage.FETCH, f"t_{each}", f"code 100 for t_{each:0100}")
    yield RedriveFailed(f"{0:016x}", 1, "code 2", NOON)
    yield DeadLetterClosed(f"{1:016x}", Resolution.REDRIVEN)


def peak_of(ledger: Written) -> int:
    tracemalloc.start()
    try:
        rebuild(ledger)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("table", "events", "written"), [("gap", histories, 9_999), ("dead_letter", failures, 10_000)])
def test_what_is_still_open_takes_no_memory(
    table: Table, events: Callable[[int], Iterable[Event]], written: int
) -> None:
    few, many = Written(table, events, 1_000), Written(table, events, 10_000)
    peak_of(few)  # whatever is cached is cached

    assert peak_of(many) < 2 * peak_of(few)
    assert many.written == written


def test_a_disk_without_room_for_them_is_named() -> None:
    with closing(HeldOnDisk(GapOf)) as gaps:
        gaps.connection.execute("PRAGMA max_page_count = 2")
        large = GapOf(STREAM, replace(owed(1), cursor="x" * 10_000))
        with pytest.raises(MilepostError, match="temporary file") as raised:
            gaps["1"] = large

    assert "SQLITE_TMPDIR" in raised.value.hint


def test_a_disk_that_fails_while_they_are_read_back_is_named() -> None:
    with closing(HeldOnDisk(GapOf)) as gaps:
        for number in range(2):
            gaps[str(number)] = GapOf(STREAM, owed(1))
        held = gaps.values()
        next(held)
        gaps.connection.interrupt()  # the next row fails, as on a disk that does
        with pytest.raises(MilepostError, match="temporary file"):
            next(held)
