"""An audit takes no more memory for a long journal than for a short one."""

import tracemalloc
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import chain

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, entries
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError
from milepost.core.events import Entry, Event
from milepost.core.evolve import evolve
from milepost.core.journal import GapOf
from milepost.core.position import Gap, GapEnding, MessagesOwed, MessagesRead
from milepost.stores.audit import GapsOnDisk, Ledger, Row, Table, rebuild
from milepost.stores.reader import Parameters

BATCH = 50


def owed(number: int) -> Gap:
    newest_at = NOON - timedelta(seconds=number)
    return Gap(f"{number:016x}", f"t_{number:016}", NOON, newest_at, newest_at, NOON, cursor=f"{number:0100}")


class Owing(Ledger):
    """The journal of a first copy that owes so many histories, and has read the first."""

    def __init__(self, gaps: int) -> None:
        self.written = 0
        self._gaps = gaps

    def ask(self, statement: str, parameters: Parameters = ()) -> Iterable[tuple[str, int]]:
        return ()

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        raise NotImplementedError

    def write(self, table: Table, projected: list[Row]) -> None:
        self.written += len(projected) if table == "gap" else 0

    def entries(self) -> Iterator[Entry]:
        checkpoint = Checkpoint(STREAM)
        batches = (range(first, first + BATCH) for first in range(0, self._gaps, BATCH))
        events: list[Event] = [MessagesRead(owed(0), ending=GapEnding.CLOSED), MessagesRead(owed(1), stored=20)]
        for event in chain((MessagesOwed(tuple(map(owed, batch))) for batch in batches), events):
            (entry,) = entries(event, after=checkpoint)
            checkpoint = evolve(checkpoint, entry)
            yield entry


def peak_of(ledger: Owing) -> int:
    tracemalloc.start()
    try:
        rebuild(ledger)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_gaps_that_are_still_open_take_no_memory() -> None:
    few, many = Owing(2_000), Owing(20_000)
    peak_of(few)  # whatever is cached is cached

    assert peak_of(many) < 2 * peak_of(few)
    assert many.written == 20_000 - 1


def test_a_disk_without_room_for_them_is_named() -> None:
    with closing(GapsOnDisk()) as gaps:
        gaps.connection.execute("PRAGMA max_page_count = 2")
        large = GapOf(STREAM, replace(owed(1), cursor="x" * 10_000))
        with pytest.raises(MilepostError, match="temporary file") as raised:
            gaps["1"] = large

    assert "SQLITE_TMPDIR" in raised.value.hint
