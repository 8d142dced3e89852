"""`milepost changes`: the rows that changed, in words or as JSON Lines, and those that follow."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kit.binary import milepost
from kit.builders import STREAM
from milepost.cli import deliveries as module
from milepost.cli.deliveries import changes as command
from milepost.core.changes import ChangesPage
from milepost.core.model import Changes
from milepost.stores.open import forget, open_store
from milepost.stores.sqlite.reader import SqliteReader
from milepost.stores.url import StoreUrl
from stores.histories import ROWS, contact_row, write


@pytest.fixture
async def store_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreUrl:
    """Return a database with a conversation, its contact and two messages."""
    monkeypatch.chdir(tmp_path)
    store_url = StoreUrl(f"sqlite:///{tmp_path / 'simulated.db'}")
    async with open_store(store_url) as store:
        await write(store, ROWS)
    return store_url


def changes(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.usefixtures("store_url")
def test_everything_comes_as_json_lines() -> None:
    shown = [json.loads(line) for line in changes("--json").stdout.splitlines()]

    assert [each["kind"] for each in shown] == ["contact", "conversation", "message", "message"]
    assert shown[0]["row"]["name"] == "Ada"
    later = changes("--json", "--after", str(shown[1]["seq"])).stdout.splitlines()
    assert [json.loads(line) for line in later] == shown[2:]


async def test_json_is_utf_8_whatever_the_terminal_writes(store_url: StoreUrl, tmp_path: Path) -> None:
    async with open_store(store_url) as store:
        await write(store, Changes(contacts=(contact_row(name="Zoë 🍰"),)))
    shown = await milepost(tmp_path, "changes", "--json", environment={"PYTHONIOENCODING": "latin-1"})
    assert "Zoë 🍰" in [json.loads(line)["row"].get("name") for line in shown.stdout.splitlines()]


@pytest.mark.usefixtures("store_url")
def test_in_words_nothing_is_said_that_a_person_wrote() -> None:
    first, *others = changes("--kind", "contact", "--kind", "message").stdout.splitlines()

    assert first == f"#1  upsert  contact       platform=messenger  page_id={STREAM.page_id}  contact_id=c_1  version=1"
    assert [line.split()[3] for line in others] == ["event_id=m_1", "event_id=m_2"]
    assert all(line.endswith("history") for line in others)


@pytest.mark.usefixtures("store_url")
@pytest.mark.parametrize("stream", ["messenger:7", "bakery", "messenger:", ""])
def test_a_stream_that_does_not_exist_is_refused(stream: str) -> None:
    result = changes("--stream", stream)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"there is no stream {stream}" in result.stderr


@pytest.mark.usefixtures("store_url")
def test_a_place_that_was_never_given_out_is_said() -> None:
    assert changes("--after", "4").stderr == ""
    result = changes("--after", "5")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "The latest change has the seq 4: is 5 a place of another database?\n"


@pytest.mark.usefixtures("store_url")
@pytest.mark.parametrize(("arguments", "code"), [([], 1), (["-f"], 0)])
def test_only_who_follows_may_be_stopped(arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script must be able to tell a part of the rows from all of them."""
    read_changes, stopped = SqliteReader.read_changes, asyncio.Event()

    async def stopped_meanwhile(self: SqliteReader, after: int, _: int, *more: Any) -> ChangesPage:  # noqa: ANN401
        stopped.set()
        return await read_changes(self, after, 1, *more)

    monkeypatch.setattr(SqliteReader, "read_changes", stopped_meanwhile)
    monkeypatch.setattr(module, "stopped_by_signals", lambda _: stopped)
    result = changes(*arguments)
    assert (result.exit_code, result.stdout.count("\n")) == (code, 1)


async def test_new_changes_are_shown_as_they_come(store_url: StoreUrl, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "milepost", "changes", "-f", "--json", "--kind", "contact"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["row"]["name"] == "Ada"
        async with open_store(store_url) as store:
            await write(store, Changes(contacts=(contact_row(name="Countess"),)))
        assert json.loads(process.stdout.readline())["row"]["name"] == "Countess"
        await forget(store_url, STREAM, "c_1")
        gone = json.loads(process.stdout.readline())
        assert (gone["op"], gone["row"]) == ("delete", None)
        process.terminate()
        assert process.wait(timeout=60) == 0
