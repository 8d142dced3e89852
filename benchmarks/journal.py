"""The cost of a long journal: startup, verification and rebuild, with 1,000 and with 1,000,000 entries.

    python -m benchmarks.journal                 takes about two minutes, mostly to create the journals
    python -m benchmarks.journal --entries 20000 with a shorter long journal

Exit code 1: something takes longer, or more memory, than its target.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.history import write_history
from benchmarks.process import Finished, Server, milepost, run, serving
from benchmarks.workload import Workload
from milepost.core.model import Platform, Stream

SHORT = 1_000
STREAMS = 50
MAX_START_SECONDS = 0.7
MAX_START_RATIO = 1.2
MAX_AUDIT_SECONDS = 10.0
MAX_AUDIT_MIB_RATIO = 1.5  # relative to the peak with the short journal: constant, except for the page cache


class Bench:
    """The journals, the server, and the measurements."""

    def __init__(self, server: Server, workload: Workload, root: Path, entries: int) -> None:
        self._server = server
        self._workload = workload
        self._directories = {size: root / str(size) for size in (SHORT, entries)}

    def write(self) -> None:
        """Create the journals."""
        streams = [Stream(Platform.MESSENGER, page_id) for page_id in self._workload.page_ids]
        for size, directory in self._directories.items():
            directory.mkdir()
            write_history(directory / "milepost.db", size, streams)

    def start_seconds(self, rounds: int) -> dict[int, float]:
        """Return the median time from exec to the first request that reaches the server, by journal length."""
        seconds: dict[int, list[float]] = {size: [] for size in self._directories}
        for _ in range(rounds):
            for size, directory in self._directories.items():
                self._server.forget()
                finished = run(milepost(self._server, self._workload, directory, "sync"), directory)
                first_at = self._server.served().first_at
                if first_at is None:
                    raise SystemExit("milepost sync has sent no request")
                seconds[size].append(first_at - finished.started_at)
        return {size: median(each) for size, each in seconds.items()}

    def audit(self, word: str) -> dict[int, Finished]:
        """Run `milepost journal verify` or `rebuild` on each journal."""
        return {
            size: run(milepost(self._server, self._workload, directory, "journal", word), directory)
            for size, directory in self._directories.items()
        }


def report(bench: Bench, rounds: int) -> bool:
    """Print the table and return whether all targets are met."""
    starts = bench.start_seconds(rounds)
    short, long = starts.values()
    print(f"| | {' | '.join(f'{size:,} entries' for size in starts)} |\n|---|---|---|")
    print(f"| exec to first request | {short:.2f} s | {long:.2f} s |", flush=True)
    meets_targets = long <= MAX_START_SECONDS and long <= MAX_START_RATIO * short
    for word in ("verify", "rebuild"):
        of_short, of_long = bench.audit(word).values()
        cells = [
            f"{each.seconds:.2f} s ({each.cpu_seconds:.2f} of CPU), {each.peak_mib:.0f} MiB"
            for each in (of_short, of_long)
        ]
        print(f"| journal {word} | {' | '.join(cells)} |", flush=True)
        meets_targets &= of_long.seconds <= MAX_AUDIT_SECONDS
        meets_targets &= of_long.peak_mib <= MAX_AUDIT_MIB_RATIO * of_short.peak_mib
    return meets_targets


def main() -> None:
    """Create the journals, measure and judge."""
    parser = argparse.ArgumentParser(description="Measure the cost of a long journal.")
    parser.add_argument("--entries", type=int, default=1_000_000, help="in the longer journal")
    parser.add_argument("--rounds", type=int, default=7, help="startups per journal")
    options = parser.parse_args()
    workload = Workload(STREAMS, 100)
    with serving(workload) as server, TemporaryDirectory() as temporary:
        bench = Bench(server, workload, Path(temporary), options.entries)
        bench.write()
        meets_targets = report(bench, options.rounds)
    sys.exit(0 if meets_targets else 1)


if __name__ == "__main__":
    main()
