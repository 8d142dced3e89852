"""The status page in a real browser, on the real daemon and a simulated world: what it shows, and what it does."""

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from kit.binary import started, until
from kit.browser import comes_true, hold_after, visiting
from kit.installation import Installation
from kit.ports import unused_port
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world

STREAM = f"messenger:{BICYCLES.id}"
pytestmark = pytest.mark.asyncio(loop_scope="session")
INTERRUPTING = ", ".join(f".toast[data-tone={tone}]" for tone in ("waiting", "warning", "stopped"))
SMALL_BATCHES = {"batch_size": 20, "interval": "1h"}


def card(page: Page, stream: str = STREAM) -> Locator:
    return page.locator(f'.card[data-stream="{stream}"]')


def toast(page: Page, text: str) -> Locator:
    return page.locator(".toast", has_text=text)


def dead_letters(page: Page) -> Locator:
    return page.locator(".dead-letter")


async def up_to_date(page: Page, stream: str = STREAM) -> None:
    await expect(card(page, stream).locator(".state")).to_have_text("Up to date")


async def feed_is_whole(page: Page) -> int:
    """Wait until the feed has each entry of the journal in one row, up to the newest that it has; return its seq."""
    newest = 0

    async def is_whole() -> bool:
        nonlocal newest
        found = await page.locator("#feed li[data-seq]").evaluate_all(
            "rows => rows.map(row => [Number(row.dataset.seq), Number(row.dataset.times)])"
        )
        newest = max((seq for seq, _ in found), default=0)
        return newest > 0 and sum(times for _, times in found) == newest

    await comes_true(is_whole)
    return newest


# --- what is shown ----------------------------------------------------------------------------------------------------


async def test_a_sync_shows_its_progress_and_its_end(installation: Installation, browser: Browser) -> None:
    async with frozen_world(200, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=3)
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await expect(page.locator("#connection")).to_contain_text("Live")
            await expect(card(page)).to_contain_text("Full sweep")
            await expect(card(page).locator("progress")).not_to_have_attribute("value", "0")
            await expect(page.locator("#verdict")).to_have_text("The stream is syncing")
            simulator.release()
            await up_to_date(page)
            await expect(page.locator("#verdict")).to_have_text("The stream is up to date")
            await expect(card(page)).to_contain_text("Last success")
            for section in ("#deliveries", "#webhooks"):  # of which there are none
                await expect(page.locator(section)).to_be_hidden()


