"""The pictures of the status page in the docs, made from a busy world.

    MILEPOST_PICTURES=docs python -m pytest -n0 tests/browser/test_pictures.py

makes them anew; without the variable they are made and thrown away, so that they can be made when they are needed.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from struct import unpack

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from browser.test_many_streams import Stream, visiting_many
from kit.binary import started, until
from kit.browser import hold_after, visiting
from kit.installation import Installation, page_section
from kit.simulated import BAKERY, BICYCLES, frozen_world, right_now
from milepost.simulator.plan import SimulatedPage

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = Path(os.environ["MILEPOST_PICTURES"]).absolute() if "MILEPOST_PICTURES" in os.environ else None
BOOKS = SimulatedPage(id="61550000000000003", name="Harbour Books", token="EAABooks", platforms=("messenger",))
POISONED = 12
PAGES = (
    "Corner Bakery",
    "Fahrrad Müller",
    "Café Lumière",
    "Harbour Books",
    "Green Grocer",
    "Nordic Knits",
    "Casa Azul",
)
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def take(page: Page, name: str, folder: Path, height: int) -> None:
    """Take a picture, and check that the docs have one of that name."""
    picture = (FOLDER or folder) / name
    await page.set_viewport_size({"width": 1280, "height": height})
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # the chart
    await page.screenshot(path=picture)
    assert size_of(picture) == size_of(DOCS / name) == (1280, height)


def size_of(picture: Path) -> tuple[int, int]:
    """Return the width and the height of a PNG."""
    width, height = unpack(">II", picture.read_bytes()[16:24])
    return width, height


async def a_busy_hour(route: Route) -> None:
    """Answer with an hour in which the first sweeps end, a page fails for a while, and messages come now and then."""
    latest = int(right_now().timestamp()) // 15 * 15
    buckets = [
        {
            "at": datetime.fromtimestamp(latest - 15 * (239 - number), UTC).isoformat(),
            "conversations": max(0, 900 - 12 * number) + 35 * (number * number % 11),
            "failed_batches": int(number in {121, 126}),
            "retries": (number % 4) * (118 < number < 130),
            "delay_seconds": 210 + 13 * (number % 9) + 600 * (130 < number < 138)
            if number > 75 and number % 5 == 0
            else None,
        }
        for number in range(240)
    ]
    await route.fulfill(json={"at": right_now().isoformat(), "step_seconds": 15, "buckets": buckets})


@pytest.mark.long
async def test_a_few_streams(installation: Installation, browser: Browser, tmp_path: Path) -> None:
    async with frozen_world(240, pages=(BAKERY, BICYCLES, BOOKS), clock=right_now) as simulator:
        installation.configure(
            simulator.base_url,
            *({**page_section(page), "name": page.name} for page in simulator.pages),
            sync={"batch_size": 20, "interval": "1h"},
        )
        for thread in simulator.world.truth(BAKERY.id, "instagram", right_now())[7 : 7 + 5 * POISONED : 5]:
            simulator.world.poison(thread.id)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await page.route("**/api/activity*", a_busy_hour)
            await page.reload()
            await expect(page.locator("#figure-dead-letters")).to_have_text(str(POISONED))
            await expect(page.locator(".card .state", has_text="Up to date")).to_have_count(3)
            await expect(page.locator(".card .state", has_text="Complete with errors")).to_have_count(1)
            simulator.world.access.revoke(BICYCLES.id, 463)
            await card(page, BICYCLES.id).get_by_role("button", name="Sync now").click()
            await expect(card(page, BICYCLES.id).locator(".state")).to_have_text("Needs you")
            simulator.break_page(BOOKS.id, 2)
            await card(page, BOOKS.id).get_by_role("button", name="Sync now").click()
            await expect(card(page, BOOKS.id).locator(".state")).to_have_text("Failed")
            for thread in simulator.world.truth(BAKERY.id, "messenger", right_now()):
                simulator.world.receive(BAKERY.id, "messenger", right_now(), thread.id)
            hold_after(simulator, f"messenger:{BAKERY.id}", batches=7)
            await card(page, BAKERY.id).get_by_role("button", name="Full sweep").click()
            await until(lambda: simulator.held)
            await expect(card(page, BAKERY.id).locator(".doing")).to_contain_text("of about")
            await page.locator(".toast button").evaluate_all("buttons => buttons.forEach(button => button.click())")
            await take(page, "status-page.png", tmp_path, 1200)
            simulator.release()


def card(page: Page, page_id: str) -> Locator:
    return page.locator(f'.card[data-stream="messenger:{page_id}"]')


@pytest.mark.long
async def test_four_hundred_streams(installation: Installation, browser: Browser, tmp_path: Path) -> None:
    async with visiting_many(installation, browser, _busy) as visit:
        await expect(visit.page.locator("#table tbody tr").first).to_contain_text("Needs you")
        await take(visit.page, "status-page-many.png", tmp_path, 800)


def _busy(number: int, stream: Stream) -> None:
    stream |= {"page_name": f"{PAGES[number % len(PAGES)]} {number // len(PAGES) + 1}"}
    if number % 131 == 17:
        stream |= {"state": "stopped", "token_is_valid": False, "next_run_at": None}
    elif number % 97 == 41:
        stream |= {"state": "failed", "problem": f"HTTP 500, code {number}", "open_dead_letters": number % 4}
    elif number % 25 == 3:
        sweep = {"mode": "full", "phase": "walk", "batches": 9, "walk_started_at": stream["last_success_at"]}
        known = {"reached_at": stream["last_success_at"], "conversations": 37 * number, "expected": 20_000}
        stream |= {"state": "syncing", "sweep": sweep | known | {"walk_until": None}, "message_backlog": 3 * number}
    elif number % 30 == 7:
        stream |= {"state": "queued"}
