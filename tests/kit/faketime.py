"""A wall clock that a test can set under a running program: libfaketime, which leaves the monotonic clock alone."""

from pathlib import Path

import pytest

LIBRARIES = (
    *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
    Path("/usr/lib/faketime/libfaketime.so.1"),
    Path("/usr/lib64/faketime/libfaketime.so.1"),
)
LIBRARY = next((path for path in LIBRARIES if path.exists()), None)

needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: the package faketime")


class FakeTime:
    """The wall clock of programs started with `environment`. `time.sleep` fails in them, `asyncio.sleep` works."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.set_by(0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment to start a program with."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_by(self, seconds: int) -> None:
        """Set the clock to the real time plus this many seconds."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n")
        written.replace(self._file)  # programs read the file all the time, and must never find it empty
