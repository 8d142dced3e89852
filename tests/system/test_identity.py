"""Worlds in which ids are not as configured: an account with two of them, one that moves, and lists of another form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from kit.binary import milepost
from kit.graph_answers import Json, error, instagram_person, listed, message, thread
from kit.installation import Installation, on_sqlite_first
from kit.loopback import serving

OLD, NEW = "104000000000000001", "104000000000000002"
ACCOUNT, SCOPED = "17841400000000001", "26503000000000001"
US = instagram_person(ACCOUNT, "our.shop")


def with_person(number: int) -> Json:
    """Return a thread with a person, our side first, whose reply is on top."""
    person = instagram_person(f"120000000000{number:04d}", f"person{number}")
    times = [f"2026-06-26T01:{59 - number:02d}:{second}+0000" for second in ("30", "10")]
    thread_id = f"aWdf{number:04d}"
    said = (
        message(f"{thread_id}_2", US, created_time=times[0]),
        message(f"{thread_id}_1", person, created_time=times[1], message=f"said by {number}"),
    )
    participants = {"data": [US, person]}
    return thread(thread_id, *said, message_count=2, participants=participants, updated_time=times[0])


class Api:
    """A Graph API with one account, which is linked to one page at a time, and one list."""

    def __init__(self, linked_to: str, *threads: object) -> None:
        self.linked_to = linked_to
        self.threads = list(threads)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        _, page_id, *edge = request.path.strip("/").split("/")
        body: Json
        if edge == ["conversations"]:
            body = listed(*self.threads) if page_id in (self.linked_to, SCOPED) else listed()
        elif page_id == self.linked_to and not edge:
            body = {"id": page_id, "instagram_business_account": {"id": ACCOUNT}}
        elif page_id == "me":
            body = {"id": SCOPED, "name": "Our Shop"}
        else:
            body = error(100, "Unsupported get request", error_subcode=33)
        return web.json_response(body, status=400 if "error" in body else 200)


@asynccontextmanager
async def installed(installation: Installation, api: Api, *pages: Json) -> AsyncIterator[str]:
    async with serving(api.answer) as base_url:
        installation.configure(base_url, *pages)
        yield base_url


def page(page_id: str, **keys: str) -> Json:
    return {"id": page_id, "name": "Our Shop", "platforms": ["instagram"], "access_token": "EAAx", **keys}


def directions(installation: Installation) -> dict[str, int]:
    counted: list[tuple[Any, ...]] = installation.rows(
        "SELECT direction, count(*) FROM contact_interaction_events GROUP BY 1"
    )
    return dict(counted)


async def test_an_account_whose_configured_id_is_not_the_one_in_participants(installation: Installation) -> None:
    async with installed(
        installation, Api(SCOPED, *map(with_person, range(12))), page(SCOPED, instagram_account_id=SCOPED)
    ):
        first, again = await installation.sync(), await installation.sync()

        assert (first.code, again.code) == (0, 0)
        assert installation.rows("SELECT count(*) FROM contacts WHERE username LIKE 'person%'") == [(12,)]
        assert installation.rows("SELECT count(*) FROM contacts") == [(12,)]
        assert directions(installation) == {"in": 12, "out": 12}
        assert first.stderr.count("own id is another") == 1
        assert "own id" not in again.stderr, "it is said once"
        for command in (("status",), ("config", "check", "--online")):
            told = await milepost(installation.folder, *command)
            assert f"our own id is in no thread, while {ACCOUNT} is in each" in told.stdout


async def test_an_inbox_too_small_to_tell_which_participant_is_us(installation: Installation) -> None:
    api = Api(SCOPED, with_person(1))
    async with installed(installation, api, page(SCOPED, instagram_account_id=SCOPED)):
        first = await installation.sync()

        assert (first.code, first.stderr.count("own id unknown")) == (0, 1)
        assert installation.rows("SELECT contact_id FROM conversations") == [(None,)]
        for command in (("status",), ("config", "check", "--online")):
            told = await milepost(installation.folder, *command)
            assert "our own id is in no thread, and it is unknown which participant is us" in told.stdout
            assert "instagram_account_id" in told.stdout

        api.threads = [with_person(n) for n in range(4)]  # more people write
        codes = [(await installation.sync()).code for _ in range(2)]

        assert codes == [0, 0]
        assert directions(installation) == {"in": 4, "out": 4}
        assert installation.rows("SELECT count(*) FROM contacts") == [(4,)]
        assert installation.rows("SELECT count(*) FROM conversations WHERE contact_id IS NULL") == [(0,)]


async def test_an_account_that_is_linked_to_another_page_takes_its_rows_along(installation: Installation) -> None:
    api = Api(OLD, *map(with_person, range(12)))
    async with installed(installation, api, page(OLD)) as base_url:
        assert (await installation.sync()).code == 0

        api.linked_to, api.threads = NEW, [*api.threads, with_person(50)]
        installation.configure(base_url, page(OLD, instagram_account_id=ACCOUNT), page(NEW))
        moved = await installation.sync()
        full = await installation.sync("--full")

        # The old page's empty inbox is implausible only as long as its rows have not moved yet.
        assert (moved.code in (0, 1), full.code) == (True, 0)
        for table in ("conversations", "contacts", "contact_interaction_events"):
            rows = installation.rows(f"SELECT page_id, count(*) FROM {table} GROUP BY 1")
            assert rows == [(NEW, 26 if table == "contact_interaction_events" else 13)]
        assert installation.rows("SELECT count(*) FROM conversations WHERE deleted_at IS NOT NULL") == [(0,)]
        assert "moved=12" in moved.stderr

        await milepost(installation.folder, "contacts", "forget", "instagram", NEW, "1200000000000003", "--yes")
        await installation.sync("--full")

    assert installation.rows("SELECT count(*) FROM contact_interaction_events WHERE text = 'said by 3'") == [(0,)]
    assert installation.rows("SELECT count(*) FROM conversations") == [(12,)]


@on_sqlite_first
async def test_a_person_forgotten_on_the_new_page_before_anything_has_moved_is_stored_on_neither(
    installation: Installation,
) -> None:
    api = Api(OLD, *map(with_person, range(12)))
    person = "1200000000000003"
    async with installed(installation, api, page(OLD)) as base_url:
        assert (await installation.sync()).code == 0

        api.linked_to = NEW
        installation.configure(base_url, page(NEW))
        forgotten = await milepost(installation.folder, "contacts", "forget", "instagram", NEW, person, "--yes")
        assert forgotten.code == 0, forgotten
        assert f"a contact with this id on instagram:{OLD}" in forgotten.stdout
        assert (await installation.sync()).code == 0

    assert installation.rows(f"SELECT count(*) FROM contacts WHERE contact_id = '{person}'") == [(0,)]
    assert installation.rows("SELECT count(*) FROM contact_interaction_events WHERE text = 'said by 3'") == [(0,)]
    assert installation.rows("SELECT page_id, count(*) FROM conversations GROUP BY 1") == [(NEW, 11)]


async def test_a_list_of_ids_stops_the_stream_instead_of_making_dead_letters(installation: Installation) -> None:
    async with installed(installation, Api(OLD, *(f"aWdf{n}" for n in range(12))), page(OLD)):
        ended = await installation.sync()

    assert ended.code == 78, ended
    assert "12 of 12 conversations have a form that" in ended.stdout
    assert "source.version" in ended.stdout
    assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]
