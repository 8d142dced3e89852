"""Milepost into PostgreSQL, beside itself into SQLite and beside dlt into the same PostgreSQL: cold processes, in turn.

    python -m benchmarks.postgresql --dlt-python PATH     20,000 conversations, medians of three rounds
    python -m benchmarks.postgresql                       without dlt
    python -m benchmarks.postgresql --quick               a twentieth of the size, once, not judged

The server is a throw-away one of tests/kit, which waits for the disk at every commit. PATH is a Python that has
`dlt[postgres]`. Exit code 1: a ratio is not what is wanted.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from msgspec import Struct

from benchmarks.compare import check
from benchmarks.process import Finished, Server, milepost, milepost_into, run, serving
from benchmarks.workload import Workload

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.postgres import Database, fresh_database, running

SIZE = 20_000
QUICK_SHARE = 20
DURABLE = {"fsync": "on", "full_page_writes": "on"}
DLT_TABLES = {"conversations": "conversations", "contact_interaction_events": "conversations__messages__data"}
MOST_OF_SQLITE = 1.8
LEAST_OF_DLT = 2.5


class Round(Struct, frozen=True):
    """Every contender, once. dlt is None where there is none."""

    sqlite: Finished
    postgresql: Finished
    again: Finished
    dlt: Finished | None


def play(server: Server, workload: Workload, database: Database, dlt_python: str | None) -> Round:
    """Copy the workload with each. Raises SystemExit if a table does not hold what the server has."""
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        by_sqlite = run(milepost(server, workload, directory, "sync"), directory)
        check(directory / "milepost.db", workload)
        store = {"url": database.url, "password": database.password}
        by_postgresql = run(milepost_into(store, server, workload, directory, "sync"), directory)
        counted(database, "milepost", workload, {table: table for table in workload.rows})
        again = run(milepost_into(store, server, workload, directory, "sync", "--full"), directory)
        by_dlt = None
        if dlt_python is not None:
            url = database.url.replace("@", f":{database.password}@", 1)
            script = str(Path(__file__).parent / "dlt_merge.py")
            sizes = [str(workload.batch_size), str(workload.messages)]
            by_dlt = run([dlt_python, script, server.base_url, url, *sizes, *workload.page_ids], directory)
            counted(database, "by_dlt", workload, DLT_TABLES)
    return Round(by_sqlite, by_postgresql, again, by_dlt)


def counted(database: Database, schema: str, workload: Workload, tables: Mapping[str, str]) -> None:
    """Compare the numbers of rows with what the server has. Raises SystemExit where they differ."""
    found = {name: database.sql(f"SELECT count(*) FROM {schema}.{table}")[0][0] for name, table in tables.items()}
    wanted = {name: workload.rows[name] for name in tables}
    if found != wanted:
        raise SystemExit(f"{schema} holds {found}, the server has {wanted}")


def told(name: str, results: list[Finished], workload: Workload) -> str:
    """Give a contender's line of the table."""
    seconds = median(each.seconds for each in results)
    cpu = median(each.cpu_seconds for each in results) / workload.total * 1e6
    return f"| {name} | {seconds:.2f} | {cpu:.0f} | {median(each.peak_mib for each in results):.0f} |"


def main() -> None:
    """Run the rounds, print the table and judge the ratios."""
    parser = argparse.ArgumentParser(description="Compare Milepost's stores, and dlt.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size, once, not judged")
    parser.add_argument("--dlt-python", metavar="PATH", help="a Python that has dlt[postgres]")
    options = parser.parse_args()
    rounds, size = (1, SIZE // QUICK_SHARE) if options.quick else (options.rounds, SIZE)
    workload = Workload(1, size)
    played: list[Round] = []
    with running("newest", **DURABLE) as postgres, serving(workload) as server:
        for _ in range(rounds):
            with fresh_database(postgres, template=None) as database:
                played.append(play(server, workload, database, options.dlt_python))
    print("| | s | µs CPU each, of the client | MiB |\n|---|---|---|---|")
    print(told("Milepost, SQLite", [each.sqlite for each in played], workload))
    print(told("Milepost, PostgreSQL", [each.postgresql for each in played], workload))
    print(told("Milepost, PostgreSQL, again, nothing changed", [each.again for each in played], workload))
    of_sqlite = median(each.postgresql.seconds / each.sqlite.seconds for each in played)
    print(f"\nPostgreSQL takes {of_sqlite:.2f} times as long as SQLite (wanted: at most {MOST_OF_SQLITE})")
    is_as_wanted = of_sqlite <= MOST_OF_SQLITE
    by_dlt = [each.dlt for each in played if each.dlt is not None]
    if by_dlt:
        ratio = median(each.dlt.seconds / each.postgresql.seconds for each in played if each.dlt is not None)
        print(told("dlt, PostgreSQL", by_dlt, workload))
        print(f"\nMilepost is {ratio:.2f} times as fast as dlt (wanted: at least {LEAST_OF_DLT})")
        is_as_wanted &= ratio >= LEAST_OF_DLT
    sys.exit(0 if options.quick or is_as_wanted else 1)


if __name__ == "__main__":
    main()
