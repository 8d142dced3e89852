"""`milepost store copy`, the real program: it leaves a whole copy or none, and a daemon continues from it."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from kit.binary import Ended, milepost, started, until
from kit.flaky_proxy import breakable_line
from kit.installation import COPIED, Installation
from kit.needs import long_only
from kit.postgres import Database, Server, fresh_database
from kit.simulated import BICYCLES, frozen_world, taken_cursors
from kit.terminal import milepost_on_terminal
from milepost.stores.url import StoreUrl
from stores.databases import AnyDatabase

STREAM = f"messenger:{BICYCLES.id}"
BATCHES = 8
# What a copy prints when it is done with a table.
DONE = ("copying forgotten", "copying journal", "copying contacts", "copying conversations", "comparing journal")


@pytest.fixture
def unmade(postgres: Server) -> Iterator[Database]:
    """Yield a database without any table."""
    with fresh_database(postgres, template=None) as database:
        yield database


def database_of(installation: Installation) -> AnyDatabase:
    """Return the database of the installation, which is configured for it unless it is configured already."""
    if not installation.config.exists():
        installation.config.write_text("store:\n  url: sqlite:///milepost.db\n")
    return AnyDatabase(StoreUrl(f"sqlite:///{installation.database}"))


def password(database: Database) -> dict[str, str]:
    return {"PGPASSWORD": database.password}


async def copy(
    installation: Installation, url: str, *options: str, environment: Mapping[str, str] | None = None
) -> Ended:
    return await milepost(installation.folder, "store", "copy", "--to", url, *options, environment=environment)


def copied_tables(of: AnyDatabase) -> dict[str, list[tuple[Any, ...]]]:
    return {table: of.rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3") for table, columns in COPIED.items()}


async def test_a_daemon_continues_from_the_copy_and_duplicates_nothing(
    installation: Installation, another: Installation, database: Database, unmade: Database
) -> None:
    target = AnyDatabase(unmade.store_url, unmade)
    async with frozen_world(BATCHES * 50, pages=(BICYCLES,)) as simulator:
        another.configure_for(simulator, store={"url": database.url, "password": database.password})
        assert (await another.sync()).code in (0, 1)  # 1: it meets texts that PostgreSQL does not take
        installation.configure_for(simulator, sync={"max_batches_per_run": 3})
        assert (await installation.sync()).code == 75

        done = await copy(installation, unmade.url, environment=password(unmade))

        assert done.code == 0, done
        assert f"{unmade.url} is a verified copy of milepost.db: " in done.stdout
        assert (
            f"To switch to it, write into config.yaml, then start Milepost:\n\nstore:\n  url: {unmade.url}\n"
            in done.stdout
        )
        assert target.everything() == database_of(installation).everything()
        (store_url,) = installation.positions(STREAM)[-1:]
        taken_cursors(simulator)
        installation.configure_for(simulator, store={"url": unmade.url, "password": "${PGPASSWORD}"})
        async with started(installation.folder, "run", environment=password(unmade)) as daemon:
            await daemon.says("sweep completed")
            daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
        assert taken_cursors(simulator)[STREAM][0] == store_url
    assert copied_tables(target) == copied_tables(AnyDatabase(database.store_url, database))
    back = await copy(installation, "sqlite:///back.db", environment=password(unmade))
    assert back.code == 0, back
    assert AnyDatabase(StoreUrl(f"sqlite:///{installation.folder}/back.db")).everything() == target.everything()


@pytest.mark.parametrize(
    "hits",
    [
        pytest.param(1, marks=pytest.mark.timeout(300)),  # it kills one copy or some more
        pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
    ids=["one", "20"],
)
async def test_a_copy_that_is_killed_at_a_random_moment_leaves_nothing_and_is_made_again(
    installation: Installation, postgres: Server, hits: int
) -> None:
    """A kill hits a copy under way, or comes too late."""
    source, random = database_of(installation), Random(hits)  # noqa: S311  (a seed, so that it happens again)
    for _ in range(4):
        await source.fill(commits=80)
    with fresh_database(postgres, template=None) as database:
        target = AnyDatabase(database.store_url, database)
        await _killed(installation, database, lambda _: target.has_tables(), random.random() * 0.02)
        for _ in range(10 * hits):
            await _killed(installation, database, _says(random.choice(DONE)), random.random() * 0.1)
            if target.rows("SELECT 1 FROM journal LIMIT 1"):  # it was committed before the kill
                assert target.everything() == source.everything()
                if database.sql("SELECT 1 FROM unfinished_copy"):  # rolled back, to what the one before had committed
                    hits -= 1
                else:
                    database.sql("INSERT INTO unfinished_copy VALUES (1, '', now())")  # so that it is emptied
            else:
                assert not any(target.everything().values())
                hits -= 1
            if hits == 0:
                break
        done = await copy(installation, database.url, environment=password(database))
        assert done.code == 0, done
        assert target.everything() == source.everything()
    assert hits == 0, "too few kills hit a copy under way: they prove little"


def _says(text: str) -> Callable[[str], bool]:
    return lambda said: text in said


async def _killed(
    installation: Installation, database: Database, is_due: Callable[[str], bool], grace_seconds: float
) -> None:
    """Kill a copy a moment after it has printed something, and wait until the server has noticed."""
    arguments = ("store", "copy", "--to", database.url)
    async with started(installation.folder, *arguments, environment=password(database)) as running:
        await until(lambda: running.has_ended or is_due(running.said))
        await asyncio.sleep(grace_seconds)
        await running.kill()
    database.terminate_backends()


def _config_on(installation: Installation, database: Database) -> Path:
    path = installation.folder / "target.yaml"
    store = {"url": database.url, "password": database.password}
    path.write_text(yaml.safe_dump({"store": store}))
    return path


async def test_what_an_earlier_milepost_left_unfinished_is_refused_by_every_command(
    installation: Installation, database: Database
) -> None:
    database.sql("INSERT INTO unfinished_copy VALUES (1, 'sqlite:///milepost.db', '2026-03-01T12:00:00Z')")
    config = str(_config_on(installation, database))
    for command in (["run"], ["sync"], ["status"], ["journal", "verify"], ["store", "copy", "--to", "sqlite:///b.db"]):
        refused = await milepost(installation.folder, *command, "-c", config)
        assert refused.code == 78, refused
        assert (
            "is incomplete: a copy of sqlite:///milepost.db into it, begun at 2026-03-01T12:00:00.000Z"
            in refused.stderr
        )
        assert "run `milepost store copy` into it again" in refused.stderr
    assert database.sql("SELECT count(*) FROM journal") == [(0,)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *long_only(signal.SIGINT)])
async def test_a_signal_ends_the_copy_and_nothing_was_copied(
    installation: Installation, unmade: Database, number: signal.Signals
) -> None:
    source, target = database_of(installation), AnyDatabase(unmade.store_url, unmade)
    await source.fill()
    async with breakable_line(unmade) as line:
        line.fall_silent_at(b"COPY contacts")  # so that it is not done before it is stopped
        arguments = ("store", "copy", "--to", line.store_url.url)
        async with started(installation.folder, *arguments, environment=password(unmade)) as running:
            await running.says("copying journal")
            running.signal(number)
            ended = await running.ended()
    unmade.terminate_backends()
    assert ended.code == 1, ended
    assert ended.stderr.endswith("milepost: the copy was stopped, and nothing was copied\n  → run it again\n")
    assert not any(target.everything().values())
    again = await copy(installation, unmade.url, environment=password(unmade))
    assert again.code == 0, again
    assert target.everything() == source.everything()


async def test_a_source_in_use_is_not_copied(installation: Installation, unmade: Database) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.url()
            refused = await copy(installation, unmade.url, environment=password(unmade))
    assert refused.code == 75
    assert "is using the database" in refused.stderr
    assert not AnyDatabase(unmade.store_url, unmade).has_tables()


async def test_a_server_in_use_is_neither_source_nor_target(installation: Installation, database: Database) -> None:
    files = installation.folder / "files.yaml"
    files.write_text("store:\n  url: sqlite:///milepost.db\n")
    await database_of(installation).fill(commits=2)
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, store={"url": database.url, "password": database.password})
        async with started(installation.folder, "run") as daemon:
            await daemon.url()
            out_of_it = await copy(installation, "sqlite:///copy.db")
            into_it = await copy(installation, database.url, "-c", str(files), environment=password(database))
    for refused in (out_of_it, into_it):
        assert refused.code == 75, refused
        assert f"a Milepost is using the database {database.url}" in refused.stderr
    assert database.sql("SELECT count(*) FROM unfinished_copy") == [(0,)]


class TestPassword:
    async def test_a_password_from_a_file_is_never_shown(self, installation: Installation, unmade: Database) -> None:
        await database_of(installation).fill(commits=2)
        secret = installation.folder / "secret"
        secret.write_text(f"{unmade.password}\n")

        done = await copy(installation, unmade.url, "--password-file", "secret")

        assert done.code == 0, done
        assert f"  password_file: {secret}\n" in done.stdout
        assert unmade.password not in done.stdout + done.stderr
        as_service = {"CREDENTIALS_DIRECTORY": str(installation.folder)}
        into_another = ("--password-file", "secret", "--schema", "another")
        again = await copy(installation, unmade.url, *into_another, environment=as_service)
        assert "  password_file: ${CREDENTIALS_DIRECTORY}/secret\n" in again.stdout

    async def test_a_password_in_the_url_is_refused_and_not_repeated(
        self, installation: Installation, unmade: Database
    ) -> None:
        await database_of(installation).fill(commits=2)
        refused = await copy(installation, unmade.url.replace("@", ":hunter2@"))
        assert refused.code == 78
        assert "--to is not the URL of a database" in refused.stderr
        assert "hunter2" not in refused.stderr

    async def test_a_wrong_password_is_reported_and_not_repeated(
        self, installation: Installation, unmade: Database
    ) -> None:
        await database_of(installation).fill(commits=2)
        refused = await copy(installation, unmade.url, environment={"PGPASSWORD": "hunter2"})
        assert refused.code == 78
        assert "password authentication failed" in refused.stderr
        assert "hunter2" not in refused.stderr

    @pytest.mark.parametrize(("content", "expected"), [(None, "there is no such file"), ("\n", "is empty")])
    async def test_a_password_file_that_is_missing_or_empty_is_refused(
        self, installation: Installation, unmade: Database, content: str | None, expected: str
    ) -> None:
        if content is not None:
            (installation.folder / "secret").write_text(content)
        refused = await copy(installation, unmade.url, "--password-file", "secret")
        assert refused.code == 78
        assert expected in refused.stderr


async def test_a_schema_of_another_name_is_an_option_and_no_part_of_the_url(
    installation: Installation, unmade: Database
) -> None:
    source = database_of(installation)
    await source.fill(commits=2)
    refused = await copy(installation, f"{unmade.url}?schema=crm", environment=password(unmade))
    assert refused.code == 78
    assert "--to: schema cannot be in the URL any more" in refused.stderr
    assert "the options --schema and --pooler" in refused.stderr

    done = await copy(installation, unmade.url, "--schema", "crm", environment=password(unmade))

    assert done.code == 0, done
    assert f"store:\n  url: {unmade.url}\n  schema: crm\n" in done.stdout
    assert unmade.sql("SELECT count(*) FROM crm.journal") == source.rows("SELECT count(*) FROM journal")
    assert (
        "'none' is not one of 'session', 'transaction'"
        in (await copy(installation, unmade.url, "--pooler", "none")).stderr
    )
    assert "store.schema does not allow it" in (await copy(installation, unmade.url, "--schema", "Shop 1")).stderr


@pytest.mark.parametrize("option", ["--schema", "--pooler", "--password-file"])
async def test_an_option_of_postgresql_is_refused_for_a_file(installation: Installation, option: str) -> None:
    refused = await copy(installation, "sqlite:///copy.db", option, "session")
    assert refused.code == 2
    assert f"{option} is for PostgreSQL, and --to is a SQLite database" in refused.stderr


async def test_an_unreachable_server_is_reported_with_what_to_do(
    installation: Installation, unmade: Database, postgres: Server
) -> None:
    await database_of(installation).fill(commits=2)
    postgres.stop()
    refused = await copy(installation, f"{unmade.url}?sslmode=prefer", environment=password(unmade))
    postgres.start()
    assert refused.code == 1
    assert "does not answer" in refused.stderr
    assert "check that the server runs and that --to leads to it; then run the copy again" in refused.stderr
    again = await copy(installation, unmade.url, environment=password(unmade))
    assert again.code == 0, again


async def test_a_target_that_cannot_be_made_is_reported_by_its_option(installation: Installation) -> None:
    await database_of(installation).fill(commits=1)
    refused = await copy(installation, "sqlite:////nowhere/copy.db")
    assert refused.code == 78
    assert "check --to, that its directory exists" in refused.stderr


async def test_a_rejected_row_is_an_error_with_a_way_out(installation: Installation, unmade: Database) -> None:
    source = database_of(installation)
    await source.fill(commits=3)
    source.execute("UPDATE contacts SET name = 'Ada' || char(0) WHERE contact_id LIKE '%/3/1'")
    refused = await copy(installation, unmade.url, environment=password(unmade))
    assert refused.code == 1
    assert "the target does not accept contacts " in refused.stderr
    assert "--replace-nul" in refused.stderr
    assert "Ada" not in refused.stderr
    taken = await copy(installation, unmade.url, "--replace-nul", environment=password(unmade))
    assert taken.code == 0, taken


async def test_a_progress_bar_on_a_terminal_leaves_nothing_behind(installation: Installation) -> None:
    await database_of(installation).fill(commits=5)
    ended = await milepost_on_terminal(installation.folder, "store", "copy", "--to", "sqlite:///copy.db")
    assert ended.code == 0, ended
    assert "copying conversations" in ended.stderr
    assert "checking the hash chains of journal" in ended.stderr
    assert "\n" not in ended.stderr.replace("\r\n", "\n").strip("\n"), "every line was drawn over"


async def test_a_missing_source_is_refused(installation: Installation) -> None:
    refused = await copy(installation, "sqlite:///copy.db")
    assert refused.code == 78
    assert "there is no database at" in refused.stderr
    assert {each.name for each in installation.folder.iterdir()} == {"said"}
