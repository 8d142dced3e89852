"""Cold processes, measured from outside: the server, the naive script and Milepost, each the way users start it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import asdict

from benchmarks.workload import ACCESS_TOKEN, Workload

ROOT = Path(__file__).parent.parent

# What is installed is compiled. Where nothing may write bytecode, each start would compile a source tree anew.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

Sections = Mapping[str, Mapping[str, object]]  # of a configuration
NO_SECTIONS: Sections = MappingProxyType({})


class Finished(Struct, frozen=True):
    """A process that has succeeded. `started_at` is by the monotonic clock, which all processes share.

    The peak is of resident memory; it is never lower than this process's own when it forked.
    """

    started_at: float
    seconds: float
    cpu_seconds: float
    peak_mib: float


class Served(Struct, frozen=True):
    """The server's requests since the count was reset: how many, and when the first came, by the monotonic clock."""

    requests: int
    first_at: float | None


class Server(Struct, frozen=True):
    """A benchmark server in a process of its own."""

    base_url: str

    def served(self) -> Served:
        """Return the count of requests."""
        return Served(**self._ask("requests"))

    def forget(self) -> None:
        """Reset the count of requests."""
        self._ask("forget")

    def _ask(self, what: str) -> dict[str, int]:
        connection = HTTPConnection(urlsplit(self.base_url).netloc, timeout=30)
        try:
            connection.request("GET", f"/benchmark/{what}")
            answer: dict[str, int] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


@contextmanager
def serving(workload: Workload) -> Iterator[Server]:
    """Serve a workload during the block."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(workload).items()]
    command = [sys.executable, "-m", "benchmarks.server", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            yield Server(process.stdout.readline().strip())
        finally:
            process.terminate()


def naive(server: Server, workload: Workload, directory: Path) -> list[str]:
    """Return the command that copies a workload to `naive.db` in the directory."""
    script, database = str(ROOT / "benchmarks" / "naive.py"), str(directory / "naive.db")
    sizes = [str(workload.batch_size), str(workload.messages)]
    return [sys.executable, script, server.base_url, database, *sizes, *workload.page_ids]


def bound(server: Server, workload: Workload, directory: Path) -> list[str]:
    """Return the command that copies a workload to `bound.db` in the directory, as fast as that can be done."""
    script, database = str(ROOT / "benchmarks" / "bound.py"), str(directory / "bound.db")
    sizes = [str(workload.batch_size), str(workload.messages)]
    return [sys.executable, script, server.base_url, database, *sizes, *workload.page_ids]


def milepost(
    server: Server, workload: Workload, directory: Path, *words: str, changed: Sections = NO_SECTIONS
) -> list[str]:
    """Return a `milepost` command for `milepost.db` in the directory, without limits."""
    store = {"url": f"sqlite:///{directory / 'milepost.db'}"}
    return milepost_into(store, server, workload, directory, *words, changed=changed)


def milepost_into(
    store: Mapping[str, str],
    server: Server,
    workload: Workload,
    directory: Path,
    *words: str,
    changed: Sections = NO_SECTIONS,
) -> list[str]:
    """Return a `milepost` command for a database, without limits but for what is `changed` in the configuration.

    It has to be run in the directory.
    """
    config: dict[str, Any] = {
        "store": store,
        "source": {"kind": "facebook", "base_url": server.base_url, "calls_per_second": 0},
        "http": {"listen": "127.0.0.1:0"},
        "pages": [
            {"id": page_id, "platforms": ["messenger"], "access_token": ACCESS_TOKEN} for page_id in workload.page_ids
        ],
        "sync": {
            "batch_size": workload.batch_size,
            "messages_per_conversation": workload.messages,
            "max_run_duration": "1h",
            "max_batches_per_run": 1_000_000,
        },
    }
    for section, keys in changed.items():
        config[section] = {**config[section], **keys}
    path = directory / "config.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    # structlog loads rich where it is installed. It comes with our tools, but not with Milepost.
    (directory / "rich.py").write_text("raise ImportError")
    return [sys.executable, "-m", "milepost", *words, "-c", str(path)]


def run(command: Sequence[str], directory: Path) -> Finished:
    """Run a command to its end. Raises SystemExit with its last output if it fails."""
    words = directory / "output.txt"
    with words.open("wb") as output:
        started_at = time.monotonic()
        process = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started_at
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        last = "\n".join(words.read_text(errors="replace").splitlines()[-5:])
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    return Finished(started_at, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def cpu_seconds(process_id: int) -> float:
    """Return how long a process that runs has computed so far, in all of its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime
