"""Dead letters by reason: what belongs together, and what becomes of a group that is redriven or discarded at once."""

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from msgspec.structs import replace

from kit.builders import STREAM, at
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard
from milepost.core.dead_letters import group_of
from milepost.core.errors import MilepostError
from milepost.core.events import Stage
from milepost.core.model import Platform, Stream
from milepost.service.api.background import background_work
from milepost.service.api.dead_letters import (
    MAX_GROUPS,
    MAX_KEPT,
    dead_letter_group_actions,
    dead_letter_groups,
    dead_letters,
    grouped,
    link_to,
)
from milepost.service.endpoint import routes_of
from milepost.stores.reader import DeadLetterState, JournalReader, Thread, all_dead_letters
from service.api.served import fill, get_json, served
from service.listening import listening

OTHER = Stream(Platform.MESSENGER, "2")


def letter(number: int, reason: str, stream: Stream = STREAM, stage: Stage = Stage.FETCH) -> DeadLetter:
    return DeadLetter(f"{number:016x}", stream, stage, f"t_{number}", reason, at(number), redrive_at=at(1000 + number))


LETTERS = [
    letter(1, "code 2 for t_10000000001"),
    letter(2, "the row was refused", stage=Stage.STORE),
    letter(3, "code 2 for t_10000000003", OTHER),
    letter(4, "code 2 for t_10000000004"),
    letter(5, "code 100 for t_10000000005"),
]
GROUP = group_of(LETTERS[0].stage, LETTERS[0].reason)


