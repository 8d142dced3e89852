"""A Graph API that costs almost nothing: every response of the conversations edge is rendered before the first request.

It prints its URL once it serves, and ends on SIGTERM. `GET /benchmark/requests` returns the number of requests to the
edge and when, by this machine's monotonic clock, the first came; `GET /benchmark/forget` resets the count.
"""

import argparse
import asyncio
import json
import socket
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from random import Random
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from benchmarks.workload import ACCESS_TOKEN, Workload

# Long ago, so that an incremental sweep finds all rows older than its watermark and ends with its first batch.
NEWEST_AT = datetime(2025, 1, 1, tzinfo=UTC)
VERSION = "v26.0"
WORDS = ("hello", "thanks", "order", "when", "blue", "parcel", "tomorrow", "café", "über", "👋", "спасибо", "مرحبا")


class Inboxes:
    """The responses of every stream, by page and cursor. The keys of neighbours are scattered, as real ones are."""

    def __init__(self, workload: Workload, base_url: str) -> None:
        self._workload = workload
        self._random = Random(7)  # noqa: S311 -- the same inboxes every time
        self.answers: dict[tuple[str, str | None], bytes] = {}
        for page_id in workload.page_ids:
            edge = f"{base_url}/{VERSION}/{page_id}/conversations"
            self.answers.update({(page_id, cursor): body for cursor, body in self._bodies(page_id, edge)})

    def _bodies(self, page_id: str, edge: str) -> Iterator[tuple[str | None, bytes]]:
        size, count = self._workload.batch_size, self._workload.conversations
        cursor: str | None = None
        for start in range(0, count, size):
            end = min(start + size, count)
            after = f"QVFIUm{self._random.getrandbits(512):x}"
            paging: dict[str, Any] = {"cursors": {"before": cursor or after, "after": after}}
            if end < count:
                paging["next"] = f"{edge}?access_token={ACCESS_TOKEN}&limit={size}&after={after}"
            data = [self._conversation(page_id, number) for number in range(start, end)]
            yield cursor, _json({"data": data, "paging": paging})
            cursor = after

    def _conversation(self, page_id: str, number: int) -> dict[str, Any]:
        contact_id = str(self._random.randrange(10**16, 10**17))
        contact = _person(contact_id, f"{self._word().title()} {self._word().title()}")
        page = _person(page_id, "Corner Bakery")
        updated_at = NEWEST_AT - timedelta(minutes=number)
        messages = [
            {
                "id": f"m_{urlsafe_b64encode(self._random.randbytes(64)).decode()}",
                "created_time": _instant(updated_at - timedelta(seconds=30 * back)),
                "from": page if back % 2 else contact,
                "message": " ".join(self._word() for _ in range(12)),
            }
            for back in range(self._workload.messages)
        ]
        return {
            "id": f"t_{self._random.randrange(10**16, 10**17)}",
            "updated_time": _instant(updated_at),
            "link": f"/{page_id}/inbox/{contact_id}/?section=messages",
            "snippet": " ".join(self._word() for _ in range(8)),
            "message_count": self._workload.messages + number % 7,
            "unread_count": number % 3,
            "can_reply": number % 5 != 0,
            "participants": {"data": [contact, page]},
            "messages": {"data": messages, "paging": {"cursors": {"before": "QVFI", "after": "QVFI"}}},
        }

    def _word(self) -> str:
        return self._random.choice(WORDS)


def _person(person_id: str, name: str) -> dict[str, str]:
    return {"name": name, "email": f"{person_id}@facebook.com", "id": person_id}


def _instant(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S+0000")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Edge:
    """What all connections share: the responses, and the count of requests."""

    def __init__(self, workload: Workload, base_url: str) -> None:
        self._batch_size = workload.batch_size
        self._latency_seconds = workload.latency_seconds
        self._answers = Inboxes(workload, base_url).answers
        self._requests = 0
        self._first_at: float | None = None

    def answer(self, target: str) -> tuple[int, bytes, float]:
        """Return the HTTP status and body for a request target, and by how many seconds to delay them."""
        url = urlsplit(target)
        match url.path.split("/")[1:]:
            case ["benchmark", "requests"]:
                return 200, _json({"requests": self._requests, "first_at": self._first_at}), 0.0
            case ["benchmark", "forget"]:
                self._requests, self._first_at = 0, None
                return 200, b"{}", 0.0
            case [_, page_id, "conversations"]:
                self._requests += 1
                self._first_at = self._first_at or time.monotonic()
                return (*self._batch(page_id, parse_qs(url.query)), self._latency_seconds)
            case _:
                return 404, _error(2500, "Unknown path components"), 0.0

    def _batch(self, page_id: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        if query.get("limit") != [str(self._batch_size)]:
            return 400, _error(100, f"this server has batches of {self._batch_size} only")
        (cursor,) = query.get("after", [None])
        body = self._answers.get((page_id, cursor))
        return (200, body) if body is not None else (400, _error(100, "no such page or cursor"))


def _error(code: int, message: str) -> bytes:
    return _json({"error": {"message": message, "type": "OAuthException", "code": code}})


class Connection(asyncio.Protocol):
    """The subset of HTTP/1.1 that the benchmarks' clients use: GET without a body, kept alive."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            status, body, late_seconds = self._edge.answer(head.split(b" ", 2)[1].decode())
            if late_seconds:
                asyncio.get_running_loop().call_later(late_seconds, self._write, status, body)
            else:
                self._write(status, body)

    def _write(self, status: int, body: bytes) -> None:
        if self._transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Bad Request'}\r\n"
            f"Date: {formatdate(usegmt=True)}\r\n"
            f"facebook-api-version: {VERSION}\r\n"
            "Content-Type: application/json; charset=UTF-8\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.writelines((head.encode(), body))


async def serve(workload: Workload, port: int) -> None:
    """Serve until cancelled."""
    listening = socket.create_server(("127.0.0.1", port))
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    edge = Edge(workload, base_url)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(edge), sock=listening)
    print(base_url, flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Serve a benchmark's inboxes on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free one")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--conversations", type=int, default=20_000, help="in each stream")
    parser.add_argument("--messages", type=int, default=1, help="in each conversation")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--latency-seconds", type=float, default=0.0, help="the delay of each response")
    options = vars(parser.parse_args())
    port = options.pop("port")
    asyncio.run(serve(Workload(**options), port))


if __name__ == "__main__":
    main()
