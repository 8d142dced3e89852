"""What a long journal costs: a start, a verification and a rebuild, with 1,000 entries and with 1,000,000.

    python -m benchmarks.journal                 takes about two minutes, most of them for making the journals
    python -m benchmarks.journal --entries 20000 the longer one shorter

Exit code 1: something takes longer, or more memory, than is wanted.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.history import write_history
from benchmarks.process import Finished, Server, milepost, run, serving
from benchmarks.workload import Workload

SHORT = 1_000
STREAMS = 50
MAX_START_SECONDS = 0.7
MAX_START_RATIO = 1.2
MAX_AUDIT_SECONDS = 10.0
MAX_AUDIT_MIB_RATIO = 1.5  # of the peak with the short journal: constant, but for the page cache


class Bench:
    """The journals and the server, and what is measured with them."""

    def __init__(self, server: Server, workload: Workload, root: Path, entries: int) -> None:
        self._server = server
        self._workload = workload
        self._directories = {size: root / str(size) for size in (SHORT, entries)}

    def write(self) -> None:
        """Make the journals."""
        streams = [f"messenger:{page_id}" for page_id in self._workload.page_ids]
        for size, directory in self._directories.items():
            directory.mkdir()
            write_history(directory / "milepost.db", size, streams)

    def start_seconds(self, rounds: int) -> dict[int, float]:
        """Give the median time from exec to the first request that reaches the server, by length of the journal."""
        seconds: dict[int, list[float]] = {size: [] for size in self._directories}
        for _ in range(rounds):
            for size, directory in self._directories.items():
                self._server.forget()
                finished = run(milepost(self._server, self._workload, directory, "sync"), directory)
                first_at = self._server.served().first_at
                if first_at is None:
                    raise SystemExit("milepost sync has not asked for anything")
                seconds[size].append(first_at - finished.started_at)
        return {size: median(each) for size, each in seconds.items()}

    def audit(self, word: str) -> dict[int, Finished]:
        """Run `milepost journal verify` or `rebuild` on each journal."""
        return {
            size: run(milepost(self._server, self._workload, directory, "journal", word), directory)
            for size, directory in self._directories.items()
        }


def report(bench: Bench, rounds: int) -> bool:
    """Print the table and say whether all is as wanted."""
    starts = bench.start_seconds(rounds)
    short, long = starts.values()
    print(f"| | {' | '.join(f'{size:,} entries' for size in starts)} |\n|---|---|---|")
    print(f"| exec to first request | {short:.2f} s | {long:.2f} s |", flush=True)
    is_as_wanted = long <= MAX_START_SECONDS and long <= MAX_START_RATIO * short
    for word in ("verify", "rebuild"):
        of_short, of_long = bench.audit(word).values()
        cells = [
            f"{each.seconds:.2f} s ({each.cpu_seconds:.2f} of CPU), {each.peak_mib:.0f} MiB"
            for each in (of_short, of_long)
        ]
        print(f"| journal {word} | {' | '.join(cells)} |", flush=True)
        is_as_wanted &= of_long.seconds <= MAX_AUDIT_SECONDS
        is_as_wanted &= of_long.peak_mib <= MAX_AUDIT_MIB_RATIO * of_short.peak_mib
    return is_as_wanted


def main() -> None:
    """Make the journals, measure and judge."""
    parser = argparse.ArgumentParser(description="Measure what a long journal costs.")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the longer journal")
    parser.add_argument("--rounds", type=int, default=7, help="of starts")
    options = parser.parse_args()
    workload = Workload(STREAMS, 100)
    with serving(workload) as server, TemporaryDirectory() as temporary:
        bench = Bench(server, workload, Path(temporary), options.entries)
        bench.write()
        is_as_wanted = report(bench, options.rounds)
    sys.exit(0 if is_as_wanted else 1)


if __name__ == "__main__":
    main()
