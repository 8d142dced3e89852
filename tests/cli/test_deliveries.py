"""`milepost deliveries`, with the real program: what it lists, does and refuses."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from kit.binary import milepost
from kit.builders import STREAM
from kit.receiver import NEW
from milepost.cli import deliveries as module
from milepost.cli.deliveries import changes as command
from milepost.core.changes import Answer, ChangesPage, Delivery, DeliveryResult, delivered, failed
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import HistoryRewritten
from milepost.core.model import Changes
from milepost.stores.open import forget, open_store
from milepost.stores.sqlite.reader import SqliteReader
from milepost.stores.sqlite.store import open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import ROWS, commit_after, contact_row, write
from stores.sqlite_files import DROP_TRIGGERS, execute

CONFIG = f"""store: {{url: 'sqlite:///milepost.db'}}
deliveries:
- {{name: crm, url: 'https://crm.example/hooks', secret: {NEW}}}
- {{name: erp, url: 'https://erp.example/hooks', secret: {NEW}}}
"""


async def fill(path: Path) -> None:
    """Store a row, a destination that fails and one that has left the configuration."""
    now = datetime.now(UTC)
    async with open_sqlite(path, synchronous="normal") as store:
        rows = Changes(contacts=(contact_row(),))
        await store.commit(commit_after(Checkpoint(STREAM), changes=rows))
        for name in ("crm", "old"):
            await store.deliveries.begin(name, 0)
        old, crm = Delivery("old", 0), Delivery("crm", 0)
        await store.deliveries.record(old, delivered(old, 1, None, now), "")
        answer = Answer(DeliveryResult.REFUSED, "HTTP 500", 600.0)
        since = now - timedelta(minutes=7)
        await store.deliveries.record(
            crm, replace(failed(crm, answer, now, 0.5), behind_since=since, failing_since=since), ""
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    asyncio.run(fill(tmp_path / "milepost.db"))
    return tmp_path


async def standing(folder: Path) -> dict[str, Delivery]:
    async with open_sqlite(folder / "milepost.db", synchronous="normal") as store:
        return dict(await store.deliveries.all())


async def test_the_list_says_what_each_is_doing_and_why(folder: Path) -> None:
    ended = await milepost(folder, "deliveries", "list")
    assert ended.code == 0, ended
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["destination", "state", "behind", "last", "delivered", "place"]
    assert lines[1].split()[:4] == ["crm", "failing", "7", "minutes"]
    assert "cause: HTTP 500; 1 attempt, the first 7 minutes ago" in ended.stdout
    assert "old" in ended.stdout
    assert "not configured: nothing is delivered" in ended.stdout
    assert "erp begins when the daemon runs" in ended.stdout


async def test_the_list_says_that_what_is_never_taken_holds_up_the_rest(folder: Path) -> None:
    assert "skips what is never accepted" not in (await milepost(folder, "deliveries", "list")).stdout
    async with open_sqlite(folder / "milepost.db", synchronous="normal") as store:
        crm = (await store.deliveries.all())["crm"]
        await store.deliveries.record(crm, replace(crm, failures=3), "")
    shown = " ".join((await milepost(folder, "deliveries", "list")).stdout.split())
    assert "`milepost deliveries replay --from SEQ crm` skips what is never accepted" in shown


async def test_a_destination_that_is_no_longer_configured_has_no_next_attempt(folder: Path) -> None:
    assert "next attempt" in (await milepost(folder, "deliveries", "list")).stdout
    (folder / "config.yaml").unlink()
    (folder / "milepost.db").rename(folder / "simulated.db")
    shown = (await milepost(folder, "deliveries", "list")).stdout
    assert shown.count("not configured: nothing is delivered") == 2
    assert "next attempt" not in shown


async def test_the_list_for_programs_is_an_object_for_each(folder: Path) -> None:
    ended = await milepost(folder, "deliveries", "list", "--json")
    crm, old = map(json.loads, ended.stdout.splitlines())
    assert (crm["destination"], crm["state"], crm["problem"], crm["is_configured"]) == (
        "crm",
        "failing",
        "HTTP 500",
        True,
    )
    assert (old["destination"], old["state"], old["place"], old["is_configured"]) == ("old", "up_to_date", 1, False)
    assert NEW not in ended.stdout
    assert "crm.example" not in ended.stdout


async def test_a_paused_destination_is_resumed_and_tried_at_once(folder: Path) -> None:
    assert (await milepost(folder, "deliveries", "pause", "crm", "old")).stdout == "crm: paused\nold: paused\n"
    assert (await standing(folder))["crm"].paused_at is not None
    assert "resume crm` resumes it" in (await milepost(folder, "deliveries", "list")).stdout
    resumed = await milepost(folder, "deliveries", "resume", "crm")
    assert resumed.code == 0, resumed
    crm = (await standing(folder))["crm"]
    assert (crm.paused_at, crm.retry_at) == (None, None)


@pytest.mark.parametrize(("options", "place"), [((), 0), (("--from", "start"), 0), (("--from", "1"), 1)])
async def test_a_replay_moves_the_place(folder: Path, options: tuple[str, ...], place: int) -> None:
    before = (await standing(folder))["old"]
    ended = await milepost(folder, "deliveries", "replay", *options, "old")
    assert ended.code == 0, ended
    assert (await standing(folder))["old"] == Delivery("old", place, delivered_at=before.delivered_at, replays=1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pause", "cmr"), 2, "there is no destination 'cmr'; did you mean crm?"),
        (("pause", "crm", "nobody"), 2, "there is no destination 'nobody'; known are crm, erp, old"),
        (("resume", "erp"), 1, "erp has not begun"),
        (("replay", "--from", "yesterday", "crm"), 2, "'yesterday' is neither a seq of the change feed nor start"),
        (("replay", "--from", "99", "crm"), 2, "the latest change has the seq 1"),
        (("replay", "--from", "9" * 19, "crm"), 2, "the latest change has the seq 1"),
        (("replay", "--from", "9" * 5_000, "crm"), 2, "is neither a seq of the change feed nor start"),
        (("pause",), 2, "Missing argument"),
    ],
)
async def test_what_cannot_be_done_is_explained_and_changes_nothing(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    before = await standing(folder)
    ended = await milepost(folder, "deliveries", *arguments)
    assert ended.code == code, ended
    assert words in " ".join(ended.stderr.split())
    assert await standing(folder) == before


async def test_nothing_is_configured_in_most_installations(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("store: {url: 'sqlite:///milepost.db'}\n")
    async with open_sqlite(tmp_path / "milepost.db", synchronous="normal"):
        pass
    assert "No destination is configured" in (await milepost(tmp_path, "deliveries", "list")).stdout


# --- milepost changes -------------------------------------------------------------------------------------------------


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
    later = changes("--json", "--after", str(shown[1]["seq"]), "--mark", shown[1]["mark"]).stdout.splitlines()
    assert [json.loads(line) for line in later] == shown[2:]


async def lose_a_commit(store_url: StoreUrl) -> None:
    """Lose the last commit, as a restore does, and commit something else."""
    assert store_url.file is not None
    execute(store_url.file, f"{DROP_TRIGGERS} DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
    async with open_store(store_url) as store:
        await write(store, Changes(contacts=(contact_row(name="Countess"),)))


def test_who_continues_after_changes_were_lost_is_told_to_begin_again(store_url: StoreUrl) -> None:
    last = json.loads(changes("--json").stdout.splitlines()[-1])
    asyncio.run(lose_a_commit(store_url))

    result = changes("--after", str(last["seq"]), "--mark", last["mark"])

    assert isinstance(result.exception, HistoryRewritten)
    assert (result.stdout, result.exception.hint) == ("", "begin again at 0, with an empty mirror")


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


def test_following_ends_where_changes_are_lost(store_url: StoreUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose_instead(_: asyncio.Event) -> None:
        await lose_a_commit(store_url)

    monkeypatch.setattr(module, "wait_to_poll", lose_instead)
    monkeypatch.setattr(module, "stopped_by_signals", lambda _: asyncio.Event())
    result = changes("-f")
    assert isinstance(result.exception, HistoryRewritten)
    assert len(result.stdout.splitlines()) == 4
