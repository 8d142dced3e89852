"""A stop is a change of plan: it cuts waits short, leaves everything else to finish, and has an end."""

import asyncio
import os
import signal
from typing import Any

import pytest

from kit.virtual_time import VirtualClock
from milepost.engine.interrupt import RESTART_SECONDS, Interrupt, Stop, StoppedHard, kept_up, stopping_on_signals


async def wait(interrupt: Interrupt, *others: Interrupt) -> None:
    """Wait until one of the interrupts ends the wait."""
    async with interrupt.interruptible(*others):
        await asyncio.Event().wait()


async def test_a_stop_interrupts_every_open_block() -> None:
    stop = Stop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(wait(stop)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        stop.request()


async def test_requesting_a_stop_again_changes_nothing() -> None:
    stop = Stop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(wait(stop))
        await asyncio.sleep(0)
        stop.request()
        stop.request()


async def test_setting_an_interrupt_again_while_a_block_is_about_to_end_changes_nothing() -> None:
    interrupt = Interrupt()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(wait(interrupt))
        for _ in range(4):  # one of them comes when the block is cancelled and has not ended yet
            await asyncio.sleep(0)
            interrupt.set()
            interrupt.clear()


async def test_a_block_that_begins_after_a_stop_ends_at_once() -> None:
    stop = Stop()
    stop.request()
    async with asyncio.timeout(10):
        await wait(stop)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("is_early", [True, False], ids=["before the block", "in the block"])
async def test_any_of_several_interrupts_ends_a_block(place: int, *, is_early: bool) -> None:
    interrupts = [Interrupt() for _ in range(3)]
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        if is_early:
            interrupts[place].set()
        tasks.create_task(wait(*interrupts))
        await asyncio.sleep(0)
        interrupts[place].set()


async def test_several_interrupts_at_once_end_a_block_once() -> None:
    interrupts = [Interrupt() for _ in range(3)]
    ended = 0

    async def wait_once() -> None:
        nonlocal ended
        await wait(*interrupts)
        ended += 1
        await asyncio.sleep(0)  # no interrupt reaches what follows the block

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_once())
        await asyncio.sleep(0)
        for each in interrupts:
            each.set()
            each.clear()
            await asyncio.sleep(0)
    assert ended == 1
    assert not any(each.scopes for each in interrupts)


async def test_a_stop_does_not_affect_a_block_that_has_ended() -> None:
    stop = Stop()
    async with stop.interruptible():
        pass
    stop.request()
    await asyncio.sleep(0)


async def test_a_timeout_of_the_block_itself_is_not_swallowed() -> None:
    with pytest.raises(TimeoutError):
        async with Stop().interruptible(), asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_passes_through() -> None:
    task = asyncio.create_task(wait(Stop()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_first_signal_requests_a_stop() -> None:
    stop = Stop()
    async with asyncio.timeout(10), stopping_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()


async def test_the_second_signal_cancels_the_work() -> None:
    async def two_signals() -> None:
        stop = Stop()
        async with asyncio.timeout(10), stopping_on_signals(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(StoppedHard):
        await two_signals()


async def test_a_signal_while_the_cancelled_work_cleans_up_changes_nothing() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))

    async def three_signals() -> None:
        stop = Stop()
        async with asyncio.timeout(10), stopping_on_signals(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            finally:
                handled = asyncio.Event()
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handled.set)
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGUSR1)  # handled after the other one
                await handled.wait()
                asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    with pytest.raises(StoppedHard):
        await three_signals()
    assert not errors


async def test_the_work_is_cancelled_when_the_grace_period_is_over() -> None:
    async def never_ends() -> None:
        async with asyncio.timeout(10), stopping_on_signals(Stop(), grace_seconds=0.01):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(StoppedHard):
        await never_ends()


async def test_work_that_ends_with_an_error_is_begun_again_until_a_stop_is_requested() -> None:
    stop, clock, began_at = Stop(), VirtualClock(), list[float]()

    async def work() -> None:
        began_at.append(asyncio.get_running_loop().time())
        if len(began_at) < 3:
            msg = "a bug"
            raise RuntimeError(msg)
        await stop.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kept_up("reload", work, clock, stop))
        await asyncio.sleep(500)
        stop.request()
    assert began_at == [0, RESTART_SECONDS, 2 * RESTART_SECONDS]


async def test_a_stop_does_not_wait_until_failed_work_is_begun_again() -> None:
    stop, clock = Stop(), VirtualClock()

    async def fail() -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kept_up("reload", fail, clock, stop))
        await asyncio.sleep(5)
        stop.request()
    assert asyncio.get_running_loop().time() == 5
