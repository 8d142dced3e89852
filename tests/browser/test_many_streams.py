"""The status page with hundreds of streams: what matters is seen at once, said once, and found by its URL.

The streams are those of a real daemon, multiplied: what 400 of them do takes minutes, and what the page shows does not
depend on it.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from kit.binary import started
from kit.browser import DESKTOP, PHONE, Visit, by_touch, comes_true, small_targets, visiting
from kit.installation import Installation
from kit.simulated import BICYCLES, frozen_world, right_now

Stream = dict[str, Any]
Change = Callable[[int, Stream], None]
pytestmark = pytest.mark.asyncio(loop_scope="session")
IN_TROUBLE = (17, 41, 140, 222, 301, 333, 399)
TROUBLES = ("stopped", "failed", "retrying")


@asynccontextmanager
async def visiting_many(
    installation: Installation, browser: Browser, change: Change, *, query: str = "", number: int = 400
) -> AsyncIterator[Visit]:
    """Visit a daemon whose one stream has become many, each changed by `change`."""
    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            url = await daemon.url()
            overview = await overview_of(url)
            (stream,) = overview["streams"].values()
            overview["streams"] = dict(copy_of(stream, each, change) for each in range(number))

            async def multiply(route: Route) -> None:
                is_first = "since" not in route.request.url
                await route.fulfill(json=overview if is_first else overview | {"since": overview["tag"], "streams": {}})

            async with visiting(browser, url) as visit:
                await visit.page.route("**/api/overview*", multiply)
                await visit.page.goto(f"{url}/{query}")
                await expect(visit.page.locator("#streams-count")).to_contain_text(str(number))
                yield visit


async def overview_of(url: str) -> dict[str, Any]:
    """Return the overview of a daemon at rest."""
    overview: dict[str, Any] = {}

    async def is_at_rest() -> bool:
        async with session.get(f"{url}/api/overview") as response:
            overview.update(await response.json())
        return all(stream["state"] == "complete" for stream in overview["streams"].values())

    async with aiohttp.ClientSession() as session:
        await comes_true(is_at_rest)
    return overview


def copy_of(stream: Stream, number: int, change: Change) -> tuple[str, Stream]:
    page_id = f"6155000000000{number:04}"
    copy = {**stream, "stream": f"messenger:{page_id}", "page_id": page_id, "page_name": f"Shop {number}"}
    change(number, copy)
    return copy["stream"], copy


def as_it_is(_: int, __: Stream) -> None:
    pass


def seven_in_trouble(number: int, stream: Stream) -> None:
    if number in IN_TROUBLE:
        stream |= {"state": TROUBLES[number % 3], "problem": f"reason {number}", "waits_for": "the next attempt"}


def seven_of_forty(number: int, stream: Stream) -> None:
    seven_in_trouble(IN_TROUBLE[number] if number < len(IN_TROUBLE) else 0, stream)


def limited_by_the_app(number: int, stream: Stream) -> None:
    stream |= {
        "state": "rate_limited",
        "waits_for": "the app's rate limit" + ("" if number == 0 else " (met by messenger:61550000000000000)"),
        "until": "2099-01-01T12:00:00Z",
        "problem": "Application request limit reached (code 4)",
        "advice": "nothing to do: it continues when the limit is over",
        "rate_limit_scope": "app",
    }


def rows(page: Page) -> Locator:
    return page.locator("#table tbody tr")


async def test_seven_in_trouble_among_four_hundred_are_seen_without_scrolling(
    installation: Installation, browser: Browser
) -> None:
    async with visiting_many(installation, browser, seven_in_trouble) as visit:
        await visit.page.set_viewport_size({"width": 1280, "height": 800})
        for place, number in enumerate(sorted(IN_TROUBLE, key=lambda each: (TROUBLES.index(TROUBLES[each % 3]), each))):
            await expect(rows(visit.page).nth(place)).to_contain_text(f"Shop {number}")
            await expect(rows(visit.page).nth(place)).to_be_in_viewport(ratio=1)
        assert await visit.page.evaluate("scrollY") == 0


async def test_a_limit_of_the_app_is_said_in_one_sentence(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, limited_by_the_app) as visit:
        causes = visit.page.locator("#causes li")
        await expect(causes).to_have_count(1)
        await expect(causes.locator(".words")).to_contain_text("The app's rate limit holds up all 400 streams until")
        text = await visit.page.locator("main").inner_text()
        assert text.count("rate limit") == 1
        await causes.get_by_text("Details").click()
        await expect(causes).to_contain_text("Application request limit reached")


@pytest.mark.long
async def test_what_cards_share_is_said_once_above_them(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, limited_by_the_app, number=4) as visit:
        await expect(visit.page.locator("#causes li")).to_have_count(1)
        await expect(visit.page.locator(".card .waits").first).to_have_text("Waits for the app's rate limit: see above")
        await expect(visit.page.locator(".card .advice").first).to_be_empty()


@pytest.mark.long
async def test_a_card_says_what_is_still_to_be_read_and_what_is_withheld(
    installation: Installation, browser: Browser
) -> None:
    def owing(_: int, stream: Stream) -> None:
        stream |= {"message_backlog": 45, "message_history": {"left": 40, "total": 1200}}
        stream |= {"messages_missed": 7, "messages_missed_at": "2026-03-01T12:00:00Z"}

    async with visiting_many(installation, browser, owing, number=4) as visit:
        facts = visit.page.locator(".card .facts").first
        await expect(facts).to_contain_text("of 5 conversations")
        await expect(facts).to_contain_text("40 of 1,200 to read")
        await expect(facts).to_contain_text("7 messages, last found")


async def test_chips_count_and_filter_and_the_url_keeps_the_choice(
    installation: Installation, browser: Browser
) -> None:
    async with visiting_many(installation, browser, seven_in_trouble) as visit:
        page = visit.page
        groups = page.get_by_role("group", name="Streams by state")
        needy = sum(TROUBLES[each % 3] == "stopped" for each in IN_TROUBLE)
        await groups.get_by_role("button", name=f"Needs you {needy}").click()
        await expect(rows(page)).to_have_count(needy)
        await expect(page).to_have_url(re.compile(r"\?state=needs-you$"))
        await groups.get_by_role("button", name=f"Failing {7 - needy}").click()
        await page.get_by_label("Find a page").fill("shop 4")
        await expect(page).to_have_url(re.compile(r"\?state=failing&find=shop\+4$"))
        await page.reload()
        await expect(page.get_by_label("Find a page")).to_have_value("shop 4")
        await expect(groups.get_by_role("button", pressed=True)).to_have_text(f"Failing {7 - needy}")
        await expect(rows(page)).to_have_count(1)
        await page.get_by_label("Find a page").fill("no such page")
        await expect(page.locator("#streams-empty")).to_contain_text("No stream matches")


async def test_the_table_is_sorted_by_any_column(installation: Installation, browser: Browser) -> None:
    def owing(number: int, stream: Stream) -> None:
        stream |= {"message_backlog": number % 50}

    async with visiting_many(installation, browser, owing) as visit:
        page = visit.page
        await page.get_by_role("button", name="Backlog").click()
        await expect(rows(page).first.locator(".backlog")).to_have_text("49")
        await expect(page.get_by_role("columnheader", name="Backlog")).to_have_attribute("aria-sort", "descending")
        await page.get_by_role("button", name="Backlog").click()
        await expect(rows(page).first.locator(".backlog")).to_have_text("")
        await expect(page).to_have_url(re.compile(r"\?sort=-backlog$"))
        await page.get_by_role("button", name="Page", exact=True).click()
        await expect(rows(page).nth(1)).to_contain_text("Shop 1")
        await expect(rows(page)).to_have_count(100)
        await page.get_by_role("button", name="Show more").click()
        await expect(rows(page)).to_have_count(200)


@pytest.mark.long
async def test_a_row_opens_a_drawer_with_all_about_its_stream(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, as_it_is, number=40) as visit:
        page = visit.page
        await page.get_by_label("Find a page").fill(BICYCLES.id[-4:])  # the one that really is there
        opens = page.get_by_role("button", name=f"Shop {int(BICYCLES.id[-4:])}", exact=True)
        await opens.click()
        drawer = page.get_by_role("complementary")
        await expect(drawer.get_by_role("heading", level=2)).to_contain_text("Shop 2")
        await expect(drawer).to_contain_text("New conversations")
        await expect(drawer.locator("#drawer-runs rect")).to_have_count(1)
        await expect(drawer.locator("#drawer-events li").first).to_be_visible()
        await expect(drawer.get_by_role("button", name="Full sweep")).to_be_visible()
        await expect(page).to_have_url(re.compile("stream=messenger"))
        for width in (DESKTOP, PHONE):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await visit.faults() == []
            assert not await visit.scrolls_sideways()
        await page.keyboard.press("Escape")
        await expect(drawer).to_be_hidden()
        await expect(opens).to_be_focused()


async def test_the_table_has_no_serious_accessibility_faults(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, seven_of_forty, number=40) as visit:
        for width in (DESKTOP, PHONE):
            await visit.page.set_viewport_size({"width": width, "height": 800})
            assert not await visit.scrolls_sideways(), width
            for scheme in ("light", "dark"):
                await visit.page.emulate_media(color_scheme=scheme)
                assert await visit.faults() == [], (width, scheme)


@pytest.mark.long
async def test_touch_targets_are_44_pixels_high(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, seven_of_forty, number=40) as visit:
        await by_touch(visit.page)
        assert await small_targets(visit.page) == []


@pytest.mark.long
async def test_a_stream_without_runs_and_events_says_so(installation: Installation, browser: Browser) -> None:
    async with visiting_many(installation, browser, as_it_is, number=4) as visit:
        await visit.page.get_by_role("button", name="Shop 0 Messenger", exact=True).click()
        drawer = visit.page.get_by_role("complementary")
        await expect(drawer).to_contain_text("No runs yet.")
        await expect(drawer).to_contain_text("No events yet.")
        await expect(drawer.get_by_text("Show as a list")).to_be_hidden()
        await expect(drawer.locator("#drawer-runs svg")).to_be_hidden()


async def test_a_long_name_leaves_the_state_its_words_on_a_phone(browser: Browser, installation: Installation) -> None:
    def long_and_stopped(number: int, stream: Stream) -> None:
        seven_in_trouble(number, stream)
        stream["page_name"] = f"Shop {number} {'and more ' * 32}"

    async with visiting_many(installation, browser, long_and_stopped) as visit:
        await visit.page.set_viewport_size({"width": PHONE, "height": 900})
        state = visit.page.locator("#table .state", has_text="Needs you").first
        assert await state.evaluate("(state) => state.getClientRects().length") <= 2, "a word is broken"
        assert not await visit.scrolls_sideways()
