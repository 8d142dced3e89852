"""What the tests in a browser share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from kit.browser import CHROMIUM, PACKAGES, PATIENCE_MS, chromium
from kit.installation import Installation
from kit.needs import demand


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    demand(CHROMIUM, *PACKAGES)
    expect.set_options(timeout=PATIENCE_MS)
    async with chromium() as browser:
        yield browser
