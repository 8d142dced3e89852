"""`milepost deliveries`, with the real program: what it lists, does and refuses."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.binary import milepost
from kit.builders import STREAM
from kit.receiver import NEW
from milepost.core.changes import Answer, Delivery, DeliveryResult, delivered, failed
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Changes
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, contact_row

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
    assert "skips what is never taken" not in (await milepost(folder, "deliveries", "list")).stdout
    async with open_sqlite(folder / "milepost.db", synchronous="normal") as store:
        crm = (await store.deliveries.all())["crm"]
        await store.deliveries.record(crm, replace(crm, failures=3), "")
    shown = " ".join((await milepost(folder, "deliveries", "list")).stdout.split())
    assert "`milepost deliveries replay --from SEQ crm` skips what is never taken" in shown


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
