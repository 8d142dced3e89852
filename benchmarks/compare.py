"""Milepost compared with the naive script and a bound: cold processes, taking turns, so that noise affects all alike.

    python -m benchmarks.compare                 every workload, medians of three rounds
    python -m benchmarks.compare --dlt           with dlt, which pip installs for that time only
    python -m benchmarks.compare --quick         a twentieth of the size, once, to see that everything works
    python -m benchmarks.compare --only 1x20k    the workloads whose name contains that

Absolute times depend on the machine and the day; compare the ratios. Exit code 1: a ratio is below its target.
"""

import argparse
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.dlt_environment import dlt, dlt_python
from benchmarks.process import Finished, Server, bound, milepost, naive, run, serving
from benchmarks.workload import Workload

LATE = 0.05  # seconds; about the Graph API's latency from nearby
QUICK_SHARE = 20
SLOWEST = 1.0  # times as fast as the naive script and as dlt
MAX_QUIET_REQUESTS = 2  # of an incremental sweep that finds nothing new, per stream


class Case(Struct, frozen=True):
    """A workload, Milepost's target speed relative to the bound, and whether it was copied before."""

    name: str
    workload: Workload
    of_bound: float
    is_copied: bool = False


CASES = (
    Case("1x100k", Workload(1, 100_000), 0.85),
    Case("1x20k", Workload(1, 20_000), 0.65),
    Case("8x2500", Workload(8, 2_500), 0.65),
    Case("1x20k at 50 ms", Workload(1, 20_000, latency_seconds=LATE), 0.97),
    Case("8x2500 at 50 ms", Workload(8, 2_500, latency_seconds=LATE), 0.9),
    Case("50x400 at 50 ms", Workload(50, 400, latency_seconds=LATE), 0.65),
    Case("1x20k with 20 messages", Workload(1, 20_000, messages=20), 0.8),
    Case("1x20k again, unchanged", Workload(1, 20_000), 0.75, is_copied=True),
)


class Round(Struct, frozen=True):
    """One run of each contender; None for dlt if it is not compared."""

    naive: Finished
    bound: Finished
    milepost: Finished
    dlt: Finished | None


def compare(case: Case, rounds: int, python: str | None) -> list[Round]:
    """Run a case, with dlt if a Python has it. Raises SystemExit if the tables do not match the server."""
    with serving(case.workload) as server, TemporaryDirectory() as temporary:
        copied = Path(temporary)
        if case.is_copied:
            _round(server, case.workload, copied, python)
            return [_round(server, case.workload, copied, python) for _ in range(rounds)]
        return [_cold_round(server, case.workload, python) for _ in range(rounds)]


def _cold_round(server: Server, workload: Workload, python: str | None) -> Round:
    with TemporaryDirectory() as temporary:
        return _round(server, workload, Path(temporary), python)


def _round(server: Server, workload: Workload, directory: Path, python: str | None) -> Round:
    by_naive = run(naive(server, workload, directory), directory)
    by_bound = run(bound(server, workload, directory), directory)
    by_milepost = run(milepost(server, workload, directory, "sync", "--full"), directory)
    for name in ("naive.db", "bound.db", "milepost.db"):
        check(directory / name, workload.rows)
    if python is None:
        return Round(by_naive, by_bound, by_milepost, None)
    by_dlt = run(dlt(python, server, workload, f"sqlite:///{directory / 'dlt.db'}"), directory)
    check(directory / "dlt.db", {"conversations": workload.total})
    return Round(by_naive, by_bound, by_milepost, by_dlt)


def check(database: Path, rows: Mapping[str, int]) -> None:
    """Compare the row counts of tables with the server's. Raises SystemExit if they differ."""
    with closing(sqlite3.connect(database)) as connection:
        found = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in rows}
    if found != rows:
        raise SystemExit(f"{database.name} holds {found}, the server has {rows}")


HEAD = """\
| workload | naive: s | µs CPU each | MiB | bound: s | µs CPU each | MiB | Milepost: s | µs CPU each | MiB | dlt: s \
| times naive | times dlt | of the bound | target |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(case: Case, rounds: list[Round]) -> tuple[str, bool]:
    """Return a case's line of the table, and whether its ratios meet the targets."""
    cells = [case.name]
    for results in (
        [each.naive for each in rounds],
        [each.bound for each in rounds],
        [each.milepost for each in rounds],
    ):
        cells += [
            f"{median(each.seconds for each in results):.2f}",
            f"{median(each.cpu_seconds for each in results) / case.workload.total * 1e6:.0f}",
            f"{median(each.peak_mib for each in results):.0f}",
        ]
    of_naive = median(each.naive.seconds / each.milepost.seconds for each in rounds)
    of_bound = median(each.bound.seconds / each.milepost.seconds for each in rounds)
    by_dlt = [each.dlt.seconds for each in rounds if each.dlt is not None]
    of_dlt = [each.dlt.seconds / each.milepost.seconds for each in rounds if each.dlt is not None]
    cells += [f"{median(by_dlt):.2f}" if by_dlt else "", f"{of_naive:.2f}", f"{median(of_dlt):.2f}" if of_dlt else ""]
    is_fast = of_bound >= case.of_bound and min(of_naive, median(of_dlt or [of_naive])) >= SLOWEST
    return f"| {' | '.join(cells)} | {of_bound:.2f} | {case.of_bound:.2f} |", is_fast


def quiet(workload: Workload, rounds: int) -> bool:
    """Measure an incremental sweep that finds nothing new; return whether its number of requests meets the target."""
    runs, requests = [], 0
    with serving(workload) as server, TemporaryDirectory() as temporary:
        directory = Path(temporary)
        run(milepost(server, workload, directory, "sync"), directory)
        for _ in range(rounds):
            server.forget()
            runs.append(run(milepost(server, workload, directory, "sync"), directory))
            requests = max(requests, server.served().requests)
        check(directory / "milepost.db", workload.rows)
    seconds, computed = median(each.seconds for each in runs), min(each.cpu_seconds for each in runs)
    took = f"{seconds:.2f} s from exec to exit, {computed:.2f} s of the processor at least"
    print(f"\nNothing new among {workload.total:,}: {requests} request(s), {took}")
    return requests <= MAX_QUIET_REQUESTS * workload.streams


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description="Compare Milepost with a plain script.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size, once, without judging")
    parser.add_argument("--dlt", action="store_true", help="with dlt, if pip can install it")
    parser.add_argument("--only", default="", help="only workloads whose name contains this")
    options = parser.parse_args()
    rounds, share = (1, QUICK_SHARE) if options.quick else (options.rounds, 1)
    print(HEAD, flush=True)
    meets_targets = True
    with dlt_python(is_wanted=options.dlt) as python:
        for case in CASES:
            if options.only in case.name:
                workload = replace(case.workload, conversations=case.workload.conversations // share)
                sized = replace(case, workload=workload)
                line, is_fast = row(sized, compare(sized, rounds, python))
                print(line, flush=True)
                meets_targets &= is_fast
    meets_targets &= quiet(Workload(1, 20_000 // share), rounds)
    sys.exit(0 if options.quick or meets_targets else 1)


if __name__ == "__main__":
    main()
