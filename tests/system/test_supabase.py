"""The SQL of docs/nextjs-supabase.md, on a database as Supabase hands it over: who may read what, now and later."""

import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from contracts.store_contract import commit
from kit.binary import milepost, started, until
from kit.installation import Installation
from kit.needs import long_only
from kit.postgres import ROLES_PASSWORD, Server, on_both_releases
from kit.simulated import BAKERY, BICYCLES
from kit.supabase import (
    ADA,
    API_ROLES,
    CONVERSATIONS,
    EVE,
    PAGE,
    SHOWN,
    ApiRole,
    Project,
    Rows,
    block,
    configure,
    counts,
    followed,
    give_access,
    project,
    succeeds,
    world,
)
from milepost.core.model import Changes
from milepost.stores.open import open_store
from milepost.stores.postgresql.rights import kept_private
from stores.histories import contact_row

pytestmark = on_both_releases

OBJECTS = """
SELECT oid::regclass::text, relkind FROM pg_class
WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'v', 'S') AND relowner = to_regrole(%s)
"""
CALLABLE = """
SELECT proname FROM pg_proc
WHERE
    pronamespace = to_regnamespace(%s) AND proowner = to_regrole(%s) AND has_function_privilege(oid, 'EXECUTE')
"""
IN_A_TABLE = ("SELECT FROM {0}", "DELETE FROM {0}", "TRUNCATE {0}", "INSERT INTO {0} DEFAULT VALUES")
IN_A_SEQUENCE = ("SELECT last_value FROM {0}", "SELECT setval('{0}', 1)")


@pytest.fixture(
    params=["", *long_only("public")],
    ids=["a role and schema of its own", "the owner, in public"],
)
def handed_over(request: pytest.FixtureRequest, postgres: Server) -> Iterator[Project]:
    with project(postgres, schema=request.param) as handed_over:
        yield handed_over


def pages_of(of: Project, table: str, role: ApiRole, user_id: str | None = None) -> set[str]:
    """Return the pages whose rows somebody sees in a table."""
    return {page for (page,) in of.request(role, f"SELECT page_id FROM {of.schema}.{table}", user_id=user_id)}


def demand_apart(of: Project) -> None:
    """Check that everybody sees what is theirs, and that nobody may do anything else."""
    for table in SHOWN:
        assert pages_of(of, table, "authenticated", ADA) == {BAKERY.id}
        assert pages_of(of, table, "authenticated", EVE) == set()
        assert pages_of(of, table, "authenticated") == set()  # a token without a user
        assert pages_of(of, table, "service_role") == {BAKERY.id, BICYCLES.id}
        with pytest.raises(InsufficientPrivilege):
            pages_of(of, table, "anon")
    assert of.request("authenticated", "SELECT * FROM crm.page_members", user_id=ADA) == [(UUID(ADA), BAKERY.id)]
    assert of.request("authenticated", "SELECT * FROM crm.page_members", user_id=EVE) == []
    for role in ("anon", "authenticated"):
        with pytest.raises(InsufficientPrivilege):
            of.request(role, f"INSERT INTO crm.page_members VALUES ('{EVE}', '{BAKERY.id}')", user_id=EVE)
    assert everything_let_in(of, "anon", None) == []
    assert everything_let_in(of, "authenticated", ADA) == [f"SELECT {table}" for table in sorted(SHOWN)]
    assert of.follow("check.sql") == []


def everything_let_in(of: Project, role: ApiRole, user_id: str | None) -> list[str]:
    """Try everything on every object of Milepost; return what was not refused."""
    let_in = []
    with of.session(role, user_id) as connection:
        for name, kind in of.database.sql(OBJECTS, of.schema, of.role):
            for query in IN_A_SEQUENCE if kind == "S" else IN_A_TABLE:
                with suppress(InsufficientPrivilege), connection.transaction():  # a savepoint
                    connection.execute(query.format(name).encode())
                    let_in.append(f"{query.split()[0]} {name.rpartition('.')[2]}")
        for (name,) in connection.execute(CALLABLE, (of.schema, of.role)).fetchall():
            let_in.append(f"EXECUTE {name}")
    return sorted(let_in)


async def test_nobody_sees_anything_before_access_is_given(handed_over: Project, tmp_path: Path) -> None:
    async with world() as simulator:
        configure(tmp_path, simulator, handed_over)
        await succeeds(tmp_path, "sync")

    for role in ("anon", "authenticated", "service_role"):
        assert everything_let_in(handed_over, role, None) == []


async def test_everybody_sees_what_is_theirs_and_milepost_goes_on(handed_over: Project, tmp_path: Path) -> None:
    async with world() as simulator:
        await followed(tmp_path, simulator, handed_over)
        demand_apart(handed_over)
        before = counts(handed_over)
        assert before["contacts"] > CONVERSATIONS

        await succeeds(tmp_path, "sync", "--full")
        await succeeds(tmp_path, "journal", "verify")
        await succeeds(tmp_path, "journal", "rebuild")

    assert counts(handed_over) == before
    demand_apart(handed_over)


