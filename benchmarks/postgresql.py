"""Milepost on PostgreSQL compared with Milepost on SQLite and dlt on the same PostgreSQL: cold processes, in turn.

    python -m benchmarks.postgresql                    20,000 conversations, medians of three rounds
    python -m benchmarks.postgresql --dlt              with dlt, which pip installs for that time only
    python -m benchmarks.postgresql --oldest           on the oldest PostgreSQL that is supported
    python -m benchmarks.postgresql --size 1000000     whether the last batches take as long as the first
    python -m benchmarks.postgresql --quick            a twentieth of the size, once, without judging

The server is a temporary one from tests/kit, with durable commits; nobody analyses its tables. Exit code 1: a ratio
misses its target. `benchmarks.scale_out` measures several workers.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from msgspec import Struct

from benchmarks.compare import check
from benchmarks.dlt_environment import dlt, dlt_python
from benchmarks.process import Finished, Server, milepost, milepost_into, run, serving
from benchmarks.workload import Workload

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.postgres import Database, Release, fresh_database, running
from kit.postgres import Server as PostgresServer

SIZE = 20_000
QUICK_SHARE = 20
DURABLE = {"fsync": "on", "full_page_writes": "on"}
DLT_TABLES = {"conversations": "conversations", "contact_interaction_events": "conversations__messages__data"}
MOST_OF_SQLITE = 1.8
LEAST_OF_DLT = 2.5
MOST_OF_EARLY_BATCHES = 1.3
RECORDED = """
SELECT extract(epoch FROM recorded_at)::float8 FROM milepost.journal WHERE type = 'batch_stored' ORDER BY seq
"""


class Round(Struct, frozen=True):
    """One run of each contender; None for dlt if it is not available.

    `server_seconds` is the server's processor time for PostgreSQL's run, and `growth` what its last batches took,
    compared with early ones.
    """

    sqlite: Finished
    postgresql: Finished
    again: Finished
    dlt: Finished | None
    server_seconds: float
    growth: float


def play(server: Server, workload: Workload, database: Database, python: str | None) -> Round:
    """Copy the workload with each, with dlt if a Python has it.

    Raises SystemExit if the tables do not match the server.
    """
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        by_sqlite = run(milepost(server, workload, directory, "sync"), directory)
        check(directory / "milepost.db", workload.rows)
        store = {"url": database.url, "password": database.password}
        before = processor_seconds(database.server)
        by_postgresql = run(milepost_into(store, server, workload, directory, "sync"), directory)
        server_seconds = processor_seconds(database.server) - before
        recorded = [at for (at,) in database.sql(RECORDED)]
        counted(database, "milepost", workload, {table: table for table in workload.rows})
        again = run(milepost_into(store, server, workload, directory, "sync", "--full"), directory)
        by_dlt = None
        if python is not None:
            url = database.url.replace("@", f":{database.password}@", 1)
            by_dlt = run(dlt(python, server, workload, url), directory)
            counted(database, "by_dlt", workload, DLT_TABLES)
    return Round(by_sqlite, by_postgresql, again, by_dlt, server_seconds, growth_of(recorded))


def growth_of(recorded: list[float]) -> float:
    """Return how long the last quarter of the batches took, compared with the second, when everything had started."""
    quarter = len(recorded) // 4
    return (recorded[-1] - recorded[-1 - quarter]) / max(recorded[2 * quarter] - recorded[quarter], 0.001)


def processor_seconds(server: PostgresServer) -> float:
    """Return the processor time of the server's sessions that have ended."""
    stat = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


def counted(database: Database, schema: str, workload: Workload, tables: Mapping[str, str]) -> None:
    """Compare the row counts with the server's. Raises SystemExit if they differ."""
    found = {name: database.sql(f"SELECT count(*) FROM {schema}.{table}")[0][0] for name, table in tables.items()}
    wanted = {name: workload.rows[name] for name in tables}
    if found != wanted:
        raise SystemExit(f"{schema} holds {found}, the server has {wanted}")


def row(name: str, results: list[Finished], workload: Workload) -> str:
    """Return a contender's line of the table."""
    seconds = median(each.seconds for each in results)
    cpu = median(each.cpu_seconds for each in results) / workload.total * 1e6
    return f"| {name} | {seconds:.2f} | {cpu:.0f} | {median(each.peak_mib for each in results):.0f} |"


def judge(rounds: list[Round], workload: Workload) -> bool:
    """Print the table and the ratios, and return whether they meet their targets."""
    print("| | s | client µs CPU each | MiB |\n|---|---|---|---|")
    print(row("Milepost, SQLite", [each.sqlite for each in rounds], workload))
    print(row("Milepost, PostgreSQL", [each.postgresql for each in rounds], workload))
    print(row("Milepost, PostgreSQL, again, unchanged", [each.again for each in rounds], workload))
    by_dlt = [each.dlt for each in rounds if each.dlt is not None]
    if by_dlt:
        print(row("dlt, PostgreSQL", by_dlt, workload))
    of_server = median(each.server_seconds for each in rounds) / workload.total * 1e6
    print(f"\nThe server takes {of_server:.0f} µs of CPU for each conversation")
    of_sqlite = median(each.postgresql.seconds / each.sqlite.seconds for each in rounds)
    print(f"PostgreSQL takes {of_sqlite:.2f} times as long as SQLite (target: at most {MOST_OF_SQLITE})")
    growth = median(each.growth for each in rounds)
    print(f"Its last batches take {growth:.2f} times as long as early ones (target: at most {MOST_OF_EARLY_BATCHES})")
    meets_targets = of_sqlite <= MOST_OF_SQLITE and growth <= MOST_OF_EARLY_BATCHES
    if by_dlt:
        ratio = median(each.dlt.seconds / each.postgresql.seconds for each in rounds if each.dlt is not None)
        print(f"Milepost is {ratio:.2f} times as fast as dlt (target: at least {LEAST_OF_DLT})")
        meets_targets &= ratio >= LEAST_OF_DLT
    return meets_targets


def main() -> None:
    """Run the rounds, print the table and judge the ratios."""
    parser = argparse.ArgumentParser(description="Compare Milepost's stores, and dlt.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=SIZE, help="conversations")
    parser.add_argument("--oldest", action="store_true", help="on the oldest PostgreSQL that is supported")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size, once, without judging")
    parser.add_argument("--dlt", action="store_true", help="with dlt, if pip can install it")
    options = parser.parse_args()
    rounds, size = (1, options.size // QUICK_SHARE) if options.quick else (options.rounds, options.size)
    workload = Workload(1, size)
    rounds_played: list[Round] = []
    release: Release = "oldest" if options.oldest else "newest"
    with (
        dlt_python(is_wanted=options.dlt) as python,
        running(release, **DURABLE) as postgres,
        serving(workload) as server,
    ):
        for _ in range(rounds):
            with fresh_database(postgres, template=None) as database:
                rounds_played.append(play(server, workload, database, python))
    meets_targets = judge(rounds_played, workload)
    sys.exit(0 if options.quick or meets_targets else 1)


if __name__ == "__main__":
    main()
