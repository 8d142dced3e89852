"""What was acknowledged is stored, whenever the process or the server dies."""

import asyncio

import pytest

from contracts.durability_contract import STREAMS, acknowledged, all_is_whole, kills_lose_nothing_acknowledged
from kit.needs import long_only
from kit.postgres import Database, on_both_releases
from stores.processes import committing, lines, running
from stores.store_dump import PostgresDump

COMMITS = 40

pytestmark = on_both_releases


@pytest.mark.parametrize("seeds", [range(1), *long_only(range(1, 6))], ids=str)
async def test_a_process_killed_in_the_middle_of_group_commits_loses_nothing_acknowledged(
    database: Database, seeds: range
) -> None:
    await kills_lose_nothing_acknowledged(PostgresDump(database), seeds)


@pytest.mark.parametrize("way", ["killed", "fast", *long_only("immediate", "sessions ended")])
async def test_a_server_killed_in_the_middle_of_group_commits_loses_nothing_acknowledged(
    database: Database, way: str
) -> None:
    """The process continues with each commit once its outcome is settled."""
    server = database.server
    with running(committing(database.url, streams=STREAMS, commits=COMMITS)) as process:
        printed = lines(process, 50)
        if way == "killed":
            server.kill()
        elif way == "sessions ended":
            database.terminate_backends()
        else:
            server.stop("fast" if way == "fast" else "immediate")
        assert process.poll() is None, "it happened too late to prove anything"
        if not server.is_running:
            server.start()
        printed += (await asyncio.to_thread(process.communicate))[0].splitlines()

    assert printed[-1] == "done", printed[-5:]
    acks = acknowledged(printed)
    assert len(acks) == STREAMS
    assert sum(line.startswith("ack ") for line in printed) == STREAMS * COMMITS
    await all_is_whole(PostgresDump(database), acks)
