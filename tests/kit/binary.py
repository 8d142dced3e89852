"""The real program as users run it: `python -m milepost` in a folder of its own, as a process of its own."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.005
# What the machine that runs the tests happens to set must not reach the program.
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class Ended:
    """What a process left: its exit code and all that it said."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout ---\n{self.stdout}\n--- stderr ---\n{self.stderr}"


class Running:
    """A process under way. What it says goes into files, so that it never waits for a reader."""

    def __init__(self, process: asyncio.subprocess.Process, stdout: Path, stderr: Path) -> None:
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
        """What it has said on stderr by now."""
        return self._stderr.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it is too late for one."""
        if not self.has_ended:
            self._process.send_signal(number)

    async def says(self, text: str) -> str:
        """Wait until a line of stderr contains the text, and give the line."""
        await until(lambda: self.has_ended or text in self._stderr.read_text())
        line = next((line for line in self._stderr.read_text().splitlines() if text in line), None)
        assert line is not None, f"ended without saying {text!r}\n{self._all_said()}"
        return line

    async def url(self) -> str:
        """Wait until the daemon tells where it serves HTTP, and give the URL."""
        found = re.search(r"http=(http\S+)", await self.says("http=http"))
        assert found is not None
        return found[1]

    async def ended(self, seconds: float = PATIENCE_SECONDS) -> Ended:
        """Wait for the end. What does not end in time is killed, and fails the test."""
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"did not end within {seconds:g} s\n{self._all_said()}") from None
        return self._all_said()

    async def kill(self) -> Ended:
        """Kill it without a chance to clean up."""
        self.signal(signal.SIGKILL)
        await self._process.wait()
        return self._all_said()

    def _all_said(self) -> Ended:
        code = self._process.returncode
        return Ended(-1 if code is None else code, self._stdout.read_text(), self._stderr.read_text())


@asynccontextmanager
async def started(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, user: str | int | None = None
) -> AsyncIterator[Running]:
    """Start `milepost` in the folder; at the end of the block it is killed, if it still runs."""
    with _said(folder, "stdout") as stdout, _said(folder, "stderr") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            cwd=folder,
            env={**ENVIRONMENT, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            user=user,
        )
    running = Running(process, Path(stdout.name), Path(stderr.name))
    try:
        yield running
    finally:
        await running.kill()


async def milepost(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, user: str | int | None = None
) -> Ended:
    """Run `milepost` in the folder to its end. It must not have died of anything that the user is not told."""
    async with started(folder, *arguments, environment=environment, user=user) as running:
        ended = await running.ended()
    assert "Traceback" not in ended.stderr, ended
    return ended


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so. What is not so in time fails the test."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (another process brings it about, without an event of ours)
            await asyncio.sleep(POLL_SECONDS)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "milepost", *arguments]


def _said(folder: Path, stream: str) -> IO[bytes]:
    """Open a new file for what a process says, in the order of the processes."""
    said = folder / "said"
    said.mkdir(exist_ok=True)
    return (said / f"{len(list(said.iterdir())):03d}.{stream}").open("xb")