@pytest.mark.long
async def test_a_full_sweep_shows_its_progress_as_a_share_of_the_known_conversations(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(200, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await up_to_date(page)
            for thread in simulator.world.truth(BICYCLES.id, "messenger", NOW):
                simulator.world.receive(BICYCLES.id, "messenger", NOW, thread.id)
            hold_after(simulator, STREAM, batches=4)
            await card(page).get_by_role("button", name="Full sweep").click()
            await until(lambda: simulator.held)
            simulator.limit(613, seconds=120, page_id=BICYCLES.id)
            simulator.release()
            await expect(card(page).locator(".state")).to_have_text("Rate limited")
            await expect(card(page).locator(".doing")).to_contain_text("of about 200 · ")
            bar = card(page).get_by_role("progressbar", name="Progress of the sweep")
            assert 0 < float(await bar.get_attribute("value") or 0) < 1


@pytest.mark.long
async def test_retries_and_rate_limits_appear_in_the_feed_and_interrupt_nobody(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(60, "latency=100ms", pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await up_to_date(page)
            simulator.break_page(BICYCLES.id, 2)
            await card(page).get_by_role("button", name="Full sweep").click()
            await expect(page.locator('#feed [data-status="retrying"]').first).to_be_visible()
            await expect(page.locator('#feed [data-status="batch_failed"]').first).to_be_visible()
            await expect(page.locator(INTERRUPTING)).to_have_count(0)
            await page.reload()  # the figures are asked for at once, and else every 15 seconds
            await expect(page.locator("#figure-failed")).to_have_text("1")
            await expect(page.locator("#figure-retries")).to_have_text("2")
            simulator.mend_page(BICYCLES.id)
            simulator.limit(613, seconds=120, page_id=BICYCLES.id)
            await card(page).get_by_role("button", name="Full sweep").click()
            await expect(card(page).locator(".state")).to_have_text("Rate limited")
            await expect(card(page).locator(".waits")).to_contain_text("(in 1")
            await expect(page.locator(INTERRUPTING)).to_have_count(0)
            await page.get_by_role("radio", name="Problems").check()
            await expect(page.locator('#feed [data-status="progress"]').first).to_be_hidden()
            await expect(page.locator('#feed [data-status="rate_limited"]').first).to_be_visible()


@pytest.mark.long
async def test_the_activity_is_shown_as_a_chart_and_in_numbers(installation: Installation, browser: Browser) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await expect(page.get_by_role("img", name="Conversations per second")).to_be_visible()
            # All of them, and those of the catch-up scan again.
            await expect(page.locator("#figure-read")).to_have_text("80")
            await expect(page.locator("#chart-summary")).to_have_text(
                "80 conversations read, 0 retries, 0 failed batches in the last 5 minutes."
            )
            await page.get_by_text("Show as a table").click()
            counts = page.locator("#chart-table tbody td:nth-child(2)")
            assert sum(map(int, await counts.all_inner_texts())) == 80
            await page.locator("#chart").press("ArrowLeft")
            await expect(page.locator("#chart-point")).to_contain_text("conversations/s")
            await page.get_by_role("button", name="24 h").click()
            await expect(page.locator("#chart-summary")).to_contain_text("in the last 24 hours")


# --- actions ----------------------------------------------------------------------------------------------------------


async def test_a_stream_is_paused_and_resumed_by_click_and_synced_by_keyboard(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await up_to_date(page)
            await until(lambda: len(installation.endings(STREAM)) == 1)
            await card(page).get_by_role("button", name="Pause").click()
            await expect(card(page).locator(".state")).to_have_text("Paused")
            await expect(card(page).locator(".waits")).to_contain_text("by status page from 127.0.0.1")
            await expect(card(page).get_by_role("button", name="Sync now")).to_be_hidden()
            resume = card(page).get_by_role("button", name="Resume")
            await resume.press("Enter")
            await until(lambda: len(installation.endings(STREAM)) == 2)  # a resumed stream syncs at once
            await up_to_date(page)
            await expect(card(page).get_by_role("button", name="Pause")).to_be_focused()

            newcomer = simulator.world.receive(BICYCLES.id, "messenger", NOW)
            await card(page).get_by_role("button", name="Sync now").press("Space")
            await until(lambda: installation.rows("SELECT 1 FROM conversations WHERE conversation_id = ?", newcomer))
            await until(lambda: len(installation.endings(STREAM)) == 3)
            await expect(card(page)).to_contain_text("1 new")


async def test_a_dead_letter_shows_its_payload_on_demand_and_is_redriven_by_click(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        ill = simulator.world.truth(BICYCLES.id, "messenger", NOW)[5].id
        simulator.world.poison(ill)
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await expect(dead_letters(page)).to_have_count(1)
            await expect(dead_letters(page).get_by_role("heading")).to_contain_text("could not be read")
            await expect(page.locator("#figure-dead-letters")).to_have_text("1")
            await expect(dead_letters(page).locator("pre")).to_be_hidden()
            await dead_letters(page).get_by_text("Payload").click()
            await expect(dead_letters(page).locator("pre")).to_contain_text(ill)

            await dead_letters(page).get_by_role("button", name="Retry now").click()
            await expect(toast(page, "failed again")).to_be_visible()
            await expect(dead_letters(page)).to_contain_text("1 failed retry")
            simulator.world.cure(ill)
            await dead_letters(page).get_by_role("button", name="Retry now").click()
            await expect(toast(page, "is resolved and closed")).to_be_visible()
            await expect(page.locator("#dead-letters-empty")).to_contain_text("None open")
            await expect(page.locator("#figure-dead-letters")).to_have_text("0")
    assert installation.rows("SELECT resolution FROM dead_letters") == [("redriven",)]


@pytest.mark.long
async def test_a_dead_letter_is_discarded_with_a_reason(installation: Installation, browser: Browser) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        simulator.world.poison(simulator.world.truth(BICYCLES.id, "messenger", NOW)[5].id)
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            discard = dead_letters(page).get_by_role("button", name="Discard")
            dialog = page.get_by_role("dialog", name="Discard a dead letter")
            await discard.click()
            await page.keyboard.press("Escape")
            await expect(dialog).to_be_hidden()
            await expect(discard).to_be_focused()
            await discard.press("Enter")
            await dialog.get_by_role("button", name="Discard it").click()
            await expect(dialog).to_be_visible()  # there is no reason yet
            await dialog.get_by_label("Why?").fill("spam <b>thread</b>")
            await dialog.get_by_role("button", name="Discard it").press("Enter")
            await expect(dialog).to_be_hidden()
            await expect(page.locator("#dead-letters-empty")).to_be_visible()
            await page.get_by_label("Which dead letters").select_option("closed")
            await expect(dead_letters(page)).to_contain_text("Discarded")
            await expect(dead_letters(page)).to_contain_text("spam <b>thread</b>")
    assert installation.rows("SELECT resolution, note FROM dead_letters") == [("discarded", "spam <b>thread</b>")]


async def test_what_newly_needs_a_person_is_announced_comes_first_and_says_what_to_do(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await up_to_date(page)
            simulator.world.access.revoke(BICYCLES.id, 463)
            await card(page).get_by_role("button", name="Sync now").click()
            await expect(page.locator("#toasts-urgent .toast")).to_contain_text("needs you")
            await page.reload()
            await expect(page.locator("#verdict")).to_have_text("1 of 3 streams needs you")
            await expect(page).to_have_title("1 of 3 streams needs you · Milepost")
            first = page.locator(".card").first
            await expect(first.locator(".state")).to_have_text("Needs you")
            await expect(first.locator(".advice")).to_contain_text("The token has expired: give page")
            await expect(page.locator("#toasts-urgent .toast")).to_have_count(0)


# --- when the daemon is down------------------------------------------------------------------------------------------


async def test_the_page_survives_a_killed_daemon_and_its_feed_continues_without_a_gap(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(400, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=8)
        listen = f"127.0.0.1:{unused_port()}"
        installation.configure_for(simulator, sync=SMALL_BATCHES, http={"listen": listen})
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await expect(page.locator("#feed li[data-seq]").nth(1)).to_be_visible()
            visit.is_away = True
            await daemon.kill()
            await expect(page.locator("#connection")).to_contain_text("Reconnecting")
            before = await feed_is_whole(page)
            simulator.release()
            async with started(installation.folder, "run") as again:
                await again.url()
                await expect(page.locator("#connection")).to_contain_text("Live")
                await up_to_date(page)
                ((last,),) = installation.rows("SELECT max(seq) FROM journal")
                assert last > before + 3
                await comes_true(lambda: feed_reaches(page, last))


async def feed_reaches(page: Page, seq: int) -> bool:
    return await feed_is_whole(page) >= seq


@pytest.mark.long
async def test_a_daemon_that_stays_down_is_shown_with_the_time_and_what_to_do_and_the_buttons_are_off(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=SMALL_BATCHES)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await up_to_date(page)
            sync = card(page).get_by_role("button", name="Sync now")
            await expect(sync).to_be_enabled()
            visit.is_away = True
            await daemon.kill()
            await expect(page.locator("#connection")).to_contain_text("Reconnecting")
            await expect(sync).to_be_disabled()
            await sync.dispatch_event("click")
            await expect(page.locator(".toast")).to_have_count(0)
            await page.clock.install()
            await page.clock.fast_forward("00:11")
            await expect(page.locator("#verdict")).to_have_text("The daemon is unreachable")
            await expect(page.locator("#connection")).to_contain_text("Unreachable since")
            await expect(page.locator("#verdict-more")).to_contain_text("The stream is up to date")
            await expect(page.locator("#notice")).to_contain_text("systemctl status milepost")
