"""`milepost pause` and `resume`: what concerns one stream, and what concerns all of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from kit.builders import STREAM
from milepost.cli import actions
from milepost.cli.actions import Operator, perform_on_streams
from milepost.cli.options import NO_TITLES
from milepost.core.commands import PauseStream, StreamCommand
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway
from milepost.core.model import Platform, Stream
from milepost.engine.interrupt import Stop
from milepost.reporting.summary import ExitCode
from milepost.settings.model import Settings

OTHER = Stream(Platform.INSTAGRAM, STREAM.page_id)


async def pause(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Stop], Awaitable[None]]
) -> tuple[ExitCode, list[Stream]]:
    """Pause two streams, the first with this answer; return the exit code and which streams were asked for."""
    asked: list[Stream] = []
    stops: list[Stop] = []

    async def ask(stream: Stream, _: StreamCommand) -> None:
        asked.append(stream)
        if stream == STREAM:
            await answer(stops[0])

    async def read() -> Mapping[Stream, int]:
        return {}

    @asynccontextmanager
    async def operator(_: Settings, stop: Stop) -> AsyncIterator[Operator]:
        stops.append(stop)
        yield Operator([STREAM, OTHER], NO_TITLES, ask, read, is_daemon=True)

    monkeypatch.setattr(actions, "operator", operator)
    return await perform_on_streams(Settings(), [STREAM, OTHER], PauseStream("somebody")), asked


def refusing(error: MilepostError) -> Callable[[Stop], Awaitable[None]]:
    async def refuse(_: Stop) -> None:
        raise error

    return refuse


async def test_a_refusal_is_of_its_stream_and_the_next_one_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    code, asked = await pause(monkeypatch, refusing(MilepostError("there is no such stream")))
    assert (code, asked) == (ExitCode.WITH_ERRORS, [STREAM, OTHER])


@pytest.mark.parametrize("error", [BadConfiguration("the daemon refuses the token"), StoreAway("it is away")])
async def test_what_concerns_all_streams_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, error: MilepostError
) -> None:
    with pytest.raises(type(error)):
        await pause(monkeypatch, refusing(error))


async def test_a_stop_does_not_wait_for_the_batch_in_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wait(stop: Stop) -> None:
        stop.request()
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        code, asked = await pause(monkeypatch, wait)
    assert (code, asked) == (ExitCode.PROGRESS_SAVED, [STREAM])
    assert "not confirmed; it may still take effect" in capsys.readouterr().out
