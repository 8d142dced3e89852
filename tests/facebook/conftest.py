"""The pace of calls is tested in virtual time; requests over real sockets are not."""

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest

from kit.virtual_time import VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"virtual": VirtualLoop} if item.path.stem == "test_rate_limiter" else {"real": asyncio.new_event_loop}
