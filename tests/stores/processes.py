"""Starts `stores.commit_forever` in a process of its own, which can be killed, traced or lack permissions."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.postgres import ROLES_PASSWORD
from kit.power_cut import tracing

TESTS = Path(__file__).parent.parent
SECONDS = 60


def command(path: Path, *options: str, streams: int = 1, commits: int = 1) -> list[str]:
    return [*committing(f"sqlite:///{path}", streams=streams, commits=commits), *options]


def committing(url: str, *, streams: int = 1, commits: int = 1) -> list[str]:
    return [sys.executable, "-m", "stores.commit_forever", url, f"--streams={streams}", f"--commits={commits}"]


def injecting(fault: str) -> list[str]:
    """Return the prefix of a command that makes system calls fail by strace, as in `fdatasync:error=EIO:when=3`.

    Skips the test if strace is missing or may not trace.
    """
    call = fault.split(":", 1)[0]
    return [tracing(), "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", "PGPASSWORD": ROLES_PASSWORD}


def outcome(arguments: list[str], *, user: str | int | None = None) -> list[str]:
    """Run the program to its end and return its output. It must not die of an unhandled error."""
    done = subprocess.run(
        arguments, env=environment(), cwd="/", user=user, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@contextmanager
def a_child() -> Iterator[None]:
    """Run a child process that lives on and inherits every descriptor that children do.

    The block begins when the child has printed something: `Popen` may return before the kernel has closed the
    descriptors that the child does not inherit.
    """
    waiting = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            yield
        finally:
            child.kill()


@contextmanager
def running(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run until the end of the block, then kill it."""
    with subprocess.Popen(arguments, env=environment(), cwd="/", stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """Wait until so many lines were printed, and return them."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]
