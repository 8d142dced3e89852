"""One request to a receiver: how it is signed, and what comes of it."""

import json
import socket
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from kit.builders import NOON, at
from kit.loopback import nowhere, sending, serving
from kit.receiver import NEW, OLD, Receiver
from kit.tls import certified, serving_tls
from milepost.core.changes import Answer, Change, ChangeKind, ChangeOp, DeliveryResult
from milepost.deliveries.sender import answer_of, fitting, message_of, sending_to
from milepost.settings.model import DeliverySettings

SECRET_PATH = "/hooks/its-secret-path"


def change(seq: int, text: str = "hello") -> Change:
    return Change(
        seq, ChangeKind.MESSAGE, ChangeOp.UPSERT, {"event_id": f"m_{seq}"}, {"event_id": f"m_{seq}", "text": text}
    )


def destination(url: str, *secrets: str) -> DeliverySettings:
    return DeliverySettings.model_validate({"name": "crm", "url": url, "secret": secrets or (NEW,)})


async def sent(url: str, *secrets: str, now: datetime | None = None) -> Answer:
    async with sending_to(destination(url, *secrets)) as sender:
        return await sender.send([change(1), change(2)], now or datetime.now(UTC))


class TestMessages:
    def test_a_message_is_a_standard_webhook(self) -> None:
        message = message_of("crm", [change(1)], [SecretStr(NEW)], NOON)
        assert json.loads(message.body) == {
            "type": "milepost.changes",
            "timestamp": "2026-03-01T12:00:00.000Z",
            "data": {
                "changes": [
                    {
                        "seq": 1,
                        "kind": "message",
                        "op": "upsert",
                        "key": {"event_id": "m_1"},
                        "row": {"event_id": "m_1", "text": "hello"},
                        "history": False,
                    }
                ]
            },
        }
        assert message.headers["webhook-timestamp"] == str(int(NOON.timestamp()))

    def test_each_secret_signs(self) -> None:
        now = datetime.now(UTC)
        message = message_of("crm", [change(1)], [SecretStr(NEW), SecretStr(OLD)], now)
        for secret in (NEW, OLD):
            Webhook(secret).verify(message.body, dict(message.headers))
        with pytest.raises(WebhookVerificationError):
            Webhook(f"whsec_{b64encode(b'another secret of 24 byt').decode()}").verify(
                message.body, dict(message.headers)
            )

    def test_a_repetition_has_the_same_id_and_other_changes_have_another(self) -> None:
        def message_id(name: str, changes: list[Change], now: datetime) -> str:
            return message_of(name, changes, [SecretStr(NEW)], now).headers["webhook-id"]

        first = message_id("crm", [change(1)], NOON)
        assert message_id("crm", [change(1)], at(60)) == first
        others = {message_id("crm", [change(1), change(2)], NOON), message_id("crm", [change(1, "other")], NOON)}
        assert len(others | {message_id("erp", [change(1)], NOON), first}) == 4

    async def test_what_is_replayed_is_no_repetition(self) -> None:
        async with Receiver().listening() as receiver, sending_to(destination(receiver.url)) as sender:
            for replays in (0, 0, 1):
                await sender.send([change(1)], datetime.now(UTC), replays)
        first, repeated, replayed = receiver.requests
        assert first == repeated != replayed

    def test_a_body_is_of_a_size_that_servers_take(self) -> None:
        changes = [change(seq, "x" * 20_000) for seq in range(100)]
        fit = fitting(changes)
        assert 40 < len(fit) < 50
        assert list(fit) == changes[: len(fit)]
        assert fitting([change(1, "x" * 2_000_000), change(2)]) == [change(1, "x" * 2_000_000)]
        assert fitting(changes[:3]) == changes[:3]


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204])
    async def test_a_confirmation_is_any_status_of_success(self, status: int) -> None:
        async with Receiver(lambda _: status).listening() as receiver:
            assert await sent(receiver.url) == Answer(DeliveryResult.DELIVERED)
        assert receiver.seqs == [1, 2]

    @pytest.mark.parametrize("status", [400, 401, 404, 410, 413, 429, 500, 503])
    async def test_any_other_status_is_a_refusal(self, status: int) -> None:
        async with Receiver(lambda _: status).listening() as receiver:
            assert await sent(receiver.url) == Answer(DeliveryResult.REFUSED, f"HTTP {status}")

    @pytest.mark.parametrize(
        ("retry_after", "seconds"),
        [
            ("120", 120),
            ("99999999", 900),
            ("Sun, 01 Feb 2026 08:02:00 GMT", 120),  # by the clock of the receiver
            ("Mon, 02 Feb 2026 08:00:00 GMT", 900),
            ("Sun, 01 Feb 2026 07:00:00 GMT", None),
            ("soon", None),
            ("-5", None),
            ("", None),
        ],
    )
    def test_a_receiver_may_name_the_wait(self, retry_after: str, seconds: float | None) -> None:
        headers = {"Date": "Sun, 01 Feb 2026 08:00:00 GMT", "Retry-After": retry_after}
        assert answer_of(503, headers).retry_after_seconds == seconds

    async def test_a_redirect_is_not_followed(self) -> None:
        followed = []

        async def answer(request: web.Request) -> web.Response:
            if request.path == "/elsewhere":
                followed.append(request)
            return web.Response(status=307, headers={"Location": "/elsewhere"})

        async with serving(answer) as url:
            found = await sent(f"{url}/hooks")
        assert (found.result, found.problem) == (DeliveryResult.REFUSED, "HTTP 307: redirects are not followed")
        assert followed == []

    async def test_a_lost_connection_is_no_confirmation(self) -> None:
        async with Receiver(lambda _: "reset").listening() as receiver:
            found = await sent(receiver.url)
        assert found.result is DeliveryResult.UNREACHABLE

    async def test_a_port_where_nothing_listens_is_unreachable(self) -> None:
        assert await sent(nowhere()) == Answer(DeliveryResult.UNREACHABLE, "connection refused")

    async def test_what_is_not_http_is_no_confirmation(self) -> None:
        async with sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url:
            found = await sent(url)
        assert found.result is DeliveryResult.UNREACHABLE
        assert "SSH" not in found.problem

    async def test_a_silent_receiver_times_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("milepost.deliveries.sender.REQUEST_SECONDS", 0.2)
        async with Receiver(lambda _: "hang").listening() as receiver:
            assert await sent(receiver.url) == Answer(DeliveryResult.TIMED_OUT, "no answer within 0.2 s")

    async def test_an_endless_answer_holds_up_nothing(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            with_pieces = b"x" * 65_536
            try:
                while True:
                    await response.write(with_pieces)
            except ConnectionError:
                return response

        async with serving(answer) as url:
            assert (await sent(url)).result is DeliveryResult.DELIVERED

    async def test_no_problem_repeats_the_url_or_the_answer(self) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=500, reason="its-secret-reason", text="its-secret-body")

        async with serving(answer) as url:
            problems = [(await sent(f"{url}{SECRET_PATH}")).problem]
        problems.append((await sent(f"{nowhere()}{SECRET_PATH}")).problem)
        problems.append((await sent(f"https://no-such-host.invalid{SECRET_PATH}")).problem)
        assert not any("secret" in problem for problem in problems)