class Stored:
    """A journal reader with these dead letters, and an executor that closes, fails or defers them by their number."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = dict(zip((1, 3, 4), outcomes, strict=False))
        self.commands: list[DeadLetterCommand] = []

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        assert state is DeadLetterState.OPEN
        found = [each for each in LETTERS if stream in (None, each.stream.key) and each.dead_letter_id > (after or "")]
        return found[:limit]

    async def threads(self, conversation_ids: set[str]) -> dict[str, Thread]:
        stored = {"t_1": Thread("Ada Okafor", "/615/inbox/77/"), "t_4": Thread(None, "javascript:alert(1)")}
        return {key: stored[key] for key in conversation_ids if key in stored}

    async def do(self, command: DeadLetterCommand) -> DeadLetter | None:
        self.commands.append(command)
        (before,) = [each for each in LETTERS if each.dead_letter_id == command.dead_letter_id]
        match self.outcomes.get(int(command.dead_letter_id, 16)):
            case "fails":
                return replace(before, attempts=1)
            case "breaks":
                raise MilepostError("it cannot be read")
            case "waits":
                raise CommandDeferred("a rate limit forbids it")
            case _:
                return None


@asynccontextmanager
async def client(stored: Stored) -> AsyncIterator[aiohttp.ClientSession]:
    reader = cast("JournalReader", stored)  # it has the methods that are used here
    async with background_work() as work:
        operations = [
            *dead_letters(reader),
            *dead_letter_groups(reader),
            *dead_letter_group_actions(work, stored.do, reader),
        ]
        async with listening(routes_of(operations)) as session:
            yield session


async def test_one_cause_named_for_many_threads_is_one_group() -> None:
    found = (await grouped(all_dead_letters(cast("JournalReader", Stored()), DeadLetterState.OPEN))).groups
    assert [(each.reason, each.count, each.streams) for each in found] == [
        ("code 2 for t_10000000001", 3, 2),
        ("the row was refused", 1, 1),
        ("code 100 for t_10000000005", 1, 1),
    ]
    assert (found[0].opened_at, found[0].latest_at, found[0].redrive_at) == (at(1), at(4), at(1001))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("code 2 for t_10000000001", "code 2 for t_10000000002"),
        ("the response is not JSON: Ray ID 7d1fb2c3", "the response is not JSON: Ray ID a5e6f0bb"),
        ("Expected `str`, got `int` - at `$.data[3].from`", "Expected `str`, got `int` - at `$.data[17].from`"),
        (
            "the response has 1,203 messages, and 20 were asked for",
            "the response has 87 messages, and 20 were asked for",
        ),
        ("no answer at 2026-11-30T04:00:17Z", "no answer at 2026-12-01T23:59:01Z"),
    ],
)
def test_numbers_and_ids_in_a_reason_make_no_group_of_their_own(one: str, other: str) -> None:
    assert group_of(Stage.FETCH, one) == group_of(Stage.FETCH, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(#100) it failed (HTTP 400, code 100)", "(#200) it failed (HTTP 400, code 100)"),
        ("it failed (HTTP 400, code 100)", "it failed (HTTP 500, code 100)"),
        ("it failed (HTTP 500, code 1)", "it failed (HTTP 500, code 2)"),
        ("it failed (code 100, subcode 2018001)", "it failed (code 100, subcode 2018065)"),
    ],
)
def test_the_codes_in_a_reason_tell_groups_apart(one: str, other: str) -> None:
    assert group_of(Stage.FETCH, one) != group_of(Stage.FETCH, other)


async def test_reasons_without_end_take_a_bounded_amount_of_memory() -> None:
    async def letters() -> AsyncIterator[DeadLetter]:
        for each in range(MAX_KEPT + 1):
            yield letter(each, "".join(chr(ord("a") + int(digit)) for digit in f"{each:08}"))
        yield letter(MAX_KEPT + 1, "aaaaaaaa")

    found = await grouped(letters())
    assert (len(found.groups), found.is_complete) == (MAX_GROUPS, False)
    assert [each.count for each in found.groups[:2]] == [2, 1]
    assert sum(each.count for each in found.groups) == MAX_GROUPS + 1


async def test_dead_letters_of_one_cause_take_no_memory() -> None:
    async def letters() -> AsyncIterator[DeadLetter]:
        for each in range(10_000):
            yield letter(each, f"code 2 for t_{10_000_000_000 + each}")

    tracemalloc.start()
    try:
        assert (await grouped(letters())).groups[0].count == 10_000
        assert tracemalloc.get_traced_memory()[1] < 10_000 * 8  # not even a pointer to each
    finally:
        tracemalloc.stop()


async def test_the_groups_and_the_members_of_one_are_listed() -> None:
    async with client(Stored()) as session:
        groups = await get_json(session, "/api/dead-letters/groups")
        assert (groups["groups"][0]["group"], groups["is_complete"]) == (GROUP, True)
        first = await get_json(session, "/api/dead-letters", group=GROUP, limit=2)
        assert [each["subject"] for each in first["dead_letters"]] == ["t_1", "t_3"]
        rest = await get_json(session, "/api/dead-letters", group=GROUP, limit=2, after=first["next"])
        assert ([each["subject"] for each in rest["dead_letters"]], rest["next"]) == (["t_4"], None)


async def test_a_dead_letter_has_the_contact_and_the_link_of_its_conversation() -> None:
    async with client(Stored()) as session:
        shown = (await get_json(session, "/api/dead-letters"))["dead_letters"]
    named = {each["subject"]: (each["contact_name"], each["link"]) for each in shown}
    assert named["t_1"] == ("Ada Okafor", "https://www.facebook.com/615/inbox/77/")
    assert named["t_2"] == named["t_4"] == (None, None)


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("/615/inbox/77/", "https://www.facebook.com/615/inbox/77/"),
        ("https://business.facebook.com/latest/inbox", "https://business.facebook.com/latest/inbox"),
        ("//evil.example/x", None),
        ("https://www.facebook.com.evil.example/", None),
        ("javascript:alert(1)", None),
        ("", None),
    ],
)
def test_only_links_to_meta_are_shown(link: str, shown: str | None) -> None:
    assert link_to(link) == shown


@pytest.mark.parametrize(
    ("outcomes", "closed", "failed", "held"),
    [
        (("closes", "closes", "closes"), 3, 0, 0),
        (("fails", "closes", "closes"), 2, 1, 0),
        (("breaks", "closes", "closes"), 2, 1, 0),
        (("waits", "closes", "closes"), 1, 0, 2),  # the others of that stream are not even tried
    ],
)
async def test_a_group_is_redriven_at_once(outcomes: tuple[str, ...], closed: int, failed: int, held: int) -> None:
    stored = Stored(*outcomes)
    async with (
        client(stored) as session,
        session.post(f"/api/dead-letters/groups/{GROUP}/redrive", json={}) as response,
    ):
        assert response.status == 200
        assert await response.json() == {
            "group": GROUP,
            "count": 3,
            "closed": closed,
            "failed": failed,
            "held": held,
            "is_over": True,
        }
    assert {int(each.dead_letter_id, 16) for each in stored.commands} <= {1, 3, 4}


async def test_a_group_is_discarded_with_one_reason() -> None:
    stored = Stored()
    path = f"/api/dead-letters/groups/{GROUP}/discard"
    async with client(stored) as session, session.post(path, json={"reason": " spam "}) as response:
        assert (await response.json())["closed"] == 3
    assert {each.reason for each in stored.commands if isinstance(each, Discard)} == {"spam"}


async def test_a_group_that_is_not_open_is_not_found() -> None:
    async with client(Stored()) as session, session.post("/api/dead-letters/groups/abcd/redrive", json={}) as response:
        assert response.status == 404


async def test_the_daemon_serves_the_groups(tmp_path: Path) -> None:
    await fill(tmp_path / "milepost.db")
    async with served(tmp_path / "milepost.db") as (session, _):
        groups = (await get_json(session, "/api/dead-letters/groups"))["groups"]
        assert sum(each["count"] for each in groups) == len(
            (await get_json(session, "/api/dead-letters", limit=1000))["dead_letters"]
        )
