"""A pseudo-terminal: as a program's stderr, for what the program draws on it, or as its stdin, to answer questions."""

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

from kit.binary import PATIENCE_SECONDS, Ended, command
from kit.fork_server import ENVIRONMENT

COLUMNS = 160


async def milepost_on_terminal(folder: Path, *arguments: str) -> Ended:
    """Run `milepost` with a terminal for stderr and a pipe for stdout, as `milepost sync > summary.txt` does."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        drawing = asyncio.create_task(asyncio.to_thread(_drawn, ours))
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            cwd=folder,
            env={**ENVIRONMENT, "TERM": "xterm-256color"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
    finally:
        os.close(theirs)  # the terminal closes with its last user
    async with asyncio.timeout(PATIENCE_SECONDS):
        stdout, _ = await process.communicate()
        drawn = await drawing
    os.close(ours)
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), drawn)


def answered_on_terminal(folder: Path, answer: str, *arguments: str) -> Ended:
    """Run `milepost` with a terminal for stdin, on which its question has been answered."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = subprocess.run(
            command(*arguments),
            cwd=folder,
            env=ENVIRONMENT,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return Ended(done.returncode, done.stdout, done.stderr)


def _drawn(descriptor: int) -> str:
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # EIO: the other end is closed
            piece = b""
        if not piece:
            return b"".join(pieces).decode()
        pieces.append(piece)