async def test_a_later_version_opens_nothing(handed_over: Project, tmp_path: Path) -> None:
    """Not even where somebody granted the API everything that will ever be made, as guides for other schemas do."""
    async with world() as simulator:
        await followed(tmp_path, simulator, handed_over)
    of = handed_over
    for kind in ("TABLES", "SEQUENCES", "ROUTINES"):
        of.database.sql(f"ALTER DEFAULT PRIVILEGES FOR ROLE {of.role} GRANT ALL ON {kind} TO anon, authenticated")

    connection = await psycopg.AsyncConnection.connect(of.store_url.url, password=of.store_url.password)
    async with connection, kept_private(connection, of.schema):
        await connection.execute(f"CREATE TABLE {of.schema}.later (id bigserial, a text)".encode())
        await connection.execute(f"CREATE FUNCTION {of.schema}.later() RETURNS int LANGUAGE sql RETURN 1".encode())

    demand_apart(of)


async def test_a_grant_by_mistake_shows_and_changes_nothing(handed_over: Project, tmp_path: Path) -> None:
    """The tables are covered by row-level security, those that nobody is granted as well."""
    async with world() as simulator:
        await followed(tmp_path, simulator, handed_over)
    of = handed_over
    tables = [name for name, kind in of.database.sql(OBJECTS, of.schema, of.role) if kind == "r"]
    of.database.sql(f"GRANT USAGE ON SCHEMA {of.schema} TO anon")
    of.database.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(tables)} TO anon, authenticated")
    before = everything(of, tables)

    for role, user_id in (("anon", None), ("authenticated", EVE)):
        for table in tables:
            assert of.request(role, f"SELECT FROM {table}", user_id=user_id) == []  # type: ignore[arg-type]
            of.request(role, f"DELETE FROM {table}", user_id=user_id)  # type: ignore[arg-type]
    with pytest.raises(InsufficientPrivilege, match="violates row-level security policy"):
        of.request("anon", f"INSERT INTO {of.schema}.dead_letter_payloads VALUES ('a', 'b')")

    assert everything(of, tables) == before
    assert len(of.follow("check.sql")) == len(tables) * 8 - len(SHOWN)  # which lists every one of these grants
    of.follow("access.sql")  # and this takes back those on what is shown
    assert {what for who, may, what in of.follow("check.sql") if what.rpartition(".")[2] in SHOWN} == set()


def everything(of: Project, tables: list[str]) -> list[Rows]:
    return [sorted(of.database.sql(f"SELECT t::text FROM {table} AS t")) for table in tables]


async def copy(folder: Path, into: Project) -> None:
    """Copy a synced SQLite database."""
    another = Installation(folder / "sqlite")
    another.folder.mkdir()
    async with world() as simulator:
        another.configure_for(simulator)
        await succeeds(another.folder, "sync")
    to, password = into.store_url.url, {"PGPASSWORD": into.store_url.password}
    command = ("store", "copy", "--to", to, "--schema", into.schema, "--replace-nul")
    copied = await milepost(another.folder, *command, environment=password)
    assert copied.code == 0, copied


async def test_a_copy_opens_nothing(handed_over: Project, tmp_path: Path) -> None:
    await copy(tmp_path, handed_over)

    for role in ("anon", "authenticated", "service_role"):
        assert everything_let_in(handed_over, role, None) == []


async def test_a_copy_into_tables_that_are_set_up_leaves_everybody_what_is_theirs(
    handed_over: Project, tmp_path: Path
) -> None:
    async with open_store(handed_over.store_url):
        pass
    give_access(handed_over)

    await copy(tmp_path, handed_over)

    demand_apart(handed_over)


async def test_what_was_opened_past_the_policies_is_listed(handed_over: Project) -> None:
    of = handed_over
    async with open_store(of.store_url):
        pass
    give_access(of)
    assert of.follow("check.sql") == []

    of.database.sql(f"""
        GRANT ALL ON SCHEMA crm TO {of.role};
        SET ROLE {of.role};
        CREATE VIEW crm.all_contacts AS SELECT * FROM {of.schema}.contacts;
        GRANT SELECT ON crm.all_contacts TO authenticated;
        CREATE POLICY everybody ON {of.schema}.pages USING (true);
        ALTER TABLE {of.schema}.journal DISABLE ROW LEVEL SECURITY;
        GRANT SELECT (hash) ON {of.schema}.journal TO anon;
        GRANT EXECUTE ON FUNCTION {of.schema}.instant_text TO anon;
        CREATE SEQUENCE {of.schema}.numbers;
        REVOKE ALL ON {of.schema}.numbers FROM anon, authenticated;
        GRANT UPDATE ON {of.schema}.numbers TO anon;
    """)

    found = {(who, may, what.rpartition(".")[2]) for who, may, what in of.follow("check.sql")}
    assert found == {
        ("anon", "EXECUTE", "instant_text(timestamp with time zone)"),
        ("anon", "SELECT", "journal"),
        ("anon", "UPDATE", "numbers"),
        ("anon", "see rows by the policy everybody of", "pages"),
        ("authenticated", "see every row through", "all_contacts"),
        ("authenticated", "see rows by the policy everybody of", "pages"),
        ("whoever is granted it", "see every row of", "journal"),
    }


