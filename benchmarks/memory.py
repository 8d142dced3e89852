"""The memory of a long sweep: its peak resident memory over time, which must not keep growing.

    python -m benchmarks.memory                  200,000 conversations
    python -m benchmarks.memory --conversations 20000

Exit code 1: the peak is above its target, or still grows in the second half.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.process import Server, milepost, serving
from benchmarks.workload import Workload

MAX_MIB = 120.0
MAX_GROWTH = 1.1  # from the middle of the sweep to its end
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
LOOK_EVERY_SECONDS = 0.02


def peak_mib(process_id: int) -> float | None:
    """Return a process's peak resident memory so far; None once it has ended."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    line = next((each for each in status.splitlines() if each.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) / 1024


def watch(server: Server, workload: Workload, directory: Path) -> dict[float, float]:
    """Sync a workload and return the peak in MiB by the share of requests made."""
    command = milepost(server, workload, directory, "sync")
    requests_in_all = workload.total / workload.batch_size
    peaks: dict[float, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while (peak := peak_mib(process.pid)) is not None:
            share = server.served().requests / requests_in_all
            peaks |= {each: peak for each in SHARES if each not in peaks and share >= each}
            peaks[1.0] = peak  # the last measurement counts for the end
            time.sleep(LOOK_EVERY_SECONDS)
            process.poll()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peaks


def main() -> None:
    """Print the peaks and judge them."""
    parser = argparse.ArgumentParser(description="Measure Milepost's memory over a sync.")
    parser.add_argument("--conversations", type=int, default=200_000)
    workload = Workload(1, parser.parse_args().conversations)
    with serving(workload) as server, TemporaryDirectory() as temporary:
        peaks = watch(server, workload, Path(temporary))
    print("| conversations read | peak of resident memory, MiB |\n|---|---|")
    for share, peak in sorted(peaks.items()):
        print(f"| {share * workload.total:,.0f} | {peak:.0f} |")
    sys.exit(0 if peaks[1.0] <= MAX_MIB and peaks[1.0] <= MAX_GROWTH * peaks[0.5] else 1)


if __name__ == "__main__":
    main()
