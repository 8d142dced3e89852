"""Tokens are checked once a day, new ones soon."""

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from app.trial import OF_BICYCLES, Trial, page_of, trial_of
from kit.engine_doubles import types
from kit.simulated import BAKERY, BICYCLES, NOW
from milepost.app.pages import CHECK_AGAIN_SECONDS, CHECK_SECONDS, LOOK_SECONDS
from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.facebook.pages import InspectedToken, Page

OF_BAKERY = tuple(Stream(platform, BAKERY.id) for platform in (Platform.MESSENGER, Platform.INSTAGRAM))
HEALTH = TokenHealth(True, None, NOW.replace(hour=0) + timedelta(days=60))


def requests(trial: Trial) -> int:
    """Count the questions about tokens."""
    return sum(request.owner == "debug_token" for request in trial.simulator.requests.last)


async def health_of(trial: Trial, stream: Stream) -> TokenHealth | None:
    return (await trial.store.load(stream)).token


def with_token(page: Page, token: str) -> Page:
    return replace(page, access_token=token)


async def test_every_stream_of_a_page_learns_the_health_of_its_token() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        trial.simulator.world.access.expire(BICYCLES.id, 7200.0, NOW)
        await trial.check()
        assert [await health_of(trial, stream) for stream in OF_BAKERY] == [HEALTH, HEALTH]
        assert await health_of(trial, OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(hours=2))
        assert requests(trial) == 2, "one per page, however many streams it has"


async def test_a_token_is_checked_once_a_day_and_only_changes_are_journaled() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        for _ in range(4):
            await trial.check(CHECK_SECONDS / 2)
        assert requests(trial) == 2
        assert types(trial.store, OF_BICYCLES) == ["token_checked"]


async def test_a_new_token_is_checked_at_the_next_look() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.check()
        trial.registry.rotate_tokens([with_token(page_of(BICYCLES), trial.simulator.world.access.renew(BICYCLES.id))])
        trial.simulator.world.access.expire(BICYCLES.id, 60.0, NOW)
        await trial.check(LOOK_SECONDS)
        assert requests(trial) == 2
        assert await health_of(trial, OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(minutes=1))


async def test_a_failed_check_changes_nothing_and_is_repeated_within_hours() -> None:
    async with trial_of(with_token(page_of(BICYCLES), "nobodys-token"), page_of(BAKERY)) as trial:
        await trial.check()
        assert await health_of(trial, OF_BICYCLES) is None
        assert await health_of(trial, OF_BAKERY[0]) == HEALTH, "one page's token holds up no other"
        await trial.check(CHECK_AGAIN_SECONDS - 1)
        assert requests(trial) == 2
        await trial.check(1)
        assert requests(trial) == 3


async def test_the_token_of_a_suspended_page_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.registry.suspend([BICYCLES.id])
        await trial.check()
        assert requests(trial) == 0


async def test_a_page_that_is_dropped_during_its_check_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of(page_of(BICYCLES), page_of(BAKERY)) as trial:
        fetch = trial.registry.inspect_token

        async def drop_meanwhile(page_id: str) -> InspectedToken | Problem | Held:
            found = await fetch(page_id)
            trial.registry.retain([page_of(BAKERY)], besides=())
            return found

        monkeypatch.setattr(trial.registry, "inspect_token", drop_meanwhile)
        await trial.check()
        assert await health_of(trial, OF_BICYCLES) is None
        assert await health_of(trial, OF_BAKERY[0]) == HEALTH


async def test_a_page_that_is_dropped_before_its_check_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        check = asyncio.create_task(trial.check())
        await asyncio.sleep(0)
        trial.registry.retain([], besides=())
        await check
        assert requests(trial) == 0


async def test_tokens_are_checked_again_and_again_until_a_stop_is_requested() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.clock.ends_at = trial.clock.time + timedelta(seconds=3 * CHECK_SECONDS)
        await trial.tokens.run(trial.clock, trial.engine.stop)
        assert requests(trial) == 3
