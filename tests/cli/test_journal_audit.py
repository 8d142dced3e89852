"""`milepost journal verify` and `rebuild`, with the exit codes that scripts rely on."""

import sqlite3
from pathlib import Path

import pytest

from kit.binary import Ended, milepost
from kit.builders import NOON, STREAM, run_started, sweep_started, walking
from kit.databases import record
from milepost.core.events import BatchStored, DeadLetterOpened, Stage, SweepCompleted, Tally
from milepost.core.position import Mode
from milepost.stores.sqlite.connection import lock_database


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "simulated.db"
    dead_letter = DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")
    record(
        path, run_started(), sweep_started(), dead_letter, BatchStored(walking("c1"), Tally(batches=1, dead_lettered=1))
    )
    record(path, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), run_id="run-2")
    return path


async def journal(database: Path, *arguments: str) -> Ended:
    return await milepost(database.parent, "journal", *arguments)


def alter(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_a_sound_journal_is_counted(database: Path) -> None:
    result = await journal(database, "verify")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("The journal is sound: 5 entries, 1 stream, 2 runs, 1 dead letter, checked in ")
    assert result.stdout.splitlines()[1].startswith("Not covered")


async def test_what_a_rebuild_warns_of_is_no_part_of_its_output(database: Path) -> None:
    database.chmod(0o644)  # noqa: ASYNC240  (nothing else runs)
    result = await journal(database, "rebuild")
    assert result.stdout.startswith("The projections were rebuilt from 5 entries")
    assert "database closed to other users" in result.stderr


async def test_a_projection_that_differs_from_its_fold_is_found_and_rebuilt(database: Path) -> None:
    alter(database, "UPDATE checkpoints SET watermark = NULL", "DELETE FROM runs")
    found = await journal(database, "verify")
    assert found.code == 1
    assert "is not what the journal says" in found.stderr
    assert "milepost journal rebuild" in found.stderr
    rebuilt = await journal(database, "rebuild")
    assert rebuilt.code == 0
    assert rebuilt.stdout.startswith("The projections were rebuilt from 5 entries, 1 stream, 2 runs, 1 dead letter")
    assert (await journal(database, "verify")).code == 0


async def test_a_changed_entry_is_found_by_its_hash(database: Path) -> None:
    alter(
        database,
        "DROP TRIGGER journal_refuses_update",
        """UPDATE journal SET data = replace(data, '"dl_1"', '"dl_2"') WHERE version = 3""",
    )
    found = await journal(database, "verify")
    assert found.code == 1
    assert f"entry 3 of {STREAM.key} does not follow: its hash" in found.stderr


async def test_nothing_is_rebuilt_while_a_daemon_runs(database: Path) -> None:
    with lock_database(database):
        refused = await journal(database, "rebuild")
        assert refused.code == 75
        assert "another Milepost" in refused.stderr
        assert (await journal(database, "verify")).code == 0  # looking is allowed
