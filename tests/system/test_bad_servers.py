"""Servers that misbehave: each is reported clearly, costs little memory, and loses nothing."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import repeat
from pathlib import Path
from zlib import Z_FULL_FLUSH, compressobj

from msgspec import Struct

from kit.binary import Ended, started, until
from kit.graph_answers import encoded, listed, message, thread
from kit.installation import Installation, Section, page_section
from kit.loopback import Ending, following, nowhere
from kit.simulated import BICYCLES, NOW, frozen_world

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


RETRY: Section = {"attempts": 2, "base_delay": "1ms", "max_delay": "1ms"}
# A response is judged at its end, however long a busy machine takes to read it; silence ends with the timeout.
PATIENT: Mapping[str, Section] = {"source": {"request_timeout": "60s"}, "retry": RETRY, "sync": {"concurrency": 50}}
IMPATIENT: Mapping[str, Section] = {"source": {"request_timeout": "1s"}, "retry": RETRY}
SILENCES = {name: kind for name, kind in KINDS.items() if kind.expected == "no response within"}
ANSWERS = {name: kind for name, kind in KINDS.items() if name not in SILENCES}
SENSE = Kind(lambda: [http(encoded(listed(thread("t_1", message()))))], "")
# The program itself takes about 80 MB, and each endless response may take 32 before it is cut off.
MAX_RESIDENT_BYTES = 300 * 2**20


async def peak_resident_bytes(pid: int) -> int:
    """Watch a process to its end, and return its peak memory."""
    peak = 0

    def has_ended() -> bool:
        nonlocal peak
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended and was reaped
            return True
        line = next((line for line in lines if line.startswith("VmHWM")), None)  # an ended process has no memory
        peak = int(line.split()[1]) * 1024 if line else peak
        return line is None

    await until(has_ended)
    return peak


def pages_of(kinds: Collection[Kind]) -> list[dict[str, object]]:
    """Return a page for each kind: page 0 gets the first."""
    return [{"id": str(page), "platforms": ["messenger"], "access_token": "EAAx"} for page in range(len(kinds))]


def wrongly_told(ended: Ended, kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Return the kinds that are not reported as expected, with what is reported."""
    whys = dict(line.split(": retries exhausted: ") for line in ended.stdout.splitlines() if "exhausted" in line)
    reported = {name: whys.get(f"messenger:{page}", "nothing") for page, name in enumerate(kinds)}
    return {name: reported[name] for name, kind in kinds.items() if kind.expected not in reported[name]}


async def test_every_kind_of_invalid_response_is_reported_costs_little_and_holds_up_no_other_stream(
    installation: Installation,
) -> None:
    kinds = [*ANSWERS.values(), SENSE]
    async with talking(kinds) as base_url:
        installation.configure(base_url, *pages_of(kinds), **PATIENT)
        async with started(installation.folder, "sync") as running:
            peak_bytes = await peak_resident_bytes(running.pid)
            ended = await running.ended()
    assert ended.code == 1, ended
    assert "Traceback" not in ended.stderr, ended
    assert wrongly_told(ended, ANSWERS) == {}
    ends = installation.rows(
        "SELECT status, retries, failed_batches, count(*) FROM runs GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    assert ends == [("complete", 0, 0, 1), ("failed", 1, 1, len(ANSWERS))]
    assert installation.rows("SELECT conversation_id, page_id FROM conversations") == [("t_1", str(len(ANSWERS)))]
    assert 0 < peak_bytes < MAX_RESIDENT_BYTES, f"{peak_bytes / 2**20:.0f} MB"


async def test_a_silent_server_is_reported_after_the_request_timeout(installation: Installation) -> None:
    kinds = [*SILENCES.values()]
    async with talking(kinds) as base_url:
        installation.configure(base_url, *pages_of(kinds), **IMPATIENT)
        ended = await installation.sync()
    assert ended.code == 1, ended
    assert wrongly_told(ended, SILENCES) == {}
    assert installation.rows("SELECT status, retries, failed_batches FROM runs") == [("failed", 1, 1)] * len(kinds)


async def test_a_refused_connection_is_reported_and_the_next_sync_catches_up(installation: Installation) -> None:
    installation.configure(nowhere(), page_section(BICYCLES), **PATIENT)
    refused = await installation.sync()
    assert refused.code == 1, refused
    assert "no connection to 127.0.0.1: Connection refused" in refused.stdout
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
        truth = simulator.world.truth(BICYCLES.id, "messenger", NOW)
    assert installation.rows("SELECT count(*) FROM conversations") == [(len(truth),)]
