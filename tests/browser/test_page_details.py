"""What the status page says in detail: dead letters by reason, times of the reader's zone, where it all comes from."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser, Locator, Page, expect

from kit.binary import started
from kit.browser import comes_true, visiting
from kit.installation import Installation
from kit.simulated import BICYCLES, frozen_world, right_now
from kit.webhooks import SECRET, body_of, signed

pytestmark = pytest.mark.asyncio(loop_scope="session")
STREAM = f"messenger:{BICYCLES.id}"
SMALL_BATCHES = {"batch_size": 20, "interval": "1h"}
POISONED = 7


def groups(page: Page) -> Locator:
    return page.locator("#dead-letters-list > .group")


async def test_dead_letters_of_one_reason_are_one_group_to_act_on_at_once(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        ill = [
            each.id for each in simulator.world.truth(BICYCLES.id, "messenger", right_now())[3 : 3 + 5 * POISONED : 5]
        ]
        for thread in ill:
            simulator.world.poison(thread)
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await expect(page.locator("#figure-dead-letters")).to_have_text(str(POISONED))
            heading = groups(page).get_by_role("heading", name=re.compile("could not be read"))

            async def are_all_counted() -> bool:
                """Whether the groups that have several are of all, but one that may have a reason of its own."""
                texts = await heading.all_inner_texts()
                return sum(int(text.split()[0]) for text in texts if text[0].isdigit()) >= POISONED - 1

            await comes_true(are_all_counted)
            largest = groups(page).first
            await expect(largest.locator(".dead-letter")).to_have_count(0)
            await largest.get_by_role("button", name="Show them").click()
            await expect(largest.locator(".dead-letter").first).to_be_visible()
            await largest.get_by_role("button", name="Hide them").click()
            await expect(largest.locator(".dead-letter")).to_have_count(0)
            assert await visit.faults() == []
            for thread in ill:
                simulator.world.cure(thread)
            while await groups(page).count():
                number = await groups(page).count()
                await groups(page).first.get_by_role("button", name=re.compile("Try all again|Retry now")).first.click()
                await expect(page.locator(".toast", has_text="closed").first).to_be_visible()
                await expect(groups(page)).not_to_have_count(number)
            await expect(page.locator("#dead-letters-empty")).to_contain_text("None open")
    assert {row[0] for row in installation.rows("SELECT resolution FROM dead_letters")} == {"redriven"}


@pytest.mark.long
async def test_a_dead_letter_of_a_stored_conversation_names_its_contact_and_leads_to_the_thread(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page, card = visit.page, visit.page.locator(".card")
            await expect(card.locator(".state")).to_have_text("Up to date")
            ((thread, name, link),) = installation.rows(
                "SELECT conversation_id, name, link "
                "FROM conversations JOIN contacts USING (platform, page_id, contact_id) "
                "WHERE name IS NOT NULL AND link IS NOT NULL ORDER BY updated_time DESC LIMIT 1"
            )
            simulator.world.receive(BICYCLES.id, "messenger", right_now(), thread)
            simulator.world.poison(thread)
            await card.get_by_role("button", name="Sync now").click()
            letter = page.locator(".dead-letter")
            await expect(letter.get_by_role("heading")).to_contain_text(f"The conversation with {name}")
            await expect(letter.get_by_role("link", name="Open at Meta")).to_have_attribute(
                "href", f"https://www.facebook.com{link}"
            )


@pytest.mark.long
async def test_times_are_those_of_the_reader(installation: Installation, browser: Browser) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            session = await page.context.new_cdp_session(page)
            await session.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
            await page.reload()
            await expect(page.locator(".card .state")).to_have_text("Up to date")
            simulator.limit(613, seconds=7200, page_id=BICYCLES.id)
            await page.locator(".card").get_by_role("button", name="Full sweep").click()
            row = page.locator('#feed [data-status="rate_limited"]').first
            await expect(row).to_be_visible()
            instant, shown = await row.locator("time").evaluate("time => [time.dateTime, time.innerText]")
            at = datetime.fromisoformat(instant)
            assert (at.astimezone(UTC) + timedelta(hours=9)).strftime("%H:%M:%S") == shown
            for text in (await row.inner_text(), await page.locator(".card").inner_text()):
                assert "UTC" not in text
            await expect(page.locator("#zone")).to_be_visible()


@pytest.mark.long
async def test_a_simulated_world_says_so_and_a_first_sweep_how_far_back_it_is(
    installation: Installation, browser: Browser
) -> None:
    installation.config.write_text("http: {listen: '127.0.0.1:0'}\nsync: {batch_size: 5}\n")
    async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
        await expect(visit.page.locator("#simulated")).to_contain_text("Simulated world")
        await expect(visit.page.locator(".card .doing").first).to_have_text(
            re.compile(r"Full sweep: [\d,]+ conversations, back to \w+ \d+")
        )


async def test_what_has_come_by_webhooks_is_said_where_they_are_taken(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BICYCLES,), app_secret=SECRET) as simulator:
        hooks = {"listen": "127.0.0.1:0", "verify_token": "a-word"}
        installation.configure_for(simulator, webhooks=hooks, source={"app_secret": SECRET}, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            said = visit.page.locator("#webhooks")
            await expect(said).to_have_text("0 webhooks since the daemon's start.")
            found = re.search(r"url=(http\S+)", await daemon.says("listening for webhooks"))
            assert found is not None
            body = body_of("m_1", page_id=BICYCLES.id)
            async with ClientSession() as session, session.post(found[1], data=body, headers=signed(body)) as answer:
                assert answer.status == 200
            await expect(said).to_have_text(
                re.compile(r"1 webhook since the daemon's start, the last at \d\d:\d\d:\d\d\.")
            )
            assert await visit.faults() == []
