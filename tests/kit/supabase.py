"""A database as Supabase hands it over, and a reader of it who comes as its API (PostgREST) does.

PostgREST itself is in no package registry. What it does to the database is done here: it connects as `authenticator`,
and begins each request with the role and the claims of the caller's token, which `auth.uid()` reads.

And docs/nextjs-supabase.md, followed step by step with the real program: two users, two pages of a simulated world.
"""

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct

from kit.binary import Ended, milepost
from kit.installation import Installation
from kit.postgres import ROLES_PASSWORD, Database, Server, fresh_database
from kit.simulated import BAKERY, BICYCLES, frozen_world
from milepost.simulator.server import SimulatorServer
from milepost.stores.url import StoreUrl

RECIPE = Path(__file__).parents[2] / "docs" / "supabase"
ApiRole = Literal["anon", "authenticated", "service_role"]
API_ROLES: tuple[ApiRole, ...] = ("anon", "authenticated", "service_role")
MAKE_ROLE = "DO $$ BEGIN CREATE ROLE {0}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
# Of the whole server, as roles are. Supabase's `postgres` is no superuser.
ROLES = f"""
ALTER ROLE service_role BYPASSRLS;
ALTER ROLE authenticator LOGIN NOINHERIT PASSWORD '{ROLES_PASSWORD}';
GRANT anon, authenticated, service_role TO authenticator;
"""
# Of one database, whose owner is {owner}.
HANDED_OVER = """
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
GRANT ALL ON SCHEMA public TO {owner};
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub')::uuid
$$;
GRANT USAGE ON SCHEMA auth TO {owner}, anon, authenticated, service_role;
GRANT ALL ON auth.users TO {owner};
CREATE PUBLICATION supabase_realtime;
ALTER PUBLICATION supabase_realtime OWNER TO {owner};
"""
Rows = list[tuple[Any, ...]]


class Project(Struct, frozen=True):
    """A project of Supabase. The role and the schema of Milepost have names of their own, as roles are the server's."""

    database: Database
    owner: str
    role: str
    schema: str

    @property
    def store_url(self) -> StoreUrl:
        """The store, as Milepost's own role opens it."""
        url = f"postgresql://{self.role}@127.0.0.1:{self.database.server.port}/{self.database.name}"
        return StoreUrl(url, ROLES_PASSWORD, schema=self.schema)

    def run(self, statements: str, *, user: str = "") -> Rows:
        """Run SQL as the owner, or somebody else, who logs in; return the rows of the last statement."""
        with self._connect(user or self.owner) as connection:
            cursor = connection.execute(statements.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def follow(self, file: str) -> Rows:
        """Run a file of the recipe as the owner."""
        return self.run(self.named((RECIPE / file).read_text()))

    def named(self, statements: str) -> str:
        """Return SQL of the recipe with the names of this project: its schema, and its role for readers."""
        return re.sub(r"\bmilepost\b", self.schema, statements).replace("crm_reader", f"reader_{self.role}")

    @contextmanager
    def session(self, role: ApiRole, user_id: str | None = None) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in a transaction as the API begins it on behalf of somebody."""
        claims = msgspec.json.encode({"role": role, "sub": user_id}).decode()
        with self._connect("authenticator") as connection, connection.transaction():
            connection.execute(
                "SELECT set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", (role, claims)
            )
            yield connection

    def request(self, role: ApiRole, query: str, *, user_id: str | None = None) -> Rows:
        """Run a query as the API does on behalf of somebody."""
        with self.session(role, user_id) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def _connect(self, user: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.database.server.port,
            dbname=self.database.name,
            user=user,
            password=ROLES_PASSWORD,
            autocommit=True,
            connect_timeout=60,
        )


@contextmanager
def project(server: Server, *, schema: str = "") -> Iterator[Project]:
    """Hand over an empty database, whose owner runs `role.sql`: the schema has the role's name.

    With another schema Milepost is the owner itself, as people often have it, whose new objects are open to everybody.
    """
    for name in (*API_ROLES, "authenticator"):  # these may stay behind
        server.sql(MAKE_ROLE.format(name))
    server.sql(ROLES)
    with ExitStack() as roles:
        token = secrets.token_hex(6)
        owner, role = f"owner_{token}", f"mp_{token}"
        server.sql(f"CREATE ROLE {owner} LOGIN CREATEROLE BYPASSRLS PASSWORD '{ROLES_PASSWORD}'")
        roles.callback(server.sql, f"DROP ROLE {owner}")
        roles.callback(server.sql, f"DROP ROLE IF EXISTS {role}")
        with fresh_database(server, template=None) as database:
            server.sql(f"ALTER DATABASE {database.name} OWNER TO {owner}")
            database.sql(HANDED_OVER.format(owner=owner))
            if schema:
                yield Project(database, owner, owner, schema)
                return
            made = Project(database, owner, role, role)
            script = re.sub(r"\bmilepost\b", role, (RECIPE / "role.sql").read_text())
            made.run(script.replace("choose-a-password", ROLES_PASSWORD))
            yield made


PAGE = RECIPE.parent / "nextjs-supabase.md"
ADA, EVE = str(UUID(int=1)), str(UUID(int=2))  # who is a member of the bakery's page, and who of none
SHOWN = ("pages", "contacts", "conversations", "contact_interaction_events")
CONVERSATIONS = 12


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return found


def block(words: str) -> str:
    """Return the block of SQL that has these words, about the bakery."""
    (found,) = (each for each in blocks("sql") if words in each)
    return found.replace("1234567890", BAKERY.id)


@asynccontextmanager
async def world() -> AsyncIterator[SimulatorServer]:
    """Simulate a page of each tenant."""
    async with frozen_world(CONVERSATIONS, pages=(BAKERY, BICYCLES)) as simulator:
        yield simulator


def configure(folder: Path, simulator: SimulatorServer, of: Project, *, views: str = "") -> None:
    """Write a config.yaml for the project."""
    store = {"url": of.store_url.url, "password": of.store_url.password, "schema": of.schema, "views": views}
    Installation(folder).configure_for(simulator, store=store)


async def succeeds(folder: Path, *arguments: str) -> Ended:
    """Run the program to its end."""
    ended = await milepost(folder, *arguments)
    assert ended.code in (0, 1), ended  # 1: the world has texts that become dead letters
    return ended


async def followed(folder: Path, simulator: SimulatorServer, of: Project) -> None:
    """Follow the page: a first sync, then the access."""
    configure(folder, simulator, of)
    await succeeds(folder, "sync")
    give_access(of)


def give_access(of: Project) -> None:
    """Let two users in, of whom one is a member of a page."""
    of.follow("access.sql")
    of.run(f"INSERT INTO auth.users VALUES ('{ADA}', 'ada@bakery.example'), ('{EVE}', 'eve@example.org')")
    of.run(block("page_members"))


def counts(of: Project) -> dict[str, int]:
    """Return how many rows the tables have that are shown."""
    return {table: of.database.sql(f"SELECT count(*) FROM {of.schema}.{table}")[0][0] for table in SHOWN}
