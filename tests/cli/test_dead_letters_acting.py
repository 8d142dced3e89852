"""`milepost dead-letters redrive` and `discard` as real processes: alone with the database, and beside a daemon."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from msgspec.structs import replace

from kit.binary import Ended, milepost, started
from kit.builders import NOON, STREAM, at, entries, problem, run_started
from kit.graph_answers import error, message, thread
from kit.installation import Installation
from kit.loopback import nowhere, sending, serving
from milepost.cli.daemon_client import TIMEOUT
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard, Redrive
from milepost.core.errors import MilepostError, StoreAway
from milepost.core.events import DeadLetterOpened, Event, Reason, RunEnded, RunStatus, Stage
from milepost.core.evolve import fold
from milepost.core.model import Changes, ContactRow, DeadLetterPayload
from milepost.core.ports import Commit, DueDeadLetter
from milepost.service.api import background
from milepost.service.api.background import background_work
from milepost.service.api.dead_letters import dead_letter_actions
from milepost.service.endpoint import routes_of
from milepost.service.http import serve
from milepost.stores.sqlite.connection import lock_database
from milepost.stores.sqlite.store import open_sqlite

UNREAD, UNREAD_MESSAGES, UNWRITTEN = "aaaa000000000001", "aaaa000000000002", "bbbb000000000003"
CONTACT = ContactRow("messenger", STREAM.page_id, "c_9", "Ada", None, NOON, NOON, NOON)
DEAD_LETTERS = {
    UNREAD: DeadLetterOpened(UNREAD, Stage.FETCH, "t_1", "it went wrong", at(900)),
    UNREAD_MESSAGES: DeadLetterOpened(UNREAD_MESSAGES, Stage.FETCH, "t_1/messages", "it went wrong", at(900)),
    UNWRITTEN: DeadLetterOpened(UNWRITTEN, Stage.STORE, "contact c_9", "CHECK constraint failed", at(900)),
}
PAYLOADS = {
    UNREAD: '{"id":"t_1"}',
    UNREAD_MESSAGES: '{"id":"t_1"}',
    UNWRITTEN: json.dumps(
        {"contacts": [{name: getattr(CONTACT, name) for name in CONTACT.__struct_fields__}]}, default=str
    ),
}
PAGE = {"id": STREAM.page_id, "platforms": ["messenger"], "access_token": "EAAPageToken0000000000"}
TOKEN = "a-token-of-some-length"
BY = "command line from 127.0.0.1"


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


async def store(installation: Installation, *dead_letter_ids: str, before: tuple[Event, ...] = ()) -> None:
    """Create a database in which these dead letters are open."""
    payloads = tuple(DeadLetterPayload(each, PAYLOADS[each]) for each in dead_letter_ids)
    async with open_sqlite(installation.database, synchronous="normal") as sqlite:
        checkpoint = await sqlite.load(STREAM)
        appended = entries(*before, *(DEAD_LETTERS[each] for each in dead_letter_ids), after=checkpoint)
        after = fold(appended, checkpoint)
        await sqlite.commit(Commit(appended, Changes(payloads=payloads), after, after.run))


def still_open(installation: Installation) -> list[str]:
    found = installation.rows("SELECT dead_letter_id FROM dead_letters WHERE closed_at IS NULL ORDER BY 1")
    return [dead_letter_id for (dead_letter_id,) in found]


async def dead_letters(installation: Installation, *arguments: str) -> Ended:
    return await milepost(installation.folder, "dead-letters", *arguments)


# --- alone with the database ------------------------------------------------------------------------------------------


@asynccontextmanager
async def graph(installation: Installation, answer: object, status: int = 200) -> AsyncIterator[list[str]]:
    """Serve this answer to every request to the Graph API; return the requested paths."""
    asked: list[str] = []

    async def reply(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(answer, status=status)

    async with serving(reply) as base_url:
        installation.configure(base_url, PAGE)
        yield asked


async def test_it_exits_with_0_when_every_dead_letter_is_closed(installation: Installation) -> None:
    await store(installation, UNREAD, UNREAD_MESSAGES, UNWRITTEN)
    async with graph(installation, thread("t_1", message())) as asked:
        done = await dead_letters(installation, "redrive")
    assert done.code == 0, done
    assert still_open(installation) == []
    assert asked == ["/v26.0/t_1"], "the messages came with the conversation"
    assert installation.rows("SELECT conversation_id FROM conversations") == [("t_1",)]
    assert installation.rows("SELECT event_id FROM contact_interaction_events") == [("m_1",)]
    assert ("Ada",) in installation.rows("SELECT name FROM contacts")
    assert done.stdout.splitlines() == [
        f"[1/3] {UNREAD}  t_1: closed",
        f"[2/3] {UNREAD_MESSAGES}  t_1/messages: closed",
        f"[3/3] {UNWRITTEN}  contact c_9: closed",
        "3 of 3 closed",
    ]


async def test_only_the_given_dead_letters_are_redriven(installation: Installation) -> None:
    await store(installation, UNREAD, UNREAD_MESSAGES, UNWRITTEN)
    async with graph(installation, thread("t_1", message())) as asked:
        done = await dead_letters(installation, "redrive", "b")
    assert (done.code, done.stdout) == (0, f"{UNWRITTEN}  contact c_9: closed\n")
    assert still_open(installation) == [UNREAD, UNREAD_MESSAGES]
    assert asked == []


async def test_it_exits_with_1_and_the_reason_when_one_is_still_open(installation: Installation) -> None:
    await store(installation, UNREAD, UNWRITTEN)
    async with graph(installation, error(2, "Service temporarily unavailable"), 500):
        done = await dead_letters(installation, "redrive", "--stream", STREAM.key)
    assert done.code == 1, done
    assert still_open(installation) == [UNREAD]
    assert (
        f"{UNREAD}  t_1: still open: Service temporarily unavailable (HTTP 500, code 2); next attempt in" in done.stdout
    )
    assert "1 of 2 closed" in done.stdout


async def test_it_exits_with_75_when_a_rate_limit_prevents_the_redrive(installation: Installation) -> None:
    await store(installation, UNREAD, UNREAD_MESSAGES)
    async with graph(installation, error(613, "Calls to this API have exceeded the rate limit."), 400) as asked:
        done = await dead_letters(installation, "redrive")
    assert done.code == 75, done
    assert done.stdout.count("not tried: a rate limit holds") == 2
    assert len(asked) == 1, "no call is made inside a pause"
    assert installation.rows("SELECT DISTINCT attempts FROM dead_letters") == [(0,)]


async def test_it_exits_with_77_when_the_stream_is_stopped_for_authorization(installation: Installation) -> None:
    ended = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=problem(190))
    await store(installation, UNREAD, before=(run_started(), ended))
    async with graph(installation, error(190, "Error validating access token"), 400):
        done = await dead_letters(installation, "redrive")
    assert done.code == 77, done
    assert "still open: Error validating access token" in done.stdout


async def test_it_exits_with_78_when_the_configuration_is_bad(installation: Installation) -> None:
    await store(installation, UNREAD)
    installation.config.write_text("sync: {intervall: 5m}\n")
    assert (await dead_letters(installation, "redrive")).code == 78


async def test_it_exits_with_75_after_ctrl_c(installation: Installation) -> None:
    await store(installation, UNREAD, UNREAD_MESSAGES)
    asked = asyncio.Event()

    async def never(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(never) as base_url:
        installation.configure(base_url, PAGE)
        async with started(installation.folder, "dead-letters", "redrive") as running:
            await asked.wait()
            running.signal(signal.SIGINT)
            done = await running.ended()
    assert done.code == 75, done
    assert "Traceback" not in done.stderr
    assert "0 of 2 closed" in done.stdout
    assert still_open(installation) == [UNREAD, UNREAD_MESSAGES]


async def test_a_discarded_dead_letter_is_closed_for_good_with_the_reason_on_record(installation: Installation) -> None:
    await store(installation, UNREAD, UNWRITTEN)
    async with graph(installation, {}) as asked:
        done = await dead_letters(installation, "discard", "a", UNWRITTEN, "--reason", " the page is sold ")
    assert done.code == 0, done
    assert done.stdout.splitlines()[-1] == "2 of 2 discarded"
    assert installation.rows("SELECT DISTINCT resolution, note FROM dead_letters") == [
        ("discarded", "the page is sold")
    ]
    assert installation.rows("SELECT * FROM dead_letter_payloads") == []
    assert asked == []


async def test_a_dead_letter_of_a_page_that_is_gone_can_be_discarded(installation: Installation) -> None:
    await store(installation, UNREAD)
    installation.configure(nowhere(), PAGE | {"id": "77"})
    done = await dead_letters(installation, "redrive")
    assert done.code == 1, done
    assert f"{STREAM.key} is not configured" in done.stdout
    assert (await dead_letters(installation, "discard", UNREAD, "--reason", "the page is sold")).code == 0
    assert still_open(installation) == []


# --- beside a daemon --------------------------------------------------------------------------------------------------


class StandIn:
    """A double of a daemon's supervisor, which answers commands and records them."""

    def __init__(self, answer: Callable[[DeadLetter], Awaitable[DeadLetter | None]]) -> None:
        self.asked: list[DeadLetterCommand] = []
        self._answer = answer

    async def do(self, command: DeadLetterCommand) -> DeadLetter | None:
        self.asked.append(command)
        return await self._answer(dead_letter(command.dead_letter_id))

    async def find(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        return tuple(DueDeadLetter(dead_letter(each), "{}") for each in dead_letter_ids)


def dead_letter(dead_letter_id: str) -> DeadLetter:
    opened = DEAD_LETTERS[dead_letter_id]
    return DeadLetter(dead_letter_id, STREAM, opened.stage, opened.subject, opened.reason, NOON)


async def closing(_: DeadLetter) -> DeadLetter | None:
    return None


@asynccontextmanager
async def daemon(
    installation: Installation,
    stand_in: StandIn,
    *,
    token: str = "",
    max_wait_seconds: float = 20.0,
    host: str = "127.0.0.1",
    listens_on: str = "127.0.0.1",
) -> AsyncIterator[str]:
    """Hold the database and listen as a daemon does, where config.yaml says; return the URL."""
    with lock_database(installation.database), pytest.MonkeyPatch.context() as patched:
        patched.setattr(background, "MAX_WAIT_SECONDS", max_wait_seconds)
        async with (
            background_work() as desk,
            serve(listens_on, 0, routes_of(dead_letter_actions(desk, stand_in.do, stand_in.find)), token=token) as url,
        ):
            listening_at(installation, url, host=host, token=token)
            yield url


def listening_at(installation: Installation, url: str, *, host: str = "127.0.0.1", token: str = "") -> None:
    installation.configure(nowhere(), PAGE, http={"listen": f"{host}:{urlsplit(url).port}", "token": token})


def test_the_client_waits_for_as_long_as_the_daemon_may_take() -> None:
    assert TIMEOUT.total is not None
    assert TIMEOUT.total > 2 * background.MAX_WAIT_SECONDS


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_the_daemon_redrives_on_request(installation: Installation, token: str) -> None:
    await store(installation, UNREAD, UNWRITTEN)
    stand_in = StandIn(closing)
    async with daemon(installation, stand_in, token=token):
        done = await dead_letters(installation, "redrive")
    assert done.code == 0, done
    assert stand_in.asked == [Redrive(UNREAD, BY), Redrive(UNWRITTEN, BY)]
    assert done.stdout.splitlines() == [
        f"[1/2] {UNREAD}  t_1: closed",
        f"[2/2] {UNWRITTEN}  contact c_9: closed",
        "2 of 2 closed",
    ]


async def test_the_daemon_discards_on_request(installation: Installation) -> None:
    await store(installation, UNREAD)
    stand_in = StandIn(closing)
    async with daemon(installation, stand_in):
        done = await dead_letters(installation, "discard", "a", "--reason", "ünlesbar")
    assert (done.code, done.stdout) == (0, f"{UNREAD}  t_1: discarded\n")
    assert stand_in.asked == [Discard(UNREAD, "ünlesbar", BY)]


async def test_a_dead_letter_that_the_daemon_cannot_redrive_is_still_open(installation: Installation) -> None:
    async def in_vain(before: DeadLetter) -> DeadLetter:
        return replace(before, attempts=1, reason="it went wrong again")

    await store(installation, UNREAD)
    async with daemon(installation, StandIn(in_vain)):
        done = await dead_letters(installation, "redrive", UNREAD)
    assert (done.code, done.stdout) == (1, f"{UNREAD}  t_1: still open: it went wrong again\n")


async def test_it_exits_with_75_when_the_daemon_may_not_redrive_now(installation: Installation) -> None:
    async def held(_: DeadLetter) -> DeadLetter:
        raise CommandDeferred("a rate limit forbids to read it until noon")

    await store(installation, UNREAD)
    async with daemon(installation, StandIn(held)):
        done = await dead_letters(installation, "redrive")
    assert done.code == 75, done
    assert "not tried: a rate limit forbids to read it until noon" in done.stdout


async def test_it_exits_with_75_when_the_daemon_takes_long_and_continues(installation: Installation) -> None:
    async def slow(_: DeadLetter) -> DeadLetter | None:
        await asyncio.Event().wait()
        return None

    await store(installation, UNREAD)
    async with daemon(installation, StandIn(slow), max_wait_seconds=0.05):
        done = await dead_letters(installation, "redrive")
    assert (done.code, done.stdout) == (75, f"{UNREAD}  t_1: it takes a while; the daemon continues\n")


async def test_ctrl_c_does_not_wait_for_the_daemon(installation: Installation) -> None:
    asked = asyncio.Event()

    async def slow(_: DeadLetter) -> DeadLetter | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    await store(installation, UNREAD, UNREAD_MESSAGES)
    async with (
        daemon(installation, StandIn(slow)),
        started(installation.folder, "dead-letters", "redrive") as running,
    ):
        await asked.wait()
        running.signal(signal.SIGINT)
        done = await running.ended()
    assert done.code == 75, done
    assert "the daemon continues" in done.stdout
    assert "Traceback" not in done.stderr


async def test_a_refusal_for_one_dead_letter_holds_up_no_other(installation: Installation) -> None:
    async def some(before: DeadLetter) -> DeadLetter | None:
        if before.dead_letter_id == UNREAD:
            raise MilepostError(f"{STREAM.key} is not configured")
        return None

    await store(installation, UNREAD, UNWRITTEN)
    async with daemon(installation, StandIn(some)):
        done = await dead_letters(installation, "redrive")
    assert done.code == 1, done
    assert f"{UNREAD}  t_1: still open: {STREAM.key} is not configured\n" in done.stdout
    assert f"{UNWRITTEN}  contact c_9: closed\n" in done.stdout


async def test_a_daemon_whose_database_is_unavailable_gets_no_further_requests(installation: Installation) -> None:
    async def away(_: DeadLetter) -> DeadLetter | None:
        raise StoreAway("the disk is full", hint="make room")

    await store(installation, UNREAD, UNREAD_MESSAGES)
    stand_in = StandIn(away)
    async with daemon(installation, stand_in):
        done = await dead_letters(installation, "redrive")
    assert done.code == 1, done
    assert "cannot do it now: the disk is full (make room)" in done.stderr
    assert len(stand_in.asked) == 1


async def test_a_dead_letter_that_is_closed_meanwhile_counts_as_closed(installation: Installation) -> None:
    class Forgetful(StandIn):
        async def find(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
            assert dead_letter_ids == (UNREAD,)
            return ()

    await store(installation, UNREAD)
    async with daemon(installation, Forgetful(closing)):
        done = await dead_letters(installation, "redrive")
    assert (done.code, done.stdout) == (0, f"{UNREAD}  t_1: closed\n")


async def test_it_exits_with_78_when_the_daemon_requires_another_token(installation: Installation) -> None:
    await store(installation, UNREAD)
    stand_in = StandIn(closing)
    async with daemon(installation, stand_in, token=TOKEN) as url:
        for token in ("", "another-token-than-that"):
            listening_at(installation, url, token=token)
            done = await dead_letters(installation, "redrive")
            assert done.code == 78, done
            assert "refuses the token\n  → set http.token" in done.stderr
            assert "another-token" not in done.stderr + done.stdout
    assert stand_in.asked == []


async def test_a_daemon_that_listens_on_all_addresses_is_reached_on_loopback(installation: Installation) -> None:
    await store(installation, UNREAD)
    stand_in = StandIn(closing)
    async with daemon(installation, stand_in, token=TOKEN, host="[::]", listens_on="::1"):
        done = await dead_letters(installation, "redrive")
    assert done.code == 0, done
    assert stand_in.asked == [Redrive(UNREAD, "command line from ::1")]


async def test_where_no_daemon_listens_it_says_where_and_why_that_may_be(installation: Installation) -> None:
    await store(installation, UNREAD)
    listening_at(installation, nowhere())
    with lock_database(installation.database):
        done = await dead_letters(installation, "redrive")
    assert done.code == 75, done
    assert "another Milepost is using the database and does not answer at http://127.0.0.1:" in done.stderr
    assert ": connection refused\n" in done.stderr
    assert "if it is a sync, let it finish" in done.stderr
    assert still_open(installation) == [UNREAD]


async def test_a_port_that_is_not_known_is_reported(installation: Installation) -> None:
    await store(installation, UNREAD)
    installation.configure(nowhere(), PAGE)  # with port 0
    with lock_database(installation.database):
        done = await dead_letters(installation, "redrive")
    assert done.code == 78, done
    assert "set a port in http.listen, and restart the daemon" in done.stderr


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "answers with something that this version does not understand",
        ),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answers HTTP 404: no reason given"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "answers HTTP 302"),
    ],
)
async def test_another_program_at_the_port_is_reported_as_such(
    installation: Installation, answer: bytes, told: str
) -> None:
    await store(installation, UNREAD, UNREAD_MESSAGES)
    async with sending(answer) as url:
        listening_at(installation, url)
        with lock_database(installation.database):
            done = await dead_letters(installation, "redrive")
    assert (done.code, done.stdout) == (1, ""), done
    assert told in done.stderr
    assert "another program" in done.stderr
