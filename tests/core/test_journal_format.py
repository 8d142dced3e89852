"""A journal in its first format, and what it means. The files are history: add to them, never change them.

The first 22 entries are from a Milepost without remedies, the first 42 from one without commands, the first 52 from one
that could not remove streams, the first 53 from one that did not number batches, the first 58 from one that did not
check which participant is us, the first 61 from one that left no fields out, the first 62 from one that believed
whatever a list answered, the first 73 from one that read no older messages, the first 80 from one that did not say
what the API withholds, the first 83 from one that applied nothing of what webhooks say, and the first 85 from one that
had every history on record.
"""

from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from kit.memory_store import JournalRow
from milepost.core.checkpoint import Checkpoint, Doubt, MissedSoFar, Run
from milepost.core.events import TAGS, BatchStored, Entry, RunStatus, SweepCompleted
from milepost.core.evolve import evolve
from milepost.core.journal import Codec, check_link
from milepost.core.model import Stream
from milepost.core.position import HistoriesLeftOut, HistorySearch, Progress
from milepost.stores import rows

HERE = Path(__file__).parent
CODEC = Codec()
WITHOUT_REMEDIES = 22
WITHOUT_REQUESTS = 42
WITHOUT_REMOVALS = 52
WITHOUT_NUMBERS = 53
WITHOUT_DOUBTS = 62
WITHOUT_BACKLOG = 73
WITHOUT_MISSED = 80
WITHOUT_LEFT_OUT = 85


