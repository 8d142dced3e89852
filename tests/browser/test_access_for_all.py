"""Accessibility of the status page: light and dark, by keyboard, with a screen reader, on a phone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, Route, expect

from kit.binary import started
from kit.browser import DESKTOP, PHONE, Visit, by_touch, small_targets, visiting
from kit.installation import Installation
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world

TOKEN = "a-token-of-some-length"
WELL_BELOW_WHAT_PEOPLE_NOTICE = 0.1  # a cumulative layout shift (web.dev/articles/cls)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def visiting_issues(installation: Installation, browser: Browser) -> AsyncIterator[Visit]:
    """Visit a daemon with streams in several states and a dead letter."""
    async with frozen_world(30, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.world.poison(simulator.world.truth(BAKERY.id, "instagram", NOW)[5].id)
        simulator.world.access.revoke(BICYCLES.id)
        installation.configure_for(simulator)
        async with (
            started(installation.folder, "run") as daemon,
            visiting(browser, await daemon.url()) as visit,
        ):
            await expect(visit.page.locator(".dead-letter")).to_have_count(1)
            await expect(visit.page.locator("#verdict")).to_have_text("1 of 3 streams needs you")
            for state in ("Needs you", "Up to date", "Complete with errors"):  # nothing moves any more
                await expect(visit.page.locator(".card .state", has_text=state)).to_have_count(1)
            await expect(visit.page.locator("#feed li").first).to_be_attached()
            yield visit


async def test_the_status_page_has_no_serious_accessibility_faults(
    installation: Installation, browser: Browser
) -> None:
    async with visiting_issues(installation, browser) as visit:
        await visit.page.get_by_text("Show as a table").click()
        await visit.page.locator(".dead-letter").get_by_text("Payload").click()
        await assert_accessible(visit)
        await visit.page.locator(".dead-letter").get_by_role("button", name="Discard").click()
        assert await visit.faults() == []


async def assert_accessible(visit: Visit) -> None:
    """Check the page on a desktop and on a phone, in light and dark."""
    for width in (DESKTOP, PHONE):
        await visit.page.set_viewport_size({"width": width, "height": 800})
        assert not await visit.scrolls_sideways(), width
        for scheme in SCHEMES:
            await visit.page.emulate_media(color_scheme=scheme)
            assert await visit.faults() == [], (width, scheme)


@pytest.mark.long
async def test_the_accessibility_check_finds_a_fault(installation: Installation, browser: Browser) -> None:
    async with visiting_issues(installation, browser) as visit:
        await visit.page.evaluate("document.querySelector('#find').labels[0].querySelector('span').remove()")
        await visit.page.evaluate("document.querySelector('#find').placeholder = ''")
        assert [fault for fault in await visit.faults() if fault.startswith("label: ")]


@pytest.mark.long
async def test_touch_targets_are_44_pixels_high_on_cards_and_beside_them(
    installation: Installation, browser: Browser
) -> None:
    async with visiting_issues(installation, browser) as visit:
        page = visit.page
        await by_touch(page)
        assert await small_targets(page) == []
        await page.locator(".dead-letter").get_by_role("button", name="Discard").click()
        assert await small_targets(page) == []
        await page.keyboard.press("Escape")
        await page.locator(".card .opens").first.click()
        await expect(page.locator("#drawer-runs rect").first).to_be_attached()
        assert await small_targets(page) == []


@pytest.mark.long
async def test_nothing_jumps_while_the_page_loads(installation: Installation, browser: Browser) -> None:
    async with visiting_issues(installation, browser) as visit:
        await visit.page.add_init_script("""
            window.shifts = 0;
            // New events push the older ones down, in as many steps as they come in: that is what a feed does.
            const isElsewhere = ({ node }) => node !== null && !document.getElementById("events").contains(node);
            new PerformanceObserver((list) => {
                for (const each of list.getEntries()) if (each.sources.some(isElsewhere)) window.shifts += each.value;
            }).observe({ type: "layout-shift", buffered: true });
        """)
        for width in (DESKTOP, PHONE):
            await visit.page.set_viewport_size({"width": width, "height": 800})
            await visit.page.reload()
            await expect(visit.page.locator(".dead-letter")).to_have_count(1)
            await expect(visit.page.locator("#feed li").first).to_be_attached()
            assert await visit.page.evaluate("window.shifts") < WELL_BELOW_WHAT_PEOPLE_NOTICE, width


async def freeze(page: Page) -> None:
    """Hold back all further responses, so that nothing on the page changes under the keys."""
    is_held = asyncio.Event()

    async def hold(_: Route) -> None:
        is_held.set()

    await page.route("**/api/overview*", hold)
    await page.get_by_label("Which dead letters").dispatch_event("change")
    await is_held.wait()  # by then it shows everything that it had requested before


async def test_the_whole_page_is_reachable_by_keyboard(installation: Installation, browser: Browser) -> None:
    async with visiting_issues(installation, browser) as visit:
        page = visit.page
        await freeze(page)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the streams")).to_be_focused()
        await expect(page.get_by_role("link", name="Skip to the streams")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="All 3")).to_be_focused()
        reached: list[str] = []
        while "Problems" not in reached and len(reached) < 160:
            await page.keyboard.press("Tab")
            reached.append(
                await page.evaluate("document.activeElement.closest('label')?.textContent.trim() ?? ''") or ""
            )
            reached.append(await page.evaluate("document.activeElement.textContent.trim().slice(0, 30)"))
            if reached[-2].endswith("All"):
                await page.keyboard.press("ArrowRight")
                reached.append(await page.evaluate("document.activeElement.closest('label').textContent.trim()"))
        for name in (
            "Sync now",
            "Full sweep",
            "Pause",
            "Show as a table",
            "Retry now",
            "Discard …",
            "Problems",
        ):
            assert name in reached


@pytest.mark.long
async def test_a_screen_reader_finds_the_landmarks_and_the_verdict(
    installation: Installation, browser: Browser
) -> None:
    async with visiting_issues(installation, browser) as visit:
        page = visit.page
        for role in ("banner", "main", "contentinfo", "navigation", "search"):
            await expect(page.get_by_role(role)).to_have_count(1)
        for region in ("Streams", "Activity", "Dead letters", "Events"):
            await expect(page.get_by_role("region", name=region).first).to_be_attached()
        await expect(page.get_by_role("heading", level=1)).to_have_text("1 of 3 streams needs you")


@pytest.mark.long
async def test_the_theme_is_the_systems_until_the_reader_chooses(installation: Installation, browser: Browser) -> None:
    async with visiting_issues(installation, browser) as visit:
        page = visit.page
        await page.emulate_media(color_scheme="dark")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(ground)
        await page.get_by_role("button", name="Theme: system").click()
        await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
        assert await page.evaluate(ground) != dark
        await page.reload()
        await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
        assert await page.evaluate(ground) != dark


# --- if a token is required -------------------------------------------------------------------------------------------


@asynccontextmanager
async def guarded(installation: Installation, browser: Browser) -> AsyncIterator[Visit]:
    """Visit a daemon that requires a token."""
    async with frozen_world(5, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http={"token": TOKEN})
        async with (
            started(installation.folder, "run") as daemon,
            visiting(browser, await daemon.url()) as visit,
        ):
            yield visit


async def test_the_login_page_has_no_serious_accessibility_faults(installation: Installation, browser: Browser) -> None:
    async with guarded(installation, browser) as visit:
        await expect(visit.page.get_by_label("Token")).to_be_focused()
        await assert_accessible(visit)


async def test_the_token_signs_in_a_wrong_one_is_refused_and_one_can_sign_out(
    installation: Installation, browser: Browser
) -> None:
    async with guarded(installation, browser) as visit:
        page = visit.page
        visit.expects("403")
        await page.get_by_label("Token").fill("not the token at all")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("Wrong token")
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator(".card .state")).to_have_text("Up to date")
        await expect(page.locator("#connection")).to_contain_text("Live")
        (cookie,) = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        visit.expects("401")  # for what the page requests just then
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.long
async def test_a_reader_who_was_signed_out_elsewhere_sees_the_login_page(
    installation: Installation, browser: Browser
) -> None:
    async with guarded(installation, browser) as visit:
        page = visit.page
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_contain_text("Live")
        visit.expects("401")
        await page.context.clear_cookies()
        await expect(page.get_by_label("Token")).to_be_visible()
