"""What the user sees when PostgreSQL has a fault, and what is left afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from msgspec import Struct

from kit.builders import STREAM
from kit.flaky_proxy import Cut, breakable_line
from kit.ports import unused_port
from kit.postgres import ROLE, Database, Server, fresh_database, on_both_releases
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError, OutcomeUnknown, RowsRejected, StoreAway, StoreRefused
from milepost.core.model import Changes, Keys
from milepost.core.ports import Committed
from milepost.stores import url
from milepost.stores.open import has_database, open_store
from milepost.stores.postgresql import connection as connecting
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.encoding import Prepared
from milepost.stores.postgresql.errors import translated
from milepost.stores.postgresql.store import PostgresqlStore, open_postgresql
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, contact_row, conversation_row, event_row, life, live, next_commit, stream
from stores.store_dump import PostgresDump

SECRET = "Wq7-zebra"  # only a row holds it
FIRST = Checkpoint(STREAM)
SECRETS = Changes(
    (conversation_row("t_1", snippet=SECRET),), (contact_row("c_1", name=SECRET),), (event_row("m_1", text=SECRET),)
)

pytestmark = on_both_releases


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresqlStore]:
    async with open_postgresql(database.store_url) as store:
        yield store


async def waiting(database: Database) -> int:
    """Wait until the store waits for a lock, and return the process id of its backend."""
    query = "SELECT pid FROM pg_stat_activity WHERE usename = 'milepost' AND datname = current_database()"
    async with asyncio.timeout(60):
        while not (found := database.sql(f"{query} AND wait_event_type = 'Lock'")):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.01)
    return int(found[0][0])


def hurry(store: PostgresqlStore, setting: str, timeout: str) -> None:
    """Shorten one of the timeouts that each transaction begins with."""
    longer = {"lock_timeout": "'15s'", "idle_in_transaction_session_timeout": "'10s'"}[setting]
    settings = store.database.sql["settings"]
    assert f"'{setting}', {longer}" in settings
    store.database.sql = dict(store.database.sql) | {"settings": settings.replace(longer, f"'{timeout}'")}


async def it_answers_again(store: PostgresqlStore) -> None:
    """Wait until the pool is connected again."""
    store.database.pool.timeout = 10.0
    async with asyncio.timeout(60):
        while True:
            with suppress(StoreAway):
                return await store.answers()


def reveals_nothing(error: MilepostError, database: Database) -> None:
    text = f"{error} {error.message} {error.hint} {error!r}"
    assert error.hint
    assert database.password not in text
    assert SECRET not in text
    assert "\n" not in text


# --- at the start -----------------------------------------------------------------------------------------------------


class Fault(Struct, frozen=True):
    """A fault of a database: how to cause it, and what the user sees."""

    arrange: Callable[[Database], StoreUrl | None]
    raises: type[MilepostError]
    message: str
    hint: str


def sql(*statements: str) -> Callable[[Database], None]:
    def arrange(database: Database) -> None:
        for each in statements:
            database.sql(each.replace("{database}", database.name))

    return arrange


def with_url(change: Callable[[str], str]) -> Callable[[Database], StoreUrl]:
    return lambda database: StoreUrl(change(database.url), database.password)


ABSENCES = {
    "nobody listens": Fault(
        lambda database: StoreUrl(f"postgresql://{ROLE}@127.0.0.1:{unused_port()}/{database.name}", database.password),
        StoreAway,
        "refused",
        "check that the server runs",
    ),
    "there is no socket": Fault(
        lambda database: StoreUrl(f"postgresql://{ROLE}@/{database.name}?host=/nonexistent", database.password),
        StoreAway,
        "No such file or directory",
        "check that the server runs",
    ),
    "an unknown host": Fault(
        with_url(lambda url: url.replace("127.0.0.1", "no-such-host.invalid")),
        StoreAway,
        "no-such-host.invalid",
        "check that the server runs",
    ),
    "too many connections of the role": Fault(
        sql("ALTER ROLE milepost CONNECTION LIMIT 0"), StoreAway, "too many connections", "max_connections"
    ),
    "too many connections to the database": Fault(
        sql("ALTER DATABASE {database} CONNECTION LIMIT 0"), StoreAway, "too many connections", "max_connections"
    ),
    "a replica": Fault(
        sql("ALTER DATABASE {database} SET default_transaction_read_only = on"),
        StoreAway,
        "read-only transaction",
        "accepts no writes",
    ),
}
REFUSALS = {
    "a wrong password": Fault(
        lambda database: StoreUrl(database.url, "wr0ng"),
        StoreRefused,
        "password authentication failed",
        "store.password",
    ),
    "no password": Fault(
        lambda database: StoreUrl(database.url), StoreRefused, "no password supplied", "store.password"
    ),
    "an unknown user": Fault(
        with_url(lambda url: url.replace(f"{ROLE}@", "nobody@")),
        StoreRefused,
        "password authentication failed",
        "store.password",
    ),
    "an unknown database": Fault(
        with_url(lambda url: f"{url}_x"), StoreRefused, "does not exist", "check the database's name"
    ),
    "no right to connect": Fault(
        sql("REVOKE CONNECT ON DATABASE {database} FROM public; ALTER DATABASE {database} OWNER TO postgres"),
        StoreRefused,
        "permission denied",
        "privileges",
    ),
    "no right to the schema": Fault(
        sql("ALTER SCHEMA milepost OWNER TO postgres; ALTER DATABASE {database} OWNER TO postgres"),
        StoreRefused,
        "permission denied",
        "privileges",
    ),
    "no right to the tables": Fault(
        sql("ALTER TABLE checkpoints OWNER TO postgres"), StoreRefused, "permission denied", "privileges"
    ),
    "no right to make the schema": Fault(
        sql("DROP SCHEMA milepost CASCADE; ALTER DATABASE {database} OWNER TO postgres"),
        StoreRefused,
        "permission denied",
        "privileges",
    ),
    "a newer schema": Fault(
        sql("INSERT INTO schema_migrations VALUES ('0099_from_the_future', now())"),
        StoreRefused,
        "newer than this Milepost: its migrations include 0099_from_the_future",
        "run the newer version",
    ),
    "a schema of another program": Fault(
        sql(
            "DROP SCHEMA milepost CASCADE; CREATE SCHEMA milepost AUTHORIZATION milepost;"
            "CREATE TABLE milepost.journal (day date)"
        ),
        StoreRefused,
        "already exists",
        "not Milepost's",
    ),
    "tables that are gone": Fault(sql("DROP TABLE checkpoints"), StoreRefused, "does not exist", "not Milepost's"),
    "no TLS where it is demanded": Fault(
        with_url(lambda url: f"{url}?sslmode=require"), StoreRefused, "does not support SSL", "sslmode"
    ),
    "no TLS where its certificate is checked": Fault(
        with_url(lambda url: f"{url}?sslmode=verify-full&sslrootcert=system"), StoreRefused, "SSL", "sslmode"
    ),
}


@pytest.mark.parametrize("fault", (ABSENCES | REFUSALS).values(), ids=ABSENCES | REFUSALS)
async def test_a_fault_at_the_start_is_reported_with_what_to_do(database: Database, fault: Fault) -> None:
    store_url = fault.arrange(database) or database.store_url
    try:
        with pytest.raises(MilepostError) as raised:
            async with open_store(store_url) as store:
                await store.load(STREAM)
    finally:
        database.server.sql("ALTER ROLE milepost CONNECTION LIMIT -1")

    assert type(raised.value) is fault.raises, raised.value
    assert fault.message in raised.value.message
    assert fault.hint in raised.value.hint
    assert str(store_url).partition("?")[0] in raised.value.message
    reveals_nothing(raised.value, database)


async def test_a_server_that_shuts_down_is_an_absence(postgres: Server, database: Database) -> None:
    """A smart shutdown accepts no new session, and waits for those that exist."""
    other = database.connect()
    stopping = asyncio.create_task(asyncio.to_thread(postgres.stop, "smart"))
    try:
        async with asyncio.timeout(60):
            while "shutting down" not in str(error := await why_away(database)):
                pass
    finally:
        other.close()
        await stopping
        postgres.start()

    assert "restarting" in error.hint
    reveals_nothing(error, database)


async def why_away(database: Database) -> StoreAway:
    try:
        await has_database(database.store_url)
    except StoreAway as away:
        return away
    return StoreAway("it is there", hint="")


# --- at work ----------------------------------------------------------------------------------------------------------


async def test_sessions_that_are_terminated_between_commits_go_unnoticed(
    database: Database, store: PostgresqlStore
) -> None:
    reached = await live(store, STREAM, 3)

    assert database.terminate_backends() >= 1

    assert (await live(store, STREAM, 3)).version > reached.version


async def test_a_session_that_is_terminated_in_the_middle_of_a_commit_is_an_absence(
    database: Database, store: PostgresqlStore
) -> None:
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE contacts")
        committing = asyncio.ensure_future(store.commit(commit_after(FIRST, changes=SECRETS)))
        await waiting(database)
        store_backends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'milepost'"
        database.sql(store_backends)
        with pytest.raises(OutcomeUnknown) as raised:
            await committing

    reveals_nothing(raised.value, database)
    assert await store.settle(commit_after(FIRST, changes=SECRETS)) is None
    assert isinstance(await store.commit(commit_after(FIRST, changes=SECRETS)), Committed)


@pytest.mark.parametrize("mode", ["fast", "immediate", "killed"])
async def test_a_restart_is_an_absence_that_loses_nothing(
    postgres: Server, database: Database, store: PostgresqlStore, mode: str
) -> None:
    reached = await live(store, STREAM, 5)

    await asyncio.to_thread(postgres.kill if mode == "killed" else lambda: postgres.stop(mode))  # type: ignore[arg-type]
    store.database.pool.timeout = 0.2
    with pytest.raises(StoreAway) as raised:
        await store.commit(next_commit(reached))
    postgres.start()

    reveals_nothing(raised.value, database)
    await it_answers_again(store)
    assert await store.load(STREAM) == reached
    assert (await live(store, STREAM, 5)).version > reached.version
    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold()


async def test_a_write_that_changes_nothing_takes_no_special_rights(database: Database, store: PostgresqlStore) -> None:
    await live(store, STREAM, 3)
    before = PostgresDump(database).tables()
    await store.write_nothing()
    assert PostgresDump(database).tables() == before


async def test_a_database_that_turns_read_only_takes_no_writes_whether_any_were_tried_or_not(
    database: Database, store: PostgresqlStore
) -> None:
    await store.takes_writes()
    with database.read_only():
        await store.answers()
        with pytest.raises(StoreAway, match="read-only"):
            await store.write_nothing()
        with pytest.raises(StoreAway, match="read-only"):
            await store.commit(next_commit(await store.load(STREAM)))
        with pytest.raises(StoreAway, match="read-only"):
            await store.takes_writes()
    await live(store, STREAM, 1)
    await store.takes_writes()


@pytest.mark.parametrize(
    ("state", "message", "expected"),
    [
        ("42501", 'could not extend file "base/1/2": Read-only file system', StoreAway),
        ("58030", 'could not read blocks 1..1 in file "base/1/2": Input/output error', StoreAway),
        ("XX000", 'could not open file "base/1/2": Stale file handle', StoreAway),
        ("53000", 'could not open file "base/1/2": Too many open files in system', StoreAway),
        ("42501", "permission denied for table checkpoints", StoreRefused),
        ("XX001", "invalid page in block 1 of relation base/1/2", StoreRefused),
    ],
)
async def test_a_file_system_of_the_server_that_went_away_is_an_absence(
    database: Database, state: str, message: str, expected: type[MilepostError]
) -> None:
    with database.connect() as connection, pytest.raises(psycopg.Error) as raised:
        connection.execute(f"DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{state}'; END $$".encode())
    meant = translated(raised.value, "shop")
    assert type(meant) is expected
    assert message in meant.message
    assert expected is StoreRefused or "backup" not in meant.hint


async def test_a_role_that_does_not_exist_is_no_missing_database(database: Database) -> None:
    """A server that asks for no password reports it with this text."""
    said = psycopg.OperationalError('connection failed: FATAL:  role "shop" does not exist')
    refused = translated(said, database.name)
    assert isinstance(refused, StoreRefused)
    assert "the user in store.url" in refused.hint


async def test_an_unreachable_server_is_reported_without_the_question_of_libpq(database: Database) -> None:
    said = psycopg.OperationalError(
        'connection failed: connection to server at "db.example", port 5432 failed: Connection refused\n'
        "\tIs the server running on that host and accepting TCP/IP connections?"
    )
    away = translated(said, database.name)
    assert isinstance(away, StoreAway)
    assert away.message.endswith('connection to server at "db.example", port 5432 failed: Connection refused')


async def test_a_root_certificate_that_does_not_exist_is_no_missing_database(database: Database) -> None:
    """Only a server that offers TLS makes libpq look for it."""
    said = psycopg.OperationalError('connection failed: root certificate file "/root/root.crt" does not exist')
    refused = translated(said, database.name)
    assert isinstance(refused, StoreRefused)
    assert "sslrootcert" in refused.hint


@pytest.mark.parametrize(
    "statement", ["EXECUTE made_elsewhere", "PREPARE twice AS SELECT 1; PREPARE twice AS SELECT 2"]
)
async def test_a_pooler_that_the_configuration_does_not_mention_is_named_as_the_cause(
    database: Database, statement: str
) -> None:
    """Its sessions are shared, and so are the statements that are prepared in them."""
    with database.connect() as connection, pytest.raises(psycopg.Error) as raised:
        connection.execute(statement.encode())
    refused = translated(raised.value, database.name)
    assert isinstance(refused, StoreRefused)
    assert "store.pooler: transaction" in refused.hint


async def test_a_database_that_turns_read_only_is_an_absence(database: Database, store: PostgresqlStore) -> None:
    """This happens in a failover, when a primary becomes a replica."""
    reached = await live(store, STREAM, 3)

    with database.read_only():
        assert await store.load(STREAM) == reached
        with pytest.raises(StoreAway, match="read-only") as raised:
            await store.commit(next_commit(reached))

    assert "replica" in raised.value.hint
    reveals_nothing(raised.value, database)
    assert (await live(store, STREAM, 3)).version > reached.version


async def test_too_many_connections_are_an_absence(database: Database, store: PostgresqlStore) -> None:
    await store.answers()
    database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT 0")
    database.terminate_backends()
    store.database.pool.timeout = 0.2

    with pytest.raises(StoreAway, match="too many connections") as raised:
        await store.commit(next_commit(FIRST))

    assert "max_connections" in raised.value.hint
    reveals_nothing(raised.value, database)
    database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT -1")
    await it_answers_again(store)
    assert isinstance(await store.commit(next_commit(FIRST)), Committed)


async def test_a_lock_that_is_held_too_long_is_an_absence(database: Database, store: PostgresqlStore) -> None:
    hurry(store, "lock_timeout", "50ms")
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE contacts")
        with pytest.raises(StoreAway, match="lock timeout") as raised:
            await store.commit(commit_after(FIRST, changes=SECRETS))

    assert "another session holds a lock" in raised.value.hint
    reveals_nothing(raised.value, database)
    assert isinstance(await store.commit(commit_after(FIRST, changes=SECRETS)), Committed)


async def test_a_statement_that_takes_too_long_is_an_absence(database: Database, store: PostgresqlStore) -> None:
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE contacts")
        committing = asyncio.ensure_future(store.commit(commit_after(FIRST, changes=SECRETS)))
        pid = await waiting(database)
        database.sql("SELECT pg_cancel_backend(%s)", pid)
        with pytest.raises(StoreAway, match="canceling statement") as raised:
            await committing

    assert "took too long" in raised.value.hint
    reveals_nothing(raised.value, database)
    assert isinstance(await store.commit(commit_after(FIRST, changes=SECRETS)), Committed)


async def test_a_transaction_that_idles_too_long_is_an_absence(
    database: Database, store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was suspended must not hold its locks for ever."""
    write = PostgresqlWriter.write

    async def late(*arguments: object) -> object:
        await ended(database)
        return await write(*arguments)  # type: ignore[arg-type]

    hurry(store, "idle_in_transaction_session_timeout", "50ms")
    monkeypatch.setattr(PostgresqlWriter, "write", late)
    with pytest.raises(StoreAway) as raised:
        await store.commit(commit_after(FIRST, changes=SECRETS))
    monkeypatch.setattr(PostgresqlWriter, "write", write)

    reveals_nothing(raised.value, database)
    assert await store.settle(commit_after(FIRST, changes=SECRETS)) is None
    assert isinstance(await store.commit(commit_after(FIRST, changes=SECRETS)), Committed)


