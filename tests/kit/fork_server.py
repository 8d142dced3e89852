"""Starts the program by forking a process that has imported all of it, in a tenth of the time of a normal start.

Imported as a module, this is the tests' side. Run as a program with the descriptor of a socket, it is the server.
"""

import asyncio
import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

REQUEST_BYTES = 65536
DESCRIPTORS = 3  # sent with each request: stdout, stderr, and a pipe that reports the end
KILLED = -signal.SIGKILL
# structlog imports rich if it is installed. Users do not have it, but a test tool installs it, and then each start of
# the program takes a quarter longer.
WITHOUT_RICH = Path(__file__).parent / "without_rich"
# The environment of the tests must not reach the program.
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(WITHOUT_RICH)}


class Forked:
    """A process that the server started. It has the part of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, pid: int, reported: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reported = reported
        self._has_ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(reported, self._end)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> None:
        """Wait for the end."""
        await self._has_ended.wait()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reported)
        self.returncode = int(os.read(self._reported, REQUEST_BYTES) or KILLED)  # empty if the server has ended
        os.close(self._reported)
        self._has_ended.set()


def fork(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], stdout: int, stderr: int) -> Forked:
    """Start the program in the folder, with the environment added to that of the server."""
    reported, report = os.pipe()
    try:
        server = _server()
        os.umask(mask := os.umask(0))
        request = json.dumps([str(folder), mask, environment, *arguments]).encode()
        socket.send_fds(server, [request], [stdout, stderr, report])
        return Forked(int(server.recv(REQUEST_BYTES)), reported)
    finally:
        os.close(report)


@cache
def _server() -> socket.socket:
    """Start the server. It ends with this process, for whatever reason that ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # signals to the tests' process group must not reach the program
        )
    atexit.register(server.wait)
    atexit.register(ours.close)  # called first
    return ours


# --- the server -------------------------------------------------------------------------------------------------------


class Server:
    """The process that is forked for each start. It ends when the tests do."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._reports: dict[int, int] = {}  # descriptors, by the process whose end they report
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> list[str]:
        """Serve until the process ends. In each forked process, return that process's arguments."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ, self._start)
            selector.register(self._woken, selectors.EVENT_READ, self._report_ends)
            while True:
                for key, _ in selector.select():
                    arguments: list[str] | None = key.data()
                    if arguments is not None:
                        return arguments

    def _start(self) -> list[str] | None:
        request, descriptors, *_ = socket.recv_fds(self._requests, REQUEST_BYTES, DESCRIPTORS)
        if not request:  # the tests have ended
            os._exit(0)
        *outputs, report = descriptors
        folder, mask, environment, *arguments = json.loads(request)
        if pid := os.fork():
            self._reports[pid] = report
            self._requests.send(str(pid).encode())
            for descriptor in outputs:
                os.close(descriptor)
            return None
        self._forget(report)
        os.chdir(folder)
        os.umask(mask)
        os.environ.update(environment)
        for number, descriptor in enumerate(outputs, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return list(arguments)

    def _forget(self, report: int) -> None:
        """Drop the server's state in a forked process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (self._woken, self._wake, self._requests):
            each.close()
        for descriptor in (report, *self._reports.values()):
            os.close(descriptor)

    def _report_ends(self) -> None:
        """Report each process that has ended."""
        self._woken.recv(REQUEST_BYTES)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                report = self._reports.pop(pid)
                with suppress(BrokenPipeError):
                    os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(report)


def prepare() -> None:
    """Import every module of the program and validate settings, so that forked processes need not."""
    program = importlib.import_module("milepost")
    for module in pkgutil.walk_packages(program.__path__, "milepost."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("milepost.settings.model").Settings()  # has Pydantic build what it otherwise builds later
    gc.collect()
    gc.freeze()  # so that collections of the forked processes leave shared memory alone


def run(codes: list[int]) -> None:
    """Run the program, and keep its exit code."""
    try:
        runpy.run_module("milepost", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            codes.append(end.code)
        raise


def end_at_once(codes: list[int]) -> None:
    """End without taking the memory apart: all of it would be copied, which is most of the work of a short command."""
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    exit_codes: list[int] = []
    atexit.register(end_at_once, exit_codes)  # before all others, and therefore called last
    prepare()
    sys.argv = ["milepost", *Server(socket.socket(fileno=int(sys.argv[1]))).serve()]
    sys.path[0] = str(Path.cwd())  # as for `python -m`
    run(exit_codes)
