"""PgBouncer in transaction mode in front of a temporary PostgreSQL; Debian's package is `pgbouncer`."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from kit.needs import needs
from kit.ports import unused_port
from kit.postgres import POLL_SECONDS, ROLE, START_SECONDS, Account, Database
from kit.tether import Tether
from milepost.stores.url import StoreUrl

CONFIGURATION = """
[databases]
{database} = host={host} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
server_login_retry = 0.1
"""

needs_pgbouncer = needs("pgbouncer")


class PgBouncer:
    """A pooler in front of one database."""

    def __init__(self, account: Account, folder: Path, database: Database) -> None:
        self.port = unused_port()
        self.database = database
        self._account = account
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._tether: Tether | None = None

    @property
    def store_url(self) -> StoreUrl:
        """The URL of the database through the pooler."""
        url = f"postgresql://{ROLE}@127.0.0.1:{self.port}/{self.database.name}"
        return StoreUrl(url, self.database.password, is_pooled=True)

    def configure(self, pool_size: int) -> None:
        """Write its files. All clients share up to `pool_size` sessions of the server."""
        server = self.database.server
        text = CONFIGURATION.format(
            database=self.database.name,
            host=server.folder,
            server_port=server.port,
            port=self.port,
            folder=self._folder,
            pool_size=pool_size,
        )
        (self._folder / "pgbouncer.ini").write_text(text)
        (self._folder / "users").write_text(f'"{ROLE}" "{self.database.password}"\n')

    def start(self) -> None:
        """Start the pooler, and wait until it answers."""
        program = shutil.which("pgbouncer")
        assert program is not None
        self._process = self._account.launch([program, self._folder / "pgbouncer.ini"], self._folder)
        self._tether = Tether(self._process.pid, signal.SIGTERM)
        ends_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"PgBouncer did not start:\n{(self._folder / 'log').read_text()[-3000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop the pooler at once, with all connections through it."""
        if self._tether is not None:
            self._tether.release()
            self._tether = None
        if self._process is not None:
            self._process.terminate()  # 1.18: "immediate shutdown"
            self._process.wait(START_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(
                self.store_url.url.partition("?")[0], password=self.store_url.password, connect_timeout=5
            ).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def pooled(database: Database, *, pool_size: int = 3) -> Iterator[PgBouncer]:
    """Run PgBouncer in front of the database during the block."""
    account = Account()
    with account.folder() as folder:
        pooler = PgBouncer(account, folder, database)
        pooler.configure(pool_size)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.stop()