async def ended(database: Database) -> None:
    """Wait until the server has ended the store's session."""
    query = "SELECT 1 FROM pg_stat_activity WHERE usename = 'milepost' AND state LIKE 'idle in transaction%%'"
    async with asyncio.timeout(60):
        while database.sql(f"{query} AND datname = %s", database.name):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.01)


async def test_a_fault_while_a_group_is_written_one_by_one_is_raised_only_to_those_it_hit(
    store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is refused, so each commit is written by itself. Commits stored before the fault are reported as stored."""
    opening, stored, refused, hit = (next(life(stream(number), 1)) for number in range(4))

    write = PostgresqlWriter.write

    async def write_or_fail(writer: PostgresqlWriter, group: list[Prepared], events_chunk_size: int) -> list[Committed]:
        commits = [each.commit for each in group]
        if refused in commits:
            raise psycopg.errors.CheckViolation("not this one")
        if hit in commits:
            raise psycopg.errors.DiskFull("no space left")
        return await write(writer, group, events_chunk_size)

    monkeypatch.setattr(PostgresqlWriter, "write", write_or_fail)
    commits = (opening, stored, refused, hit)
    answers = await asyncio.gather(*(store.commit(each) for each in commits), return_exceptions=True)

    assert [type(answer) for answer in answers] == [Committed, Committed, RowsRejected, StoreAway]
    assert await store.load(stream(1)) == stored.checkpoint


# --- conflicts with other sessions ------------------------------------------------------------------------------------


# Done by the server alone: the store looks for a deadlock once, a second after it began to wait.
ONCE_THE_STORE_WAITS = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;
    UPDATE contacts SET name = 'mine';
END $$
"""


async def test_a_deadlock_is_retried(database: Database, store: PostgresqlStore) -> None:
    """Another program's job locks the same rows in the opposite order, and waits longer, so the store yields."""
    assert isinstance(await store.commit(commit_after(FIRST, changes=SECRETS)), Committed)
    second = commit_after((await store.load(STREAM)), changes=SECRETS)

    with database.connect() as other:
        other.execute("SET deadlock_timeout = '60s'; BEGIN; UPDATE conversations SET link = 'mine'")
        committing = asyncio.ensure_future(store.commit(second))
        await asyncio.to_thread(other.execute, ONCE_THE_STORE_WAITS)
        other.execute("COMMIT")

        assert isinstance(await committing, Committed)
    assert "deadlock detected" in database.server.log
    known = await store.known(Keys(STREAM, ("t_1",), ("c_1",)))
    assert known.contacts["c_1"].name == SECRET


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_stricter_isolation_by_default_does_no_harm(database: Database, isolation: str) -> None:
    """A database may be configured so for its other programs."""
    database.sql(f"ALTER DATABASE {database.name} SET default_transaction_isolation = '{isolation}'")

    async def lives(number: int) -> None:
        async with open_postgresql(database.store_url) as store:
            await asyncio.gather(*(live(store, stream(4 * number + each), 10) for each in range(4)))

    await asyncio.gather(*(lives(number) for number in range(3)))

    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold()
    assert len(tables.checkpoints) == 12


@pytest.mark.parametrize("froze", ["between commits", "in the middle of one"])
async def test_a_server_that_freezes_is_an_absence(
    database: Database, monkeypatch: pytest.MonkeyPatch, froze: str
) -> None:
    """The server's machine may be suspended, or the network may drop everything: every wait has an end."""
    monkeypatch.setattr(url, "CONNECT_TIMEOUT_SECONDS", 1)
    async with breakable_line(database) as line, open_postgresql(line.store_url) as store:
        reached = await live(store, STREAM, 2)
        store.database.pool.timeout = 0.3
        if froze == "between commits":
            line.fall_silent()
        else:
            line.cut_next_commit(Cut.SILENCE)

        with monkeypatch.context() as impatient:
            impatient.setattr(connecting, "ANSWER_SECONDS", 0.5)
            impatient.setattr(connecting, "CHECK_SECONDS", 0.5)
            async with asyncio.timeout(60):
                with pytest.raises(StoreAway) as raised:
                    await store.commit(next_commit(reached))
        assert isinstance(raised.value, OutcomeUnknown) == (froze == "in the middle of one")
        reveals_nothing(raised.value, database)

        line.speak_again()
        await line.hang_up()
        await it_answers_again(store)
        assert (await live(store, STREAM, 2)).version > reached.version


# --- a full disk ------------------------------------------------------------------------------------------------------


@contextmanager
def on_small_disk(server: Server) -> Iterator[Database]:
    """Yield a database whose tables are on a disk of their own, a small one."""
    with server.small_tablespace("20m") as space, fresh_database(server, options=f"TABLESPACE {space}") as database:
        yield database


async def test_a_full_disk_is_an_absence_until_there_is_room(postgres: Server) -> None:
    with on_small_disk(postgres) as database:
        async with open_postgresql(database.store_url) as store:
            reached = await live(store, STREAM, 2)
            database.sql("CREATE TABLE ballast AS SELECT 1 AS n, repeat('x', 2000) AS t")
            fill_up(database)
            with pytest.raises(StoreAway) as raised:
                await live(store, STREAM, 2_000)
            with pytest.raises(StoreAway, match="could not extend"):
                await store.takes_writes()

            assert "make room; nothing that was committed is lost" in raised.value.hint
            reveals_nothing(raised.value, database)
            tables = PostgresDump(database).tables()
            assert tables.checkpoints == tables.refold() == {STREAM.key: await store.load(STREAM)}

            database.sql("DROP TABLE ballast")
            assert (await live(store, STREAM, 3)).version > reached.version
            await store.takes_writes()


def fill_up(database: Database) -> None:
    """Write until there is no room for another page."""
    with database.connect() as connection, suppress(psycopg.errors.DiskFull):
        while True:
            connection.execute("INSERT INTO ballast SELECT n, repeat('x', 1900) FROM generate_series(1, 200) AS n")