async def test_a_worker_works_and_what_it_creates_is_covered(postgres: Server, tmp_path: Path) -> None:
    """The tables of the queue are made by the first worker, after access was given."""
    with project(postgres) as of:
        async with open_store(of.store_url):
            pass
        give_access(of)
        async with world() as simulator:
            configure(tmp_path, simulator, of)
            async with started(tmp_path, "run") as worker:
                complete = f"SELECT count(*) FROM {of.schema}.checkpoints WHERE last_success_at IS NOT NULL"
                await until(lambda: of.database.sql(complete) == [(3,)])
                worker.signal(signal.SIGTERM)
                assert (await worker.ended()).code == 0
        assert of.database.sql(f"SELECT to_regclass('{of.schema}.procrastinate_jobs') IS NOT NULL") == [(True,)]
        demand_apart(of)


async def test_views_in_public_show_no_more_than_the_tables(postgres: Server, tmp_path: Path) -> None:
    with project(postgres) as of:
        await demand_views_apart(of, tmp_path)


async def demand_views_apart(of: Project, tmp_path: Path) -> None:
    async with world() as simulator:
        await followed(tmp_path, simulator, of)
        give = block("GRANT CREATE ON SCHEMA public").replace("milepost;", f"{of.role};")
        first, _, then = give.partition("-- Restart Milepost.\n")
        of.run(first)
        configure(tmp_path, simulator, of, views="public")
        await succeeds(tmp_path, "sync")

        assert shown_in_public(of) == {}
        of.run(then)
        assert shown_in_public(of) == {"authenticated": {BAKERY.id}}

        await succeeds(tmp_path, "sync", "--full")
        assert shown_in_public(of) == {"authenticated": {BAKERY.id}}
    assert of.follow("check.sql") == []


def shown_in_public(of: Project) -> dict[str, set[str]]:
    """Return the pages whose conversations each role sees there, of those roles that may look."""
    shown: dict[str, set[str]] = {}
    for role in API_ROLES:
        with suppress(InsufficientPrivilege):
            rows = of.request(role, "SELECT page_id FROM public.conversations", user_id=ADA)
            shown[role] = {page for (page,) in rows}
    return shown


async def test_a_role_that_has_read_so_far_needs_a_policy(postgres: Server) -> None:
    with project(postgres) as of:
        async with open_store(of.store_url) as store:
            await commit(store, changes=Changes(contacts=(contact_row(),)))
        crm = f"crm_{of.role}"
        grants = f"GRANT USAGE ON SCHEMA {of.schema} TO {crm}; GRANT SELECT ON {of.schema}.contacts TO {crm}"
        of.database.sql(f"CREATE ROLE {crm} LOGIN PASSWORD '{ROLES_PASSWORD}'; {grants}")
        try:
            read = f"SELECT name FROM {of.schema}.contacts"
            assert of.run(read, user=crm) == [("Ada",)]
            give_access(of)
            assert of.run(read, user=crm) == []
            (policy,) = re.findall(r"`(CREATE POLICY .*?)`", PAGE.read_text())
            of.run(policy.replace("milepost.", f"{of.schema}.").replace("TO crm ", f"TO {crm} "))
            assert of.run(read, user=crm) == [("Ada",)]
            assert of.follow("check.sql") == []
        finally:
            of.database.sql(f"DROP OWNED BY {crm}; DROP ROLE {crm}")


async def test_without_supabase_each_desk_reads_its_pages(handed_over: Project, tmp_path: Path) -> None:
    of, desk = handed_over, f"desk_{handed_over.role}"
    async with world() as simulator:
        configure(tmp_path, simulator, of)
        await succeeds(tmp_path, "sync")
        of.follow("plain.sql")
        admit = of.named(block("bakery_desk")).replace("bakery_desk", desk)
        of.run(admit.replace("choose-a-password", ROLES_PASSWORD))
        (publish,) = re.findall(r"`(CREATE PUBLICATION .*?)`", PAGE.read_text())
        of.run(publish.replace("milepost.", f"{of.schema}."))
        try:
            for table in SHOWN:
                assert set(of.run(f"SELECT page_id FROM {of.schema}.{table}", user=desk)) == {(BAKERY.id,)}
            assert of.run("SELECT * FROM crm.page_readers", user=desk) == [(desk, BAKERY.id)]
            for query in (
                f"SELECT FROM {of.schema}.journal",
                f"DELETE FROM {of.schema}.contacts",
                f"INSERT INTO crm.page_readers VALUES ('{desk}', '{BICYCLES.id}')",
            ):
                with pytest.raises(InsufficientPrivilege):
                    of.run(query, user=desk)
            await succeeds(tmp_path, "sync", "--full")
        finally:
            for role in (desk, of.named("crm_reader")):
                of.database.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
