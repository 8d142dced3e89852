"""Tests of a fleet run in virtual time, but for those with a real database."""

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest

from kit.virtual_time import VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    is_real = isinstance(item, pytest.Function) and "database" in item.fixturenames
    return {"real": asyncio.new_event_loop} if is_real else {"virtual": VirtualLoop}
