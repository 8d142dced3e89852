"""The listener for webhooks over real connections: what is taken, what is refused, and what it costs."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime
from http.client import HTTPConnection

import aiohttp
import pytest
from structlog.testing import capture_logs

from kit.builders import NOON, STREAM
from kit.webhooks import SECRET, NoInbox, body_of, found_nowhere, signed
from milepost.core.errors import BadConfiguration, StoreAway
from milepost.core.model import Stream
from milepost.core.webhooks import WebhookEvent
from milepost.facebook.webhooks import Malformed, UnknownAccount
from milepost.service import webhooks as listener
from milepost.service.metrics.traffic import WebhookCounter
from milepost.service.webhooks import (
    MAX_BODY_BYTES,
    WebhookCredentials,
    WebhookIntake,
    WebhookRequests,
    serving_webhooks,
)

PATH = "/hook"
HANDSHAKE = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "a-word"}


class Receiver:
    """Takes bodies, as the intake does; `problem` is raised in place of that, and `gate` waited for."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.counted: list[str] = []
        self.problem: Exception | None = None
        self.called, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.credentials = WebhookCredentials("a-word", (SECRET,))

    async def receive(self, body: bytes) -> None:
        self.called.set()
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        self.bodies.append(body)

    def requests(self) -> WebhookRequests:
        return WebhookRequests(PATH, lambda: self.credentials, self.receive, self.counted.append)


@asynccontextmanager
async def served(receiver: Receiver) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        serving_webhooks("127.0.0.1", 0, receiver.requests()) as url,
        aiohttp.ClientSession(url, auto_decompress=False) as session,
    ):
        yield session


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def session(receiver: Receiver) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(receiver) as session:
        yield session


async def posted(session: aiohttp.ClientSession, body: bytes, **headers: str) -> int:
    async with session.post(PATH, data=body, headers={**signed(body), **headers}) as response:
        return response.status


