"""The PostgreSQL servers of the tests do not outlive them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from kit.postgres import Database, state_of, wait_until

TESTS = Path(__file__).parents[1]
# A test run with a server that has a backend in an endless computation.
RUN = """
import sys, threading, time
from pathlib import Path
from kit.postgres import running

with running() as server:
    computing = "SELECT count(*) FROM generate_series(1, 1000000000000)"
    threading.Thread(target=lambda: server.sql("SET statement_timeout = 0;" + computing), daemon=True).start()
    sought = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND pid <> pg_backend_pid()"
    while not server.sql(sought):
        time.sleep(0.01)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    print(server.pid, *children, flush=True)
    sys.stdin.read()
"""


def test_a_server_and_its_backends_end_with_a_run_that_is_killed() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert run.stdin is not None
    assert run.stdout is not None
    with run.stdin, run.stdout:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) > 1
        os.killpg(run.pid, signal.SIGKILL)  # as `timeout` does, and a terminal that is closed
        run.wait()
    wait_until(lambda: all(state_of(pid) in {None, "Z"} for pid in pids))


def test_no_statement_runs_for_ever(database: Database) -> None:
    """A backend whose server was killed would otherwise go on computing."""
    with psycopg.connect(database.url, password=database.password) as connection:
        (seconds,) = connection.execute("SELECT setting::int / 1000 FROM pg_settings WHERE name = 'statement_timeout'")
    assert seconds == (120,)
