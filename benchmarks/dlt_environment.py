"""A throw-away environment with dlt, which the project does not need: made where pip can install it."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.process import ROOT, Server
from benchmarks.workload import Workload

REQUIREMENT = "dlt[postgres,sqlalchemy]"


@contextmanager
def dlt_python(*, is_wanted: bool) -> Iterator[str | None]:
    """Yield a Python that has dlt, for the block. None if it is not wanted or, as stderr then says, not to be had."""
    if not is_wanted:
        yield None
        return
    with TemporaryDirectory() as temporary:
        python = str(Path(temporary) / "bin" / "python")
        try:
            venv.create(temporary, with_pip=True)
            command = [python, "-m", "pip", "install", "--quiet", REQUIREMENT]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
            print(f"without dlt, which could not be installed: {' '.join(last) or error}", file=sys.stderr)
            yield None
            return
        yield python


def dlt(python: str, server: Server, workload: Workload, url: str) -> list[str]:
    """Return the command that copies a workload into a database with dlt."""
    sizes = [str(workload.batch_size), str(workload.messages)]
    return [python, str(ROOT / "benchmarks" / "dlt_merge.py"), server.base_url, url, *sizes, *workload.page_ids]
