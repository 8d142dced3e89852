"""Who gets access to the database's files, and over HTTP, with the real program."""

import asyncio
import os
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from kit.binary import milepost, started, until
from kit.installation import Installation
from kit.simulated import BICYCLES, frozen_world
from milepost.service.http import MAX_CONNECTIONS
from milepost.service.limits import MAX_TRIES

TOKEN = "a-token-of-some-length"
GUESSES = 300
AT_ONCE = 50


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the permissions of the files that the program has written."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "config.yaml"]
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files}


async def test_only_the_owner_can_open_files_that_hold_peoples_messages(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            beside = {f"milepost.db{suffix}": "0o600" for suffix in ("", "-wal", "-shm", ".lock")}
            assert modes(installation.folder) == beside
            assert (await milepost(installation.folder, "backup", "backup.db")).code == 0
            assert (await milepost(installation.folder, "journal", "export", "export.jsonl")).code == 0
        assert (await milepost(installation.folder, "journal", "rebuild")).code == 0
        assert (await milepost(installation.folder, "store", "copy", "--to", "sqlite:///copy.db")).code == 0
    made = ("milepost.db", "backup.db", "export.jsonl", "copy.db")
    assert {name: modes(installation.folder)[name] for name in made} == dict.fromkeys(made, "0o600")


async def test_an_existing_database_is_closed_to_other_users(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            for name in modes(installation.folder):
                (installation.folder / name).chmod(0o644)
            await daemon.kill()  # which leaves -wal and -shm
        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            assert "database closed to other users" in daemon.said
            assert {mode for name, mode in modes(installation.folder).items() if ".lock" not in name} == {"0o600"}


async def test_hundreds_of_silent_connections_keep_nobody_out(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator, AsyncExitStack() as strangers:
        installation.configure_for(simulator, http={"token": TOKEN})
        async with started(installation.folder, "run") as daemon:
            url = await daemon.url()
            port = int(url.rpartition(":")[2])
            opened = 0
            # On a busy machine the first are cut off as too slow before the last are there; others take their place.
            while opened < MAX_CONNECTIONS + AT_ONCE or "too many connections" not in daemon.said:
                opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE))
                for _, writer in await asyncio.gather(*opening):
                    strangers.callback(writer.close)
                opened += AT_ONCE
            async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
                for path in ("/healthz", "/readyz", "/metrics", "/api/streams"):
                    async with session.get(path) as response:
                        assert response.status == 200, path
            await until(lambda: "too many connections" in daemon.said)


async def test_token_guesses_are_limited_counted_and_logged_and_lock_nobody_out(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http={"token": TOKEN})
        async with started(installation.folder, "run") as daemon:
            url, statuses = await daemon.url(), Counter[int]()
            async with aiohttp.ClientSession(url) as session:
                for number in range(GUESSES):
                    headers = {"Authorization": f"Bearer guess-{number}"}
                    async with session.get("/api/streams", headers=headers) as response:
                        statuses[response.status] += 1
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with session.get("/metrics", headers=headers) as response:
                    assert response.status == 200
                    assert f"milepost_wrong_tokens_total {GUESSES}.0\n" in await response.text()
                async with session.post("/login", json={"token": TOKEN}) as response:
                    assert response.status == 204
            await until(lambda: "wrong token" in daemon.said)
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert set(statuses) == {401, 429}
    assert statuses[401] >= MAX_TRIES
    assert statuses[429] > GUESSES / 2
    lines = [line for line in ended.stderr.splitlines() if "wrong token" in line]
    assert "client=127.0.0.1 tries=1 " in lines[0]
    assert len(lines) <= 4, lines
    assert "guess-" not in ended.stderr
