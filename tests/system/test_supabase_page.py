"""docs/nextjs-supabase.md beside its access: what Realtime is sent, and that everything on the page is run."""

import re
from pathlib import Path

from kit.postgres import running
from kit.simulated import BICYCLES
from kit.supabase import PAGE, RECIPE, Project, blocks, configure, counts, give_access, project, succeeds, world
from milepost.settings.load import load
from milepost.stores.open import open_store

SENT = """
SELECT data FROM pg_logical_slot_get_binary_changes(
    'realtime', NULL, NULL, 'proto_version', '1', 'publication_names', 'supabase_realtime'
)
"""
A_PERSON = """
SELECT contact_id, name FROM {schema}.contacts
WHERE platform = 'messenger' AND page_id = %s AND name IS NOT NULL AND contact_id IN (
    SELECT contact_id FROM {schema}.contact_interaction_events
)
ORDER BY 1
"""


async def test_realtime_is_sent_conversations_and_messages_and_nothing_else(tmp_path: Path) -> None:
    """As PostgreSQL sends it to whoever subscribes to the publication (its "Logical Replication Message Formats")."""
    with running(wal_level="logical") as server, project(server) as of:
        async with open_store(of.store_url):
            pass
        give_access(of)
        of.follow("realtime.sql")
        of.database.sql("SELECT pg_create_logical_replication_slot('realtime', 'pgoutput')")
        try:
            async with world() as simulator:
                configure(tmp_path, simulator, of)
                await succeeds(tmp_path, "sync")
            inserts, deletes, names = sent(of)
            assert names == {"conversations", "contact_interaction_events"}
            assert len(inserts) == sum(counts(of)[name] for name in names)
            assert deletes == []

            people = of.database.sql(A_PERSON.format(schema=of.schema), BICYCLES.id)
            await forget(tmp_path, *people[0])
            _, deletes, _ = sent(of)
            assert deletes
            assert not any(people[0][1].encode() in each for each in deletes)  # ids alone

            (statement,) = re.findall(r"`(ALTER PUBLICATION .*?)`", PAGE.read_text())
            of.run(statement)
            await forget(tmp_path, *people[1])
            assert sent(of)[1] == []
        finally:
            of.database.sql("SELECT pg_drop_replication_slot('realtime')")


async def forget(folder: Path, contact_id: str, _: str) -> None:
    await succeeds(folder, "contacts", "forget", "--yes", "messenger", BICYCLES.id, contact_id)


def sent(of: Project) -> tuple[list[bytes], list[bytes], set[str]]:
    """Return what was sent since: the inserts, the deletes, and the tables they are of."""
    messages = [bytes(data) for (data,) in of.database.sql(SENT)]
    names = {each[5:].split(b"\0")[1].decode() for each in messages if each.startswith(b"R")}
    return [each for each in messages if each[:1] == b"I"], [each for each in messages if each[:1] == b"D"], names


def test_everything_on_the_page_is_run() -> None:
    assert len(blocks("sql")) == 3  # members, views and a desk, in test_supabase.py
    assert {f"supabase/{path.name}" for path in RECIPE.iterdir()} == set(
        re.findall(r"\]\((supabase/[a-z.-]+)\)", PAGE.read_text())
    )


def test_the_configurations_are_valid(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a-password")
    for block in blocks("yaml"):
        file = tmp_path / "config.yaml"
        file.write_text(block.replace("/etc/milepost/database-password", str(tmp_path / "password")))
        load(file, {})
