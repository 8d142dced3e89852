"""A server with invalid responses, of a different kind for each page."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import repeat
from zlib import Z_FULL_FLUSH, compressobj

from msgspec import Struct

from kit.loopback import Ending, following

GIGABYTE, MEGABYTE = 2**30, 2**20
SPACES = b" " * MEGABYTE


class Kind(Struct, frozen=True):
    """A kind of invalid response: its pieces, how the connection ends, and part of the error that the user must see."""

    says: Callable[[], Iterable[bytes]]
    expected: str
    ending: Ending = Ending.CLOSE


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Return an HTTP response.

    It announces that the connection will close: otherwise the next call might reuse a dying one.
    """
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _gigabyte() -> Iterable[bytes]:
    """Stream JSON without announcing its length."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    yield from repeat(SPACES, GIGABYTE // MEGABYTE)


def _packed_gigabyte() -> Iterable[bytes]:
    """Stream the same in about a megabyte: every piece decompresses to a thousand times its size."""
    packing = compressobj(wbits=31)  # gzip
    beginning = packing.compress(b"") + packing.flush(Z_FULL_FLUSH)
    piece = packing.compress(SPACES) + packing.flush(Z_FULL_FLUSH)
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n" + beginning
    yield piece * (GIGABYTE // MEGABYTE)


KINDS: dict[str, Kind] = {
    "HTML": Kind(lambda: [http(b"<html><h1>It works!</h1></html>", Content_Type="text/html")], "It works!"),
    "no JSON": Kind(lambda: [http(b"OK")], "the response is not JSON"),
    "half of it": Kind(lambda: [http(b'{"data": [{"id": "t_1"')], "cut short"),
    "nothing": Kind(lambda: [http(b"")], "the response is empty"),
    "wrong types": Kind(lambda: [http(b'{"data": "none", "paging": []}')], "neither a batch nor an error"),
    "a list": Kind(lambda: [http(b"[1, 2, 3]")], "neither a batch nor an error"),
    "deep nesting": Kind(lambda: [http(b"[" * 100_000)], "nested too deeply"),
    "a gigabyte": Kind(_gigabyte, "larger than"),
    "a gigabyte, packed": Kind(_packed_gigabyte, "larger than"),
    "a length that lies": Kind(
        lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{"], "larger than", Ending.HANG
    ),
    "endless redirects": Kind(lambda: [http(b"", "302 Found", Location="/again")], "a redirect to the same host"),
    "another host": Kind(
        lambda: [http(b"", "301 Moved Permanently", Location="http://elsewhere.invalid/")],
        "a redirect to elsewhere.invalid",
    ),
    "garbage": Kind(lambda: [bytes(range(256)) * 64], "is not HTTP"),
    "another protocol": Kind(lambda: [b"SSH-2.0-OpenSSH_9.9\r\n"], "is not HTTP", Ending.HANG),
    "silence": Kind(list, "no response within", Ending.HANG),
    "a pause for ever": Kind(lambda: [http(b"{}" * 50)[:-9]], "no response within", Ending.HANG),
    "a closed connection": Kind(list, "closed the connection"),
    "a reset": Kind(lambda: [http(b"{}" * 50)[:-9]], "broke off", Ending.RESET),
}


def talking(kinds: Sequence[Kind]) -> AbstractAsyncContextManager[str]:
    """Serve on loopback, page 0 with the first kind, page 1 with the second and so on; yields the base URL."""

    def script(request: bytes) -> tuple[Iterable[bytes], Ending]:
        kind = kinds[int(request.split(b"/")[2])]  # GET /v26.0/<page>/conversations
        return kind.says(), kind.ending

    return following(script)
