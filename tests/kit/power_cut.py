"""What a power cut leaves of a process's files: its writes and syncs are recorded, and what was not synced is lost.

The record is strace's, so that any process can be cut off as it is, at any of its system calls, without rights.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct

CALLS = "pwrite64,write,ftruncate,fsync,fdatasync,unlink"

_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>\d+)$")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_TEXT = re.compile(r'"([^"]*)"')
_ON_DESCRIPTOR = re.compile(r'(?P<number>\d+)<(?P<path>[^>]*)>(?:, "(?P<data>[^"]*)")?(?:, \d+)??(?:, (?P<last>\d+))?$')


def tracing() -> str:
    """Give the path of strace. Skips the test where there is none, or where it may not trace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    may_trace = subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if may_trace.returncode != 0:
        pytest.skip(f"strace may not trace here: {may_trace.stderr.strip()}")
    return strace


def recording(record: Path) -> list[str]:
    """Give the beginning of a command whose writes and syncs are recorded in a file."""
    limits = ["-s", str(2**24), "-e", f"trace={CALLS}", "-e", "signal=none"]
    return [tracing(), "-f", "-qq", "-y", "-xx", *limits, "-o", str(record)]  # -xx: every text in hexadecimal


class Call(Struct, frozen=True):
    """A system call that succeeded; `data` is what was written, `number` its last argument."""

    name: str
    path: str
    descriptor: int | None = None
    data: bytes = b""
    number: int = 0

    @property
    def is_sync(self) -> bool:
        """Whether it waits for the disk."""
        return self.name in ("fsync", "fdatasync")

    @property
    def is_printed(self) -> bool:
        """Whether it writes to the standard output."""
        return self.descriptor == 1


def recorded(record: Path) -> Iterator[Call]:
    """Read a record, each call at its end: until then nothing of it can be relied on."""
    unfinished: dict[str, str] = {}
    for line in record.read_text("ascii").splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := _RESUMED.match(text):
            text = unfinished.pop(thread) + text[resumed.end() :]
        if found := _CALL.match(text):
            yield _call(found["name"], found["arguments"].strip(), int(found["result"]))


def _call(name: str, arguments: str, result: int) -> Call:
    if name == "unlink":
        (path,) = _TEXT.findall(arguments)
        return Call(name, _bytes(path).decode())
    found = _ON_DESCRIPTOR.match(arguments)
    assert found is not None, f"{name}({arguments[:200]})"
    data = _bytes(found["data"] or "")[:result]
    return Call(name, _bytes(found["path"]).decode(), int(found["number"]), data, int(found["last"] or 0))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


class _File:
    """What the disk holds for certain, and what was done since, of which the disk may hold any part."""

    def __init__(self) -> None:
        self.synced = b""
        self.unsynced: list[Call] = []

    def sync(self) -> None:
        self.synced = self.after(self.unsynced)
        self.unsynced = []

    def after(self, calls: list[Call]) -> bytes:
        content = bytearray(self.synced)
        for call in calls:
            if call.name == "ftruncate":
                del content[call.number :]
                end = call.number
            else:
                end = call.number + len(call.data)
            content.extend(bytes(max(0, end - len(content))))
            content[call.number : end] = call.data
        return bytes(content)


class Disk:
    """The files of one directory, which was empty. A name is as durable as the last sync of the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._named: dict[str, _File] = {}

    def follow(self, call: Call) -> None:
        """Do what a call did."""
        path = Path(call.path)
        if path == self._directory and call.is_sync:
            self._named = dict(self._files)
        if path.parent != self._directory:
            return
        assert call.name != "write", f"it is not recorded where {path} was written"
        file = self._files.setdefault(path.name, _File())
        if call.name == "unlink":
            del self._files[path.name]
        elif call.is_sync:
            file.sync()
        else:
            file.unsynced.append(call)

    def cut(self, onto: Path, luck: Random | None = None) -> None:
        """Write what is left after a power cut into a directory: of what was not synced nothing, or what luck keeps."""
        onto.mkdir()
        for name, file in self._named.items():
            kept = [] if luck is None else [call for call in file.unsynced if luck.random() < 0.5]
            (onto / name).write_bytes(file.after(kept))
