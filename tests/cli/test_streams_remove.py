"""`milepost streams remove`, with the real program: what it asks, refuses and reports; a sync copies all again."""

import asyncio
import re
from pathlib import Path

import pytest

from kit.binary import milepost
from kit.builders import NOON, STREAM
from kit.installation import Installation
from kit.simulated import frozen_world
from kit.terminal import answered_on_terminal
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import BatchStored, DeadLetterOpened, RunStarted, Stage, Tally
from milepost.core.model import Changes, DeadLetterPayload, Platform, Stream
from milepost.core.position import Position
from milepost.stores.sqlite.connection import lock_database
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.sqlite_files import names_in
from stores.store_dump import SqliteDump

OTHER = Stream(Platform.INSTAGRAM, "2")
LETTER = DeadLetterOpened("d_1", Stage.FETCH, "t_9", "unreadable")
REMOVED = f"Corner Bakery ({STREAM.key}): 1 contact, 1 conversation, 2 messages, 1 open dead letter"
STORE = "store: {url: 'sqlite:///milepost.db'}\n"
PAGES = (
    f"{STORE}source: {{kind: facebook}}\n"
    f'pages: [{{id: "{STREAM.page_id}", name: Corner Bakery, platforms: [messenger], access_token: made-up}}]\n'
)


async def fill(path: Path) -> None:
    async with open_sqlite(path, synchronous="normal") as store:
        for of in (STREAM, OTHER):
            dead_letters, payloads = ((LETTER,), (DeadLetterPayload("d_1", "{}"),)) if of == STREAM else ((), ())
            rows = Changes(
                (conversation_row(f"t_{of.page_id}", of=of),),
                (contact_row(of=of),),
                tuple(event_row(f"m_{of.page_id}_{number}", of=of) for number in range(2)),
                payloads,
            )
            events = (RunStarted(NOON), *dead_letters, BatchStored(Position(), Tally(batches=1, inserted=1)))
            await store.commit(commit_after(Checkpoint(of), *events, changes=rows, run_id=f"run of {of.key}"))


@pytest.fixture
def kept(tmp_path: Path) -> SqliteDump:
    """Return a database with two streams, and a configuration that names neither."""
    path = tmp_path / "milepost.db"
    (tmp_path / "config.yaml").write_text(STORE)
    asyncio.run(fill(path))
    return SqliteDump(path)


def folder(kept: SqliteDump) -> Path:
    return kept.path.parent


def streams_in(kept: SqliteDump) -> set[str]:
    """Return the streams that have rows."""
    found = kept.rows("SELECT DISTINCT platform || ':' || page_id FROM contact_interaction_events")
    return {key for (key,) in found}


async def test_it_reports_what_is_removed_and_what_it_cannot_reach(kept: SqliteDump) -> None:
    (folder(kept) / "config.yaml").write_text(PAGES)

    ended = await milepost(folder(kept), "streams", "remove", STREAM.key, "--yes")

    assert ended.code == 0, ended
    assert f"Removed {REMOVED}" in ended.stdout
    assert "is still configured: its next run copies it again" in ended.stdout
    assert "backups" in ended.stdout
    assert streams_in(kept) == {OTHER.key}
    assert kept.tables().payloads == {}
    assert (await milepost(folder(kept), "journal", "verify")).code == 0


