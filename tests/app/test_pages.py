"""The registry of pages keeps nothing of those that are dropped."""

import gc
import weakref
from itertools import count, islice

from msgspec.structs import replace

from app.trial import page_of, trial_of
from kit.simulated import BAKERY, BICYCLES
from milepost.core.model import Platform, Stream
from milepost.facebook.pages import Page


async def test_the_sources_of_a_dropped_page_are_not_kept() -> None:
    async with trial_of() as trial:
        sources = trial.registry.add([page_of(BAKERY), page_of(BICYCLES)])
        kept = {stream: weakref.ref(source) for stream, source in sources.items()}
        del sources
        dropped = trial.registry.retain([page_of(BAKERY, Platform.MESSENGER)], besides=())
        gc.collect()
        assert {stream for stream, source in kept.items() if source() is None} == set(dropped)
        assert set(dropped) == {Stream(Platform.INSTAGRAM, BAKERY.id), Stream(Platform.MESSENGER, BICYCLES.id)}


async def test_an_account_is_of_the_stream_that_stored_rows_show_until_the_api_says_otherwise() -> None:
    async with trial_of() as trial:
        bakery, bicycles = Stream(Platform.INSTAGRAM, BAKERY.id), Stream(Platform.INSTAGRAM, BICYCLES.id)
        trial.registry.add([page_of(BAKERY)])
        assert trial.registry.streams_without_account() == (bakery,)
        assert not trial.registry.note_account("17841", bicycles), "which is not here"
        assert trial.registry.note_account("17841", bakery)
        assert trial.registry.stream_of("instagram", "17841") == bakery
        page = Page(BICYCLES.id, "", (Platform.INSTAGRAM,), "a-token", "17841")
        trial.registry.add([page])
        assert trial.registry.stream_of("instagram", "17841") == bicycles
        trial.registry.retain([], besides=())
        trial.registry.add([page_of(BAKERY)])
        assert trial.registry.stream_of("instagram", "17841") is None


async def test_a_webhook_about_the_account_of_a_dropped_page_finds_no_stream() -> None:
    async with trial_of() as trial:
        account = BAKERY.instagram_account_id or ""
        page = replace(page_of(BAKERY), instagram_account_id=account)
        trial.registry.add([page])
        assert trial.registry.stream_of("instagram", account) == Stream(Platform.INSTAGRAM, BAKERY.id)
        trial.registry.retain([page_of(BAKERY, Platform.MESSENGER)], besides=())
        assert trial.registry.stream_of("instagram", account) is None
        trial.registry.add([page])
        assert trial.registry.stream_of("instagram", account) == Stream(Platform.INSTAGRAM, BAKERY.id)


async def test_the_names_of_pages_can_be_asked_while_pages_are_added() -> None:
    """As a scrape in another thread does: threads take turns whenever Python code runs, also when garbage is freed."""
    async with trial_of() as trial:
        pages = (Page(str(number), "", (Platform.MESSENGER,), "a-token") for number in count())
        trial.registry.add(islice(pages, 50))

        def take_turns(*_: object) -> None:
            trial.registry.add([next(pages)])

        thresholds = gc.get_threshold()
        gc.callbacks.append(take_turns)
        gc.set_threshold(1)
        try:
            names = trial.registry.page_names()
        finally:
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(take_turns)
        assert len(trial.registry.page_names()) > len(names) >= 50
