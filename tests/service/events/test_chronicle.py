"""The journal told again is the journal told live, byte for byte, wherever the telling begins."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from kit.builders import NOON, RUN_ID, checkpoint_of, run_started, sweep_started, walking
from kit.scenarios import scenarios
from kit.simulation import Simulation
from kit.simulation_setting import Scenario
from milepost.core.events import (
    BatchStored,
    DeadLetterClosed,
    Event,
    Mode,
    Reason,
    Resolution,
    RunEnded,
    RunStatus,
    SweepCompleted,
    Tally,
)
from milepost.service.events.chronicle import JournalFollower, Told
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from service.events.journals import write, write_lives, write_simulated
from stores.histories import commit_after


async def told(
    journal_reader: SqliteReader, *, after: int = 0, page: int = 1000, stream: str | None = None
) -> list[Told]:
    """Tell the journal from a seq on, page by page."""
    follower, events = JournalFollower(journal_reader), list[Told]()
    while placed := await journal_reader.entries(after=after, limit=page, stream=stream):
        events += await follower.tell(placed)
        after = placed[-1].seq
    return events


def fields(event: Told) -> dict[str, object]:
    data: dict[str, object] = json.loads(event.wire.partition(b"data: ")[2])
    return data


@pytest.fixture
async def lived(tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "milepost.db"
    migrate(path)
    return path, write_lives(path, commits=40)


async def test_every_entry_makes_exactly_one_event_with_its_seq(lived: tuple[Path, int]) -> None:
    path, entries = lived
    async with open_sqlite_reader(path) as journal_reader:
        events = await told(journal_reader)
    assert [event.seq for event in events] == list(range(1, entries + 1))
    for event in events:
        assert event.wire.startswith(b"id: %d\ndata: {" % event.seq)
        assert event.wire.endswith(b"}\n\n")
        assert event.wire.count(b"\n") == 3
        assert (fields(event)["stream"], fields(event)["status"]) == (event.stream, event.status)


async def test_from_every_seq_on_the_same_is_told(lived: tuple[Path, int]) -> None:
    path, entries = lived
    async with open_sqlite_reader(path) as journal_reader:
        whole = await told(journal_reader)
        for after in range(entries + 1):
            assert await told(journal_reader, after=after, page=7) == whole[after:]


async def test_of_a_stream_alone_the_same_is_told(lived: tuple[Path, int]) -> None:
    path, _ = lived
    async with open_sqlite_reader(path) as journal_reader:
        whole = await told(journal_reader)
        for stream in {event.stream for event in whole}:
            of_stream = [event for event in whole if event.stream == stream]
            assert await told(journal_reader, after=50, page=5, stream=stream) == [e for e in of_stream if e.seq > 50]


@pytest.mark.parametrize(
    "end", [RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), SweepCompleted(Mode.FULL, NOON, NOON, Tally(1))]
)
async def test_what_is_redriven_after_the_end_of_a_run_is_not_told_of_it(tmp_path: Path, end: Event) -> None:
    path = tmp_path / "milepost.db"
    migrate(path)
    run = commit_after(checkpoint_of(), run_started(), sweep_started(), BatchStored(walking("a"), Tally(1)), end)
    redriven = commit_after(run.checkpoint, DeadLetterClosed("d_1", Resolution.REDRIVEN), run_id=RUN_ID)
    write(path, run, redriven)
    async with open_sqlite_reader(path) as journal_reader:
        live, again = await told(journal_reader), await told(journal_reader, after=4)
    assert live[-1:] == again
    assert fields(live[-2]).keys() >= {"batches", "duration"}
    assert fields(live[-1]).keys() == {"status", "message", "stream", "at", "type", "run"}


async def lived_through(store: Simulation, directory: Path, after: int, page: int) -> None:
    path = directory / "milepost.db"
    migrate(path)
    write_simulated(path, store.setting.store)
    async with open_sqlite_reader(path) as journal_reader:
        whole = await told(journal_reader)
        assert [event.seq for event in whole] == list(range(1, len(store.setting.store.journal) + 1))
        assert (
            await told(journal_reader, after=after % (len(whole) + 1), page=page) == whole[after % (len(whole) + 1) :]
        )
    ended = {str(fields(event)["run"]): event for event in whole if fields(event)["type"] == "sweep_completed"}
    for run_id, run in store.setting.store.runs.items():
        if run.status in {RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS}:
            last = fields(ended[run_id])
            assert (last["status"], last["batches"]) == (run.status.value, run.tally.batches)
            assert (last["inserted"], last["failedBatches"]) == (run.tally.inserted, run.failed_batches)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@drawn(scenarios, st.integers(0, 2**31), st.integers(1, 9))
def test_whatever_happened_is_told_the_same_from_anywhere(scenario: Scenario, after: int, page: int) -> None:
    simulation = Simulation(scenario)
    simulation.run()
    with TemporaryDirectory() as directory:
        asyncio.run(lived_through(simulation, Path(directory), after, page))
