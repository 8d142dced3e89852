"""Clocks that are wrong: the machine's, which libfaketime sets, and the API's, in the Date of its responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kit.loopback import serving

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


PASSED_ON = ("Content-Type", "facebook-api-version")


@asynccontextmanager
async def dated(base_url: str, date: str) -> AsyncIterator[str]:
    """Pass on the responses of the API at `base_url` with this Date; yields the base URL."""
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            token = {"Authorization": request.headers.get("Authorization", "")}
            async with session.get(f"{base_url}{request.path_qs}", headers=token) as answered:
                passed_on = {name: answered.headers[name] for name in PASSED_ON if name in answered.headers}
                body = await answered.read()
                return web.Response(status=answered.status, body=body, headers={**passed_on, "Date": date})

        async with serving(answer) as url:
            yield url
