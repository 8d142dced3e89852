"""How many webhooks a daemon takes on one core while it sweeps, and how long a message takes from POST to row.

`python -m benchmarks.webhooks` sends 1,000 a second for 30 seconds to a daemon that sweeps 50 streams, every seventh a
reaction, and then single messages; `--seconds` and `--rate` change that. It exits with 1 if a webhook is refused or
lost, if a second of one core takes fewer than are sent in a second, if a stream is not swept meanwhile, or if the
median of the delays is above 2 seconds: as a client sees them, or as `milepost_message_delay_seconds` has them.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import math
import os
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from milepost.simulator.plan import WorldPlan
from milepost.simulator.server import SimulatorServer

SECRET = "benchmark-secret"
PAGES = 25  # with two streams each
FINISHED = "SELECT count(DISTINCT stream) FROM runs WHERE ended_at IS NOT NULL"
CONVERSATIONS = 400
CONNECTIONS = 16
MESSAGES = 40
REACTIONS_OF = 7  # one of so many webhooks is a reaction; the number of pages is no multiple of it
MAX_MEDIAN_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
ROOT = Path(__file__).parent.parent


def delivery(account_id: str, message_id: str, *, is_reaction: bool = False) -> bytes:
    """Return a request of one message, or of a reaction to it, signed."""
    said: dict[str, object] = {"message": {"mid": message_id, "text": "hello"}}
    if is_reaction:
        said = {"reaction": {"mid": message_id, "action": "react", "reaction": "love", "emoji": "\u2764"}}
    people = {"sender": {"id": "9001"}, "recipient": {"id": account_id}}
    update = {**people, "timestamp": round(time.time() * 1000), **said}
    body = json.dumps({"object": "page", "entry": [{"id": account_id, "messaging": [update]}]}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST /webhooks/meta HTTP/1.1\r\nHost: hooks\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """A kept-alive connection to the listener: cheaper than a client, which would take the core that is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, request: bytes) -> int:
        """Send a request and return the status of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await self._reader.readexactly(int(length[1]) if length else 0)
        return int(head[9:12])


async def connections(port: int) -> "asyncio.Queue[Connection]":
    """Open connections, to be taken in turn."""
    pool: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        pool.put_nowait(Connection(*await asyncio.open_connection("127.0.0.1", port)))
    return pool


async def load(pool: "asyncio.Queue[Connection]", page_ids: list[str], rate: int, seconds: float) -> Counter[int]:
    """Send webhooks at a rate, and return how often each status was the answer."""
    statuses: Counter[int] = Counter()

    async def send(number: int) -> None:
        connection = await pool.get()
        page_id, is_reaction = page_ids[number % len(page_ids)], number % REACTIONS_OF == 0
        try:
            statuses[await connection.post(delivery(page_id, f"m_load_{number}", is_reaction=is_reaction))] += 1
        finally:
            pool.put_nowait(connection)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            group.create_task(send(number))
    print(f"{statuses.total():,} webhooks in {time.monotonic() - began:.1f} s: {dict(statuses)}")
    return statuses


async def delays(simulator: SimulatorServer, pool: "asyncio.Queue[Connection]", database: Path) -> list[float]:
    """Let messages arrive one after the other, and return how long each took from its webhook to its row."""
    found = []
    for number in range(MESSAGES):
        page = simulator.pages[number % len(simulator.pages)]
        now = datetime.now(UTC)
        thread = simulator.world.find(simulator.world.receive(page.id, "messenger", now), now)
        assert thread is not None  # noqa: S101 -- it has just arrived
        connection = await pool.get()
        began = time.monotonic()
        await connection.post(delivery(page.id, thread.newest[0].id))
        pool.put_nowait(connection)
        while time.monotonic() < began + PATIENCE_SECONDS:
            if rows(
                database, "SELECT count(*) FROM contact_interaction_events WHERE event_id = ?", thread.newest[0].id
            ):
                break
            await asyncio.sleep(0.01)
        found.append(time.monotonic() - began)
    return found


async def delay_buckets(port: int) -> Counter[float]:
    """Return how many messages were stored within how many seconds, as the daemon's histogram has it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    found = re.findall(r'milepost_message_delay_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return Counter({float(bound): int(float(count)) for bound, count in found})


