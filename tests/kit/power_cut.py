"""Simulates what a power cut leaves of a process's files: writes and syncs are recorded, and unsynced data is lost.

The record comes from strace, so any process can be cut off at any of its system calls, without privileges.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct

from kit.needs import demand

CALLS = "pwrite64,write,ftruncate,fsync,fdatasync,unlink,rename"

_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>\d+)$")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_TEXT = re.compile(r'"([^"]*)"')
_ON_DESCRIPTOR = re.compile(r'(?P<number>\d+)<(?P<path>[^>]*)>(?:, "(?P<data>[^"]*)")?(?:, \d+)??(?:, (?P<last>\d+))?$')


def tracing() -> str:
    """Return the path of strace. Skips the test if it is missing or may not trace."""
    demand("strace")
    strace = shutil.which("strace") or ""
    may_trace = subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if may_trace.returncode != 0:
        pytest.skip(f"strace may not trace here, which takes the capability SYS_PTRACE: {may_trace.stderr.strip()}")
    return strace


def recording(record: Path) -> list[str]:
    """Return the prefix of a command whose writes and syncs are recorded in a file."""
    limits = ["-s", str(2**24), "-e", f"trace={CALLS}", "-e", "signal=none"]
    return [tracing(), "-f", "-qq", "-y", "-xx", *limits, "-o", str(record)]  # -xx: all strings in hexadecimal


class Call(Struct, frozen=True):
    """A successful system call; `data` is what was written, `number` the last argument, `onto` the new name."""

    name: str
    path: str
    onto: str = ""
    descriptor: int | None = None
    data: bytes = b""
    number: int = 0

    @property
    def is_sync(self) -> bool:
        """Whether the call waits for the disk."""
        return self.name in ("fsync", "fdatasync")

    @property
    def is_printed(self) -> bool:
        """Whether the call writes to standard output."""
        return self.descriptor == 1


def recorded(record: Path) -> Iterator[Call]:
    """Read a record, each call at its end: until then it has no guaranteed effect."""
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
    if name in ("unlink", "rename"):
        path, *onto = (_bytes(text).decode() for text in _TEXT.findall(arguments))
        return Call(name, path, onto[0] if onto else "")
    found = _ON_DESCRIPTOR.match(arguments)
    assert found is not None, f"{name}({arguments[:200]})"
    data = _bytes(found["data"] or "")[:result]
    path, descriptor, last = _bytes(found["path"]).decode(), int(found["number"]), int(found["last"] or 0)
    return Call(name, path, descriptor=descriptor, data=data, number=last)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


class _File:
    """A file's content that is certainly on the disk, and later writes, any part of which may be."""

    def __init__(self) -> None:
        self.size = 0
        self.synced = b""
        self.unsynced: list[tuple[int, bytes | None]] = []  # offset and data; None: the file ends there

    def do(self, call: Call) -> None:
        """Apply a call that writes. Without an offset, data is appended."""
        if call.name == "ftruncate":
            self.unsynced.append((call.number, None))
            self.size = call.number
        else:
            start = self.size if call.name == "write" else call.number
            self.unsynced.append((start, call.data))
            self.size = max(self.size, start + len(call.data))

    def sync(self) -> None:
        """Write everything to the disk."""
        self.synced, self.unsynced = self.after(self.unsynced), []

    def after(self, changes: list[tuple[int, bytes | None]]) -> bytes:
        """Return the file's content with these writes applied."""
        content = bytearray(self.synced)
        for start, data in changes:
            content.extend(bytes(max(0, start - len(content))))
            end = len(content) if data is None else start + len(data)
            content[start:end] = data or b""
        return bytes(content)


class Disk:
    """The files of one directory, initially empty. A name is as durable as the directory's last sync."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._named: dict[str, _File] = {}

    def follow(self, call: Call) -> None:
        """Apply a call."""
        path = Path(call.path)
        if path == self._directory and call.is_sync:
            self._named = dict(self._files)
        if path.parent != self._directory:
            return
        file = self._files.setdefault(path.name, _File())
        if call.name in ("unlink", "rename"):
            del self._files[path.name]
            if call.onto:
                self._files[Path(call.onto).name] = file
        elif call.is_sync:
            file.sync()
        else:
            file.do(call)

    def killed(self, onto: Path) -> Path:
        """Return a new directory with what a kill of the process leaves: every write, synced or not."""
        onto.mkdir()
        for name, file in self._files.items():
            (onto / name).write_bytes(file.after(file.unsynced))
        return onto

    def cut(self, onto: Path, jitter: Random | None = None) -> Path:
        """Return a new directory with what a power cut leaves: nothing of the unsynced writes, or a random part."""
        onto.mkdir()
        named = self._named if jitter is None or jitter.random() < 0.5 else self._files
        for name, file in named.items():
            kept = [] if jitter is None else [change for change in file.unsynced if jitter.random() < 0.5]
            (onto / name).write_bytes(file.after(kept))
        return onto
