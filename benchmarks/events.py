"""The cost of event stream readers: the same sync without readers, and with 200.

    python -m benchmarks.events                  takes about a minute
    python -m benchmarks.events --readers 20 --conversations 2000

The daemon works at full speed, which no real page allows. The readers share the machine with it: their own share is in
the elapsed time, but not in the daemon's processor time, which is judged. Exit code 1: readers cost more than the
target, or one of them missed an event.
"""

import argparse
import asyncio
import os
import re
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from msgspec import Struct

from benchmarks.daemon import daemon
from benchmarks.process import Server, serving
from benchmarks.workload import Workload

STREAMS = 4
MAX_CPU_RATIO = 1.5  # the daemon's with readers to that without
PATIENCE_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")
AT = re.compile(rb'"at":"([^"]+)"')


class Sync(Struct, frozen=True):
    """One sync, until everything was stored and received. `lateness` is from an entry to its arrival at one reader."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    entries: int
    lateness: list[float]


async def listen(url: str, lateness: list[float] | None) -> int:
    """Receive everything from the first entry until the daemon ends; return the number of entries received in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port, limit=2**20)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    seq = 0
    while line := await reader.readline():
        if line.startswith(b"data: ") and (at := AT.search(line)) is not None and lateness is not None:
            lateness.append((datetime.now(UTC) - datetime.fromisoformat(at[1].decode())).total_seconds())
        if line.startswith(b"id: ") and int(line[4:]) == seq + 1:  # not the position in a heartbeat
            seq += 1
    writer.close()
    return seq


def has_ended(database: Path, streams: int) -> bool:
    """Whether every stream has completed a sweep."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (complete,) = connection.execute("SELECT count(*) FROM runs WHERE status = 'complete'").fetchone()
    return int(complete) >= streams


async def sync(server: Server, workload: Workload, readers: int) -> Sync:
    """Copy the workload with that many readers. Raises SystemExit if one of them missed an event."""
    with TemporaryDirectory() as temporary:
        directory, lateness = Path(temporary), list[float]()
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            asyncio.TaskGroup() as tasks,
            daemon(server, workload, directory) as at_work,
        ):
            began = time.monotonic()
            listening = [
                tasks.create_task(listen(at_work.url, lateness if number == 0 else None)) for number in range(readers)
            ]
            while not has_ended(directory / "milepost.db", workload.streams):  # noqa: ASYNC110 -- likewise
                await asyncio.sleep(0.05)
            seconds = time.monotonic() - began
            cpu_seconds, peak_mib = used(at_work.process_id)
        with closing(sqlite3.connect(directory / "milepost.db")) as connection:
            (entries,) = connection.execute("SELECT count(*) FROM journal").fetchone()
    heard = {task.result() for task in listening}
    if heard - {entries}:
        raise SystemExit(f"the journal has {entries} entries, but readers received {sorted(heard)}")
    return Sync(seconds, cpu_seconds, peak_mib, entries, lateness)


def used(process_id: int) -> tuple[float, float]:
    """Return the processor time of a process so far, and its peak resident memory in MiB."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    status = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process_id}/status").read_text())
    return (int(fields[11]) + int(fields[12])) / TICKS, int(status[1]) / 1024 if status is not None else 0.0


def row(name: str, syncs: list[Sync]) -> str:
    """Return a line of the table."""
    cells = [
        f"{median(each.seconds for each in syncs):.2f} s",
        f"{median(each.cpu_seconds for each in syncs):.2f} s",
        f"{median(each.peak_mib for each in syncs):.0f} MiB",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure both in turn, print the table and judge it."""
    parser = argparse.ArgumentParser(description="Measure the cost of event stream readers.")
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--conversations", type=int, default=15_000, help="in each of the four streams")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    alone, together = list[Sync](), list[Sync]()
    with serving(Workload(STREAMS, options.conversations)) as server:
        workload = Workload(STREAMS, options.conversations)
        for _ in range(options.rounds):
            alone.append(asyncio.run(sync(server, workload, 0)))
            together.append(asyncio.run(sync(server, workload, options.readers)))
    print("| | sync | daemon's processor time | daemon's peak memory |\n|---|---|---|---|")
    print(row("no readers", alone))
    print(row(f"{options.readers} readers", together))
    pairs = list(zip(together, alone, strict=True))
    ratio = median(one.cpu_seconds / other.cpu_seconds for one, other in pairs)
    more = median(one.cpu_seconds - other.cpu_seconds for one, other in pairs)
    entries = median(each.entries for each in together)
    late = sorted(seconds for each in together for seconds in each.lateness)
    print(
        f"\nWith {entries:,.0f} events, {options.readers} readers cost {ratio:.2f} times the processor time, which is "
        f"{more / entries / options.readers * 1e6:.1f} µs per event and reader, and the sync takes "
        f"{median(one.seconds / other.seconds for one, other in pairs):.2f} times as long. Events arrive "
        f"{median(late) * 1000:.0f} ms after they were recorded, 95 % of them within "
        f"{late[len(late) * 95 // 100] * 1000:.0f} ms."
    )
    sys.exit(0 if ratio <= MAX_CPU_RATIO else 1)


if __name__ == "__main__":
    main()