class TestNetwork:
    async def test_a_name_that_leads_into_our_network_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]
        monkeypatch.setattr("milepost.deliveries.sender.socket.getaddrinfo", lambda *_, **__: there)
        found = await sent("https://crm.example/hooks")
        assert found.result is DeliveryResult.FORBIDDEN_ADDRESS
        assert "private address" in found.problem

    async def test_a_host_that_the_configuration_names_may_be_in_our_network(self) -> None:
        async with Receiver().listening() as receiver:
            assert (await sent(receiver.url)).result is DeliveryResult.DELIVERED
            assert (await sent(receiver.url.replace("127.0.0.1", "localhost"))).result is DeliveryResult.DELIVERED

    async def test_a_certificate_of_nobody_known_is_refused(self, tmp_path: Path) -> None:
        context, _ = certified(tmp_path, "127.0.0.1")
        async with serving_tls(_confirming, context, "127.0.0.1") as url:
            found = await sent(url)
        assert found.result is DeliveryResult.UNREACHABLE
        assert found.problem.startswith("its certificate is not accepted: ")

    async def test_a_certificate_authority_of_our_own_is_named_by_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context, certificate = certified(tmp_path, "127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with serving_tls(_confirming, context, "127.0.0.1") as url:
            assert (await sent(url)).result is DeliveryResult.DELIVERED


async def _confirming(_: web.Request) -> web.Response:
    return web.Response(status=204)
