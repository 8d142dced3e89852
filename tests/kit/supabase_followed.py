"""docs/nextjs-supabase.md, followed step by step with the real program: two users, two pages of a simulated world."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from kit.binary import Ended, milepost
from kit.installation import Installation
from kit.simulated import BAKERY, BICYCLES, frozen_world
from kit.supabase import RECIPE, Project
from milepost.simulator.server import SimulatorServer

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