@pytest.fixture(scope="module")
def journal() -> list[Entry]:
    lines = (HERE / "journal-format-1.jsonl").read_bytes().splitlines()
    rows = [msgspec.json.decode(line, type=JournalRow) for line in lines]
    return [
        Entry(
            Stream.parse(row.stream),
            row.version,
            row.run_id,
            datetime.fromisoformat(row.recorded_at),
            row.type,
            row.data,
            row.hash,
            CODEC.decode(row.type, row.data),
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def checkpoints(journal: list[Entry]) -> list[Checkpoint]:
    """Return the checkpoint after each entry."""
    checkpoints = [Checkpoint(journal[0].stream)]
    for entry in journal:
        check_link(checkpoints[-1], entry)
        checkpoints.append(evolve(checkpoints[-1], entry))
    return checkpoints[1:]


def test_the_recorded_journal_has_every_type_of_entry(journal: list[Entry]) -> None:
    """For a new type of event, append an entry of it."""
    assert {entry.type for entry in journal} == set(TAGS.values())


def test_an_old_journal_means_what_it_always_meant(checkpoints: list[Checkpoint]) -> None:
    before, removed = checkpoints[WITHOUT_REMOVALS - 1 : WITHOUT_NUMBERS]

    assert removed == Checkpoint(
        before.stream,
        WITHOUT_REMOVALS + 1,
        "1d8a13c34057847f526c8c8de2214b712c75104e1d3cc962c4a20b99607cd316",
        datetime.fromisoformat("2026-03-01T13:30:00.250Z"),
        rate_limit=before.rate_limit,
        removed_at=datetime.fromisoformat("2026-03-01T13:30:00.250Z"),
    )


def test_the_start_of_an_old_journal_means_what_it_meant_before_streams_could_be_removed(
    checkpoints: list[Checkpoint],
) -> None:
    golden = rows.checkpoint((HERE / "journal-format-1.requests.checkpoint.json").read_text())

    assert checkpoints[WITHOUT_REMOVALS - 1] == golden


def test_the_start_of_an_old_journal_means_what_it_meant_before_there_were_commands(
    checkpoints: list[Checkpoint],
) -> None:
    golden = rows.checkpoint((HERE / "journal-format-1.remedies.checkpoint.json").read_text())

    assert checkpoints[WITHOUT_REQUESTS - 1] == golden


def test_the_start_of_an_old_journal_means_what_it_meant_before_there_were_remedies(
    checkpoints: list[Checkpoint],
) -> None:
    """A checkpoint has more fields than it had then, and no other difference."""
    golden = rows.checkpoint((HERE / "journal-format-1.checkpoint.json").read_text())

    assert replace(checkpoints[WITHOUT_REMEDIES - 1], failure_streak=None) == golden


def test_the_runs_of_an_old_journal_ended_as_they_always_did(checkpoints: list[Checkpoint]) -> None:
    runs: dict[str, Run] = {after.run.run_id: after.run for after in checkpoints if after.run is not None}

    assert {run_id: run.status for run_id, run in runs.items()} == {
        "r1": RunStatus.FAILED,
        "r2": RunStatus.PAUSED,
        "r3": RunStatus.COMPLETE_WITH_ERRORS,
        "r4": RunStatus.COMPLETE,
        "r5": RunStatus.INTERRUPTED,
        "r6": RunStatus.STOPPED,
        "r7": RunStatus.PAUSED,
        "r8": RunStatus.COMPLETE_WITH_ERRORS,
        "r9": RunStatus.PAUSED,
        "r15": RunStatus.COMPLETE_WITH_ERRORS,
        "r17": RunStatus.PAUSED,
        "r18": RunStatus.PAUSED,
        "r19": RunStatus.COMPLETE_WITH_ERRORS,
        "r20": RunStatus.COMPLETE,
    }


def test_the_events_of_an_old_journal_are_encoded_so_that_they_decode_the_same(journal: list[Entry]) -> None:
    for entry in journal:
        assert CODEC.decode(*CODEC.encode(entry.event)) == entry.event


def test_old_entries_neither_number_their_batches_nor_say_whether_their_sweep_has_errors(journal: list[Entry]) -> None:
    old, new = journal[:WITHOUT_NUMBERS], journal[WITHOUT_NUMBERS:]

    assert {entry.event.batch for entry in old if isinstance(entry.event, BatchStored)} == {0}
    assert {entry.event.has_errors for entry in old if isinstance(entry.event, SweepCompleted)} == {False}
    assert [entry.event.batch for entry in new if isinstance(entry.event, BatchStored)] == [1, 2, 1, 1]
    assert [entry.event.has_errors for entry in new if isinstance(entry.event, SweepCompleted)] == [True, True, False]


def test_old_entries_doubt_nothing(journal: list[Entry], checkpoints: list[Checkpoint]) -> None:
    last = checkpoints[WITHOUT_DOUBTS - 1]

    assert (last.doubt, last.futile_runs) == (None, 0)
    assert all(
        entry.event.position.progress == Progress()
        for entry in journal[:WITHOUT_DOUBTS]
        if isinstance(entry.event, BatchStored)
    )


def test_a_sweep_that_got_nowhere_left_a_doubt(journal: list[Entry], checkpoints: list[Checkpoint]) -> None:
    last, after = journal[WITHOUT_BACKLOG - 1], checkpoints[WITHOUT_BACKLOG - 1]
    assert isinstance(last.event, SweepCompleted)

    assert last.event.problem is not None
    assert after.doubt == Doubt(last.event.problem, last.recorded_at)


def test_what_is_owed_is_read_to_the_end(checkpoints: list[Checkpoint]) -> None:
    backlog = [after.backlog for after in checkpoints]

    assert set(backlog[:WITHOUT_BACKLOG]) == {0}
    assert backlog[WITHOUT_BACKLOG:WITHOUT_MISSED] == [0, 0, 1, 1, 1, 1, 0]


def test_what_is_withheld_is_missed_and_no_longer_owed(checkpoints: list[Checkpoint]) -> None:
    before, owing, missing, after = checkpoints[WITHOUT_MISSED - 1 : WITHOUT_MISSED + 3]

    assert [each.backlog for each in (before, owing, missing, after)] == [0, 1, 1, 0]
    assert (before.missed, before.window_at) == (None, None)
    assert missing.missed == after.missed == MissedSoFar(41, datetime.fromisoformat("2026-03-01T13:56:00.250Z"))
    assert (missing.window_at, after.window_at) == (None, datetime.fromisoformat("2026-03-01T13:56:00.250Z"))


def test_histories_that_are_not_on_record_are_those_of_the_latest_entry_about_them(
    checkpoints: list[Checkpoint],
) -> None:
    before, left_out, searching = checkpoints[WITHOUT_LEFT_OUT - 1 : WITHOUT_LEFT_OUT + 2]
    reach_to, search = (
        datetime.fromisoformat("2025-11-21T13:58:00.250Z"),
        searching.left_out and searching.left_out.search,
    )

    assert {after.left_out for after in checkpoints[:WITHOUT_LEFT_OUT]} == {None}
    assert left_out.left_out == HistoriesLeftOut(reach_to, 90 * 86_400.0)
    assert search == HistorySearch(
        datetime.fromisoformat("2025-03-01T13:58:00.250Z"), datetime.fromisoformat("2025-08-13T13:58:00.250Z")
    )
    assert [each.backlog for each in (before, left_out, searching)] == [0, 0, 1]
    assert checkpoints[-1].left_out == HistoriesLeftOut(
        reach_to, 90 * 86_400.0, since=datetime.fromisoformat("2026-03-01T13:58:00.250Z")
    )