def cpu_seconds(process_id: int) -> float:
    """Return how much processor time a process has taken."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(database: Path, query: str, *parameters: str) -> int:
    """Return the number that a query counts."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        (count,) = connection.execute(query, parameters).fetchone()
        return int(count)


async def port_in(log: Path, name: str) -> int:
    """Return the port of an address that the daemon logs under this name."""
    while True:
        text = await asyncio.to_thread(log.read_text)
        if (found := re.search(rf"\b{name}=http://127.0.0.1:(\d+)", text)) is not None:
            return int(found[1])
        await asyncio.sleep(0.05)


async def measure(rate: int, seconds: float, directory: Path) -> bool:
    """Run both, and return whether the targets are met."""
    plan = WorldPlan(pages=PAGES, conversations=CONVERSATIONS, arrivals_per_minute=0)
    async with SimulatorServer(plan, clock=lambda: datetime.now(UTC), app_secret=SECRET) as simulator:
        config = {
            "store": {"url": f"sqlite:///{directory / 'milepost.db'}"},
            "source": {"kind": "facebook", "base_url": simulator.base_url, "app_secret": SECRET},
            "http": {"listen": "127.0.0.1:0"},
            "webhooks": {"listen": "127.0.0.1:0", "verify_token": "benchmark"},
            "sync": {"interval": "15s", "concurrency": 16},  # twice in the 30 s
            "pages": [{"id": page.id, "access_token": page.token} for page in simulator.pages],
        }
        (directory / "config.yaml").write_text(json.dumps(config))
        log = directory / "log.txt"
        with log.open("wb") as output:
            daemon = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "milepost", "run", "-c", str(directory / "config.yaml")),
                cwd=directory,
                stderr=output,
            )
        try:
            os.sched_setaffinity(daemon.pid, {max(os.sched_getaffinity(0))})
            database = directory / "milepost.db"
            port, metrics_port = [await port_in(log, name) for name in ("url", "http")]
            while rows(database, FINISHED) < 2 * PAGES:  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.5)  # first copies take what they can get of the core
            pool = await connections(port)
            before, taken, began = simulator.requests.total, cpu_seconds(daemon.pid), datetime.now(UTC)
            statuses = await load(pool, [page.id for page in simulator.pages], rate, seconds)
            taken = cpu_seconds(daemon.pid) - taken
            a_second = statuses.total() / taken
            print(f"{taken:.1f} s of one core, sweeps included: {a_second:,.0f} a second of it")
            stored = rows(database, "SELECT count(*) FROM webhook_events")
            swept = rows(
                database,
                "SELECT count(DISTINCT stream) FROM runs WHERE ended_at > ?",
                began.isoformat(timespec="seconds"),
            )
            calls = simulator.requests.total - before
            print(f"{stored:,} of them stored; {swept} of {2 * PAGES} streams swept meanwhile, by {calls} calls")
            buckets = await delay_buckets(metrics_port)
            found_delays = await delays(simulator, pool, database)
            buckets = await delay_buckets(metrics_port) - buckets
        finally:
            daemon.terminate()
            await daemon.wait()
    median = statistics.median(found_delays)
    print(f"from POST to row: median {median:.2f} s, longest {max(found_delays):.2f} s")
    within = buckets[MAX_MEDIAN_SECONDS]
    print(f"milepost_message_delay_seconds: {within} of {buckets[math.inf]} within {MAX_MEDIAN_SECONDS:.0f} s")
    is_quick = median <= MAX_MEDIAN_SECONDS and 2 * within >= buckets[math.inf] >= MESSAGES
    return statuses == {200: stored} and a_second >= rate and swept == 2 * PAGES and is_quick


def main() -> None:
    """Measure, and exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if not asyncio.run(measure(arguments.rate, arguments.seconds, Path(directory))):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