class TestTaken:
    async def test_a_handshake_is_answered_with_its_challenge_alone(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        async with session.get(PATH, params=HANDSHAKE) as response:
            assert (response.status, response.content_type) == (200, "text/plain")
            assert await response.text() == "1158201444"
        assert receiver.counted == ["handshake"]

    async def test_a_signed_body_is_taken_as_it_came(self, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        body = rb'{"text": "\u00e4\/"}'
        assert await posted(session, body) == 200
        assert receiver.bodies == [body]

    async def test_every_secret_is_accepted_and_a_reload_applies_at_once(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        receiver.credentials = WebhookCredentials("", ("", "of-instagram"))
        body = body_of("m_1")
        with capture_logs() as logged:
            assert await posted(session, body, **signed(body, "of-instagram")) == 200
            assert await posted(session, body, **signed(body, "of-instagram")) == 200
        assert [line.get("secret") for line in logged] == ["webhooks.secrets[0]"]
        assert await posted(session, body) == 403

    async def test_nothing_is_answered_with_200_before_it_is_stored(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        receiver.gate.clear()
        answer = asyncio.ensure_future(posted(session, body_of("m_1")))
        await receiver.called.wait()
        assert not answer.done()
        receiver.gate.set()
        assert await answer == 200


class TestDeletionCallback:
    """The request of somebody who logged in to the app, of whom nothing is stored."""

    SIGNED = (
        "URuV1QnWW2iBEJKFqnZx3BWXwcn4kIsFwMKXXb0RKYM."
        "eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsImlzc3VlZF9hdCI6MTc5MDAwMDAwMCwidXNlcl9pZCI6IjcwMDEifQ"
    )

    async def test_it_is_answered_with_a_link_to_what_became_of_it(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        with capture_logs() as logged:
            async with session.post(PATH, data={"signed_request": self.SIGNED}) as response:
                assert response.status == 200
                answer = await response.json()
        assert "7001" not in repr(logged), "the log is kept, too"
        assert answer.keys() == {"url", "confirmation_code"}
        assert re.fullmatch(rf"https://127\.0\.0\.1:\d+{PATH}\?c={answer['confirmation_code']}", answer["url"])
        async with session.get(PATH, params={"c": answer["confirmation_code"]}) as page:
            assert page.status == 200
            assert "Nothing is stored here" in await page.text()
        assert (receiver.counted, receiver.bodies) == (["deletion_request"], [])

    @pytest.mark.parametrize(
        ("form", "result"),
        [
            ({}, "unsigned"),
            ({"signed_request": ""}, "unsigned"),
            ({"a": SIGNED}, "unsigned"),
            ({"signed_request": SIGNED[1:]}, "wrong_signature"),
        ],
    )
    async def test_one_that_is_not_signed_is_refused(
        self, receiver: Receiver, session: aiohttp.ClientSession, form: dict[str, str], result: str
    ) -> None:
        async with session.post(PATH, data=aiohttp.FormData(form or {"a": "b"})) as response:
            assert (response.status, await response.read()) == (403, b"")
        async with session.get(PATH, params={"c": "x"}) as response:
            assert response.status == 403
        assert receiver.counted == [result, "handshake_refused"]

    async def test_a_host_that_is_none_is_refused(self, session: aiohttp.ClientSession) -> None:
        form = {"signed_request": self.SIGNED}
        async with session.post(PATH, data=form, headers={"Host": "a.example:port"}) as response:
            assert response.status == 400

    async def test_too_many_fields_are_refused(self, session: aiohttp.ClientSession) -> None:
        async with session.post(PATH, data={f"field {number}": "x" for number in range(20)}) as response:
            assert response.status == 400


class TestRefused:
    @pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
    async def test_nothing_else_is_served(self, session: aiohttp.ClientSession, method: str) -> None:
        for path in ("/", "/metrics", "/healthz", "/hook/", "/hook/more", "/HOOK", "/%68ook/"):
            async with session.request(method, path, data=b"{}") as response:
                assert (response.status, await response.read()) == (404, b""), path

    async def test_another_method_is_refused(self, session: aiohttp.ClientSession) -> None:
        for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
            async with session.request(method, PATH) as response:
                assert response.status == 405, method

    async def test_a_wrong_handshake_is_refused(self, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        async with session.get(PATH, params={**HANDSHAKE, "hub.verify_token": "guessed"}) as response:
            assert (response.status, await response.read()) == (403, b"")
        async with session.get(PATH) as response:
            assert response.status == 403
        assert receiver.counted == ["handshake_refused"] * 2

    @pytest.mark.parametrize("signature", ["sha256=", f"sha256={'0' * 64}", "\N{BULLET}"])
    async def test_a_wrong_signature_is_refused_and_nothing_is_taken(
        self, receiver: Receiver, session: aiohttp.ClientSession, signature: str
    ) -> None:
        assert await posted(session, body_of("m_1"), **{"X-Hub-Signature-256": signature}) == 403
        assert (receiver.bodies, receiver.counted) == ([], ["wrong_signature"])

    async def test_a_body_without_a_signature_is_refused_and_says_nothing_about_the_secret(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        """Meta signs every webhook, so this one is a stranger's."""
        assert await posted(session, body_of("m_1"), **{"X-Hub-Signature-256": ""}) == 403
        async with session.post(PATH, data=body_of("m_1")) as response:
            assert response.status == 403
        assert (receiver.bodies, receiver.counted) == ([], ["unsigned"] * 2)

    async def test_a_body_that_is_announced_as_too_large_is_not_read(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        async with session.post(PATH, data=b"{}", headers={"Content-Length": str(MAX_BODY_BYTES + 1)}) as response:
            assert response.status == 413
        assert receiver.counted == ["too_large"]

    @pytest.mark.parametrize(
        ("size", "encoding", "status"), [(MAX_BODY_BYTES + 1, "identity", 413), (MAX_BODY_BYTES, "gzip", 415)]
    )
    async def test_who_reads_after_sending_all_of_a_refused_body_gets_the_answer(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, size: int, encoding: str, status: int
    ) -> None:
        def send(port: int) -> int:
            with closing(HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("POST", PATH, bytes(size), {"Content-Encoding": encoding})
                return connection.getresponse().status

        monkeypatch.setattr(listener, "MAX_LINGER_SECONDS", 60.0)
        async with serving_webhooks("127.0.0.1", 0, receiver.requests()) as url:
            assert await asyncio.to_thread(send, int(url.rpartition(":")[2])) == status

    async def test_a_body_that_turns_out_too_large_is_cut_off(
        self, receiver: Receiver, session: aiohttp.ClientSession
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 2**16
                yield bytes(2**16)

        try:
            async with session.post(PATH, data=endless()) as response:
                assert response.status == 413
        except aiohttp.ClientConnectionError:  # cut off while it was sending
            pass
        assert receiver.counted == ["too_large"]
        assert sent < 4 * MAX_BODY_BYTES

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "unknown"])
    async def test_a_compressed_body_is_refused_unread(
        self, receiver: Receiver, session: aiohttp.ClientSession, encoding: str
    ) -> None:
        bomb = gzip.compress(bytes(2**24))
        assert await posted(session, bomb, **{"Content-Encoding": encoding}) == 415
        assert receiver.counted == ["too_large"]

    async def test_a_body_that_never_ends_is_given_up(
        self, receiver: Receiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener, "MAX_BODY_SECONDS", 0.05)
        hold = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"{"
            await hold.wait()

        async with session.post(PATH, data=slow()) as response:
            assert response.status == 408
        hold.set()
        assert receiver.counted == ["too_slow"]

    async def test_a_malformed_body_is_refused(self, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        receiver.problem = Malformed("the body is not JSON")
        assert await posted(session, b"{") == 400
        assert receiver.counted == ["malformed"]

    async def test_a_store_that_is_away_is_a_503(self, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        receiver.problem = StoreAway("the disk is full")
        assert await posted(session, body_of("m_1")) == 503
        receiver.problem = None
        assert await posted(session, body_of("m_1")) == 200
        assert receiver.counted == ["store_away"]

    async def test_a_store_that_hangs_is_a_503_before_the_sender_gives_up(
        self, receiver: Receiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert listener.MAX_BODY_SECONDS + listener.MAX_STORE_SECONDS < 5
        monkeypatch.setattr(listener, "MAX_STORE_SECONDS", 0.05)
        receiver.gate.clear()
        assert await posted(session, body_of("m_1")) == 503
        receiver.gate.set()

    async def test_too_many_bodies_at_once_are_refused(
        self, receiver: Receiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = body_of("m_1")
        monkeypatch.setattr(listener, "MAX_BYTES_AT_ONCE", len(body))
        receiver.gate.clear()
        first = asyncio.ensure_future(posted(session, body))
        await receiver.called.wait()
        assert await posted(session, body) == 429
        receiver.gate.set()
        assert await first == 200
        assert await posted(session, body) == 200

    async def test_bodies_that_are_only_announced_keep_nobody_out(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = body_of("m_1")
        monkeypatch.setattr(listener, "MAX_BYTES_AT_ONCE", 2 * len(body))
        length = f"Content-Length: {len(body)}\r\nExpect: 100-continue"
        async with serving_webhooks("127.0.0.1", 0, receiver.requests()) as url, aiohttp.ClientSession(url) as session:
            strangers = [await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(3)]
            for reader, writer in strangers:
                writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
                assert b"100 Continue" in await reader.readline()
            assert await posted(session, body) == 200
            for _, writer in strangers:
                writer.close()

    async def test_a_bug_is_logged_and_says_nothing(self, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        receiver.problem = RuntimeError("a bug")
        with capture_logs() as logged:
            async with session.post(PATH, data=b"{}", headers=signed(b"{}")) as response:
                assert (response.status, await response.read()) == (500, b"")
        assert [line["event"] for line in logged if line["log_level"] == "error"] == ["task failed unexpectedly"]

    async def test_an_address_in_use_is_reported_with_its_key(self, receiver: Receiver) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(BadConfiguration) as refused:
                async with serving_webhooks("127.0.0.1", taken.getsockname()[1], receiver.requests()):
                    pass
        assert "set webhooks.listen to a free port" in refused.value.hint


class MemoryInbox(NoInbox):
    """Stores events in memory. `adds` are the calls."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.adds: list[int] = []
        self.problem: StoreAway | None = None

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        assert now == NOON
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        self.adds.append(len(events))
        new = frozenset(event.key for event in events) - self.keys
        self.keys |= new
        return new


class TestIntake:
    def intake(self, inbox: MemoryInbox) -> tuple[WebhookIntake, WebhookCounter, list[bool]]:
        arrivals: list[bool] = []
        counter = WebhookCounter(dict, tuple)
        intake = WebhookIntake(
            inbox,
            lambda _, account_id: STREAM if account_id == STREAM.page_id else None,
            counter,
            lambda: NOON,
            lambda: arrivals.append(True),
            found_nowhere,
        )
        return intake, counter, arrivals

    def counts(self, counter: WebhookCounter) -> dict[str, float]:
        return {
            sample.labels["result"]: sample.value
            for metric in counter.collect()
            for sample in metric.samples
            if sample.value and sample.name == "milepost_webhooks_total"
        }

    async def test_what_waits_at_the_same_time_is_stored_together_and_counted_once(self) -> None:
        inbox = MemoryInbox()
        intake, counter, arrivals = self.intake(inbox)
        bodies = [body_of(f"m_{number % 10}") for number in range(50)]
        await asyncio.gather(*map(intake.receive, bodies))
        assert sum(inbox.adds) == 50
        assert len(inbox.adds) <= 3
        assert self.counts(counter) == {"stored": 10, "duplicate": 40}
        assert len(arrivals) == 10

    async def test_what_is_no_event_needs_no_store(self) -> None:
        inbox = MemoryInbox()
        inbox.problem = StoreAway("away")
        intake, counter, arrivals = self.intake(inbox)
        await intake.receive(body_of("m_1", page_id="102"))
        await intake.receive(b'{"object": "page", "entry": []}')
        assert (self.counts(counter), arrivals) == ({"unknown_page": 1}, [])

    async def test_an_instagram_account_is_asked_for_before_its_webhooks_are_dropped(self) -> None:
        inbox = MemoryInbox()
        counter, asked, known = WebhookCounter(dict, tuple), list[UnknownAccount](), dict[str, Stream]()

        async def find(account: UnknownAccount) -> bool:
            asked.append(account)
            if account.account_id == "17841":
                known["17841"] = STREAM
            return account.account_id in known

        intake = WebhookIntake(
            inbox, lambda _, account_id: known.get(account_id), counter, lambda: NOON, lambda: None, find
        )
        entries = json.loads(body_of("m_1", page_id="17841"))["entry"]
        await intake.receive(json.dumps({"object": "instagram", "entry": entries}).encode())
        await intake.receive(json.dumps({"object": "instagram", "entry": entries}).encode())
        await intake.receive(body_of("m_2", page_id="102"))
        assert asked == [UnknownAccount("17841", ("m_1",), ("9001",))]
        assert self.counts(counter) == {"stored": 1, "duplicate": 1, "unknown_page": 1}

    async def test_what_was_not_stored_is_not_counted_as_taken(self) -> None:
        inbox = MemoryInbox()
        inbox.problem = StoreAway("away")
        intake, counter, arrivals = self.intake(inbox)
        with pytest.raises(StoreAway):
            await intake.receive(body_of("m_1"))
        assert (self.counts(counter), arrivals) == ({}, [])
