"""The real program as users run it: a process `python -m milepost` in a folder of its own.

Unless it needs a user, a wrapper or an interpreter of its own, it is forked from a process that has already imported
the program (`fork_server`).
"""

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kit.fork_server import ENVIRONMENT, Forked, fork

PATIENCE_SECONDS = 60.0
TURNS_TO_READ = 50  # turns of the event loop in which a server accepts, reads and counts what was sent to it
POLL_SECONDS, MAX_POLL_SECONDS = 0.005, 0.25
READ_BY_PYTHON = ("LD_", "PYTHON")  # variables that take effect only in a process that starts with them
NOT_FORKED = {"PYTHONHASHSEED": "random"}  # an environment for tests that need such a process; this is the default


@dataclass(frozen=True)
class Ended:
    """The result of a process: its exit code and its output."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout ---\n{self.stdout}\n--- stderr ---\n{self.stderr}"


class Running:
    """A running process. Its output goes to files, so that it never blocks on a reader."""

    def __init__(self, process: asyncio.subprocess.Process | Forked, stdout: Path, stderr: Path) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def said(self) -> str:
        """Its output on stderr so far."""
        return self._stderr.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if not self.has_ended:
            self._process.send_signal(number)

    async def says(self, text: str) -> str:
        """Wait until a line of stderr contains the text, and return the line."""
        await until(lambda: self.has_ended or text in self._stderr.read_text())
        line = next((line for line in self._stderr.read_text().splitlines() if text in line), None)
        assert line is not None, f"ended without logging {text!r}\n{self._result()}"
        return line

    async def url(self) -> str:
        """Wait until the daemon logs its URL, and return it."""
        found = re.search(r"http=(http\S+)", await self.says("http=http"))
        assert found is not None
        return found[1]

    async def ended(self, seconds: float = PATIENCE_SECONDS) -> Ended:
        """Wait for the end. A process that does not end in time is killed, and fails the test."""
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"did not end within {seconds:g} s\n{self._result()}") from None
        return self._result()

    async def kill(self) -> Ended:
        """Kill the process without a chance to clean up, once servers in this loop have read what it sent."""
        self.signal(signal.SIGKILL)
        await self._process.wait()
        for _ in range(TURNS_TO_READ):
            await asyncio.sleep(0)
        return self._result()

    def _result(self) -> Ended:
        code = self._process.returncode
        return Ended(-1 if code is None else code, self._stdout.read_text(), self._stderr.read_text())


@asynccontextmanager
async def started(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    user: str | int | None = None,
    under: Sequence[str] = (),
) -> AsyncIterator[Running]:
    """Run `milepost` in the folder during the block, and kill it at the end if it is still running.

    `under` is the beginning of a command that runs another one, such as `prlimit`.
    """
    environment = environment or {}
    is_forked = user is None and not under and not any(name.startswith(READ_BY_PYTHON) for name in environment)
    with _output_file(folder, "stdout") as stdout, _output_file(folder, "stderr") as stderr:
        process = (
            fork(arguments, folder, environment, stdout.fileno(), stderr.fileno())
            if is_forked
            else await asyncio.create_subprocess_exec(
                *under,
                *command(*arguments),
                cwd=folder,
                env={**ENVIRONMENT, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                user=user,
            )
        )
    running = Running(process, Path(stdout.name), Path(stderr.name))
    try:
        yield running
    finally:
        await running.kill()


async def milepost(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, user: str | int | None = None
) -> Ended:
    """Run `milepost` in the folder to its end. It must not end with a traceback."""
    async with started(folder, *arguments, environment=environment, user=user) as running:
        ended = await running.ended()
    assert "Traceback" not in ended.stderr, ended
    return ended


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition is true. Fails the test if that takes too long.

    Nine tenths of the time are left to other tasks, as some conditions connect to PostgreSQL or read a long log.
    """
    async with asyncio.timeout(seconds):
        while True:
            began = time.perf_counter()
            if condition():
                return
            await asyncio.sleep(min(max(POLL_SECONDS, 9 * (time.perf_counter() - began)), MAX_POLL_SECONDS))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "milepost", *arguments]


def _output_file(folder: Path, stream: str) -> IO[bytes]:
    """Open a new file for a process's output, numbered in the order of the processes."""
    said = folder / "said"
    said.mkdir(exist_ok=True)
    return (said / f"{len(list(said.iterdir())):03d}.{stream}").open("xb")
