"""A daemon to be measured: `milepost run`, as its users start it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks.process import Server, milepost
from benchmarks.workload import Workload

PATIENCE_SECONDS = 60.0


class Daemon(Struct, frozen=True):
    """A daemon that serves."""

    process_id: int
    url: str


@asynccontextmanager
async def daemon(server: Server, workload: Workload, directory: Path) -> AsyncIterator[Daemon]:
    """Run `milepost run` on a workload during the block; at its end it stops as at SIGTERM."""
    log = directory / "log.txt"
    with log.open("wb") as output:
        command = milepost(server, workload, directory, "run")
        process = await asyncio.create_subprocess_exec(*command, cwd=directory, stderr=output)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (told := re.search(r"\bhttp=(http\S+)", log.read_text())) is None:  # noqa: ASYNC110 -- another process says it
                await asyncio.sleep(0.01)
        yield Daemon(process.pid, told[1])
    finally:
        process.terminate()
        await process.wait()
