"""The daemon to measure: `milepost run`, the way users start it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks.process import ENVIRONMENT, NO_SECTIONS, Sections, Server, milepost
from benchmarks.workload import Workload

PATIENCE_SECONDS = 60.0


class Daemon(Struct, frozen=True):
    """A running daemon."""

    process_id: int
    url: str


@asynccontextmanager
async def daemon(
    server: Server, workload: Workload, directory: Path, changed: Sections = NO_SECTIONS
) -> AsyncIterator[Daemon]:
    """Run the daemon on a workload during the block, and stop it with SIGTERM at the end."""
    log = directory / "log.txt"
    with log.open("wb") as output:
        command = milepost(server, workload, directory, "run", changed=changed)
        process = await asyncio.create_subprocess_exec(*command, cwd=directory, env=ENVIRONMENT, stderr=output)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := re.search(r"\bhttp=(http\S+)", log.read_text())) is None:  # noqa: ASYNC110 -- another process logs it
                await asyncio.sleep(0.01)
        yield Daemon(process.pid, found[1])
    finally:
        process.terminate()
        await process.wait()
