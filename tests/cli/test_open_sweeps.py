"""How far the sweeps of a daemon are: a look asks only for what has changed since the one before."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from kit.builders import STREAM
from kit.loopback import serving
from milepost.cli.daemon_client import OpenSweeps, daemon_at
from milepost.core.model import Platform, Stream
from milepost.service.api.overview import ChangesSince
from milepost.settings import HttpSettings

OTHER = Stream(Platform.INSTAGRAM, STREAM.page_id)


def walking(conversations: int) -> dict[str, Any]:
    return {"state": "syncing", "sweep": {"mode": "full", "conversations": conversations}}


IDLE = {"state": "idle", "sweep": None}


class FakeDaemon:
    """Shows these states of its streams, and remembers which tags it was asked with. Without one, it is away."""

    def __init__(self) -> None:
        self.states: Mapping[str, dict[str, Any]] | None = {}
        self.changes = ChangesSince()
        self.asked: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.query.get("since"))
        if self.states is None:
            return web.json_response({"detail": "it is ending"}, status=503)
        tag = self.changes.remember(self.states)
        since, streams, removed = self.changes.since(self.asked[-1], tag)
        return web.json_response({"tag": tag, "since": since, "streams": streams, "removed": removed})


async def test_each_look_asks_for_the_changes_since_the_last_one() -> None:
    fake = FakeDaemon()
    async with serving(fake.answer) as base_url, daemon_at(HttpSettings(listen=base_url[7:])) as daemon:
        sweeps = OpenSweeps(daemon)
        fake.states = {STREAM.key: walking(50), OTHER.key: IDLE}
        assert await sweeps.read() == {STREAM: 50}
        fake.states = {STREAM.key: walking(100), OTHER.key: walking(7)}
        assert await sweeps.read() == {STREAM: 100, OTHER: 7}
        fake.states = {STREAM.key: walking(100) | {"state": "retrying"}, OTHER.key: IDLE}
        assert await sweeps.read() == {STREAM: 100}
        fake.states = {OTHER.key: IDLE}
        assert await sweeps.read() == {}
    assert fake.asked[0] is None
    assert all(fake.asked[1:])


async def test_a_daemon_that_is_away_or_has_restarted_changes_nothing_by_that() -> None:
    fake = FakeDaemon()
    async with serving(fake.answer) as base_url, daemon_at(HttpSettings(listen=base_url[7:])) as daemon:
        sweeps = OpenSweeps(daemon)
        fake.states = {STREAM.key: walking(50), OTHER.key: walking(7)}
        await sweeps.read()
        fake.states = None
        assert await sweeps.read() == {STREAM: 50, OTHER: 7}
        fake.changes, fake.states = ChangesSince(), {STREAM.key: walking(60)}  # as another process
        assert await sweeps.read() == {STREAM: 60}