async def test_several_streams_are_removed_at_once_and_twice_is_the_same_as_once(kept: SqliteDump) -> None:
    both = ("streams", "remove", STREAM.key, OTHER.key, STREAM.key, "--yes")
    first, second = [await milepost(folder(kept), *both) for _ in range(2)]

    assert (first.code, len(re.findall("^Removed ", first.stdout, re.MULTILINE))) == (0, 2)
    assert (second.code, second.stdout.splitlines()) == (
        0,
        [f"Nothing is stored for {STREAM.key}", f"Nothing is stored for {OTHER.key}"],
    )
    assert streams_in(kept) == set()
    status = await milepost(folder(kept), "status")
    assert STREAM.key not in status.stdout
    history = await milepost(folder(kept), "journal", "tail", "--stream", STREAM.key)
    assert history.stdout.splitlines()[-1].endswith("Removed via command line with all rows")


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, {OTHER.key}), ("n\n", 1, {STREAM.key, OTHER.key})])
def test_on_a_terminal_it_shows_what_is_stored_and_asks_for_confirmation(
    kept: SqliteDump, answer: str, code: int, left: set[str]
) -> None:
    (folder(kept) / "config.yaml").write_text(PAGES)
    done = answered_on_terminal(folder(kept), answer, "streams", "remove", STREAM.key)

    assert done.code == code, done
    shown = next(line for line in done.stderr.splitlines() if line.startswith("Corner Bakery ")).split()
    assert shown == ["Corner", "Bakery", STREAM.key, "1", "1", "2", "1"]
    assert "is still configured" in done.stderr
    assert "for good? [y/N]" in done.stderr
    assert streams_in(kept) == left


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((STREAM.key,), "--yes"),
        (("messenger:77", "--yes"), f"there is no stream messenger:77; known are {OTHER.key}, {STREAM.key}"),
        ((STREAM.key, "messenger:77", "--yes"), "there is no stream messenger:77"),
        (("77", "--yes"), "'77' is not a stream"),
        (("telegram:77", "--yes"), "is not a stream"),
        ((), "Missing argument"),
    ],
)
async def test_wrong_usage_is_refused_before_anything_is_removed(
    kept: SqliteDump, arguments: tuple[str, ...], error: str
) -> None:
    ended = await milepost(folder(kept), "streams", "remove", *arguments)

    assert ended.code == 2, ended
    assert error in ended.stderr
    assert streams_in(kept) == {STREAM.key, OTHER.key}


async def test_a_configured_stream_that_was_never_synced_has_nothing_to_remove(kept: SqliteDump) -> None:
    (folder(kept) / "config.yaml").write_text(PAGES.replace(STREAM.page_id, "77"))

    ended = await milepost(folder(kept), "streams", "remove", "messenger:77")

    assert (ended.code, ended.stdout) == (0, "Nothing is stored for Corner Bakery (messenger:77)\n")


async def test_while_a_daemon_runs_it_is_refused_with_what_to_do(kept: SqliteDump) -> None:
    with lock_database(kept.path):
        ended = await milepost(folder(kept), "streams", "remove", STREAM.key)

    assert ended.code == 75, ended
    assert "another Milepost is using the database" in ended.stderr
    assert "stop it first" in ended.stderr
    assert streams_in(kept) == {STREAM.key, OTHER.key}


async def test_a_database_that_cannot_be_opened_is_the_reason_whoever_holds_its_lock(kept: SqliteDump) -> None:
    """A user who may not open the lock either would be sent to look for a daemon that does not run."""
    kept.path.write_text("no database")
    with lock_database(kept.path):
        ended = await milepost(folder(kept), "streams", "remove", STREAM.key)

    assert ended.code == 78, ended
    assert "the file is not a SQLite database" in ended.stderr


async def test_without_a_database_removal_is_refused(tmp_path: Path) -> None:
    ended = await milepost(tmp_path, "streams", "remove", STREAM.key, "--yes")

    assert ended.code == 78, ended
    assert names_in(tmp_path) == {"said"}


async def test_a_sync_copies_a_removed_stream_again(tmp_path: Path) -> None:
    async with frozen_world(conversations=30) as simulator:
        installation = Installation(tmp_path)
        await installation.sync_from(simulator)
        before, entries = installation.copied(), installation.rows("SELECT count(*) FROM journal")
        (key,) = installation.rows("SELECT min(stream) FROM checkpoints")[0]

        assert (await milepost(tmp_path, "streams", "remove", key, "--yes")).code == 0
        assert installation.copied() != before
        assert (await installation.sync()).code == 0

        assert installation.copied() == before
        assert installation.rows("SELECT count(*) FROM journal") > entries
        assert (await milepost(tmp_path, "journal", "verify")).code == 0
