"""The example page of docs/nextjs-supabase.md: toasts for what a daemon does, read from another origin."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from kit.binary import started
from kit.browser import Visit
from kit.builders import NOON
from kit.installation import Installation
from kit.loopback import serving
from kit.simulated import STREAMS, frozen_world
from kit.supabase import RECIPE
from milepost.service.events.messages import Status

LOOKS = {
    "started": "working",
    "progress": "working",
    "retrying": "warning",
    "db_retrying": "warning",
    "batch_failed": "error",
    "batch_db_failed": "error",
    "rate_limited": "warning",
    "timeout_warning": "warning",
    "batch_limit_warning": "warning",
    "paused": "warning",
    "stopped": "error",
    "complete": "success",
    "complete_with_errors": "warning",
}

pytestmark = pytest.mark.asyncio(loop_scope="session")


class FrontEnd:
    """Serves the page, with its events from elsewhere or from here: those of a list, and then silence."""

    def __init__(self) -> None:
        self.events = "/api/milepost/events"
        self.sent: list[dict[str, object]] = []

    async def respond(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            page = (RECIPE / "toasts.html").read_text().replace("/api/milepost/events", self.events)
            return web.Response(text=page, content_type="text/html")
        if request.path != self.events:
            return web.Response(status=204)  # the icon
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for each in self.sent:
            await response.write(f"data: {json.dumps(each)}\n\n".encode())
        await response.write(b"retry: 86400000\n\n")
        return response


@asynccontextmanager
async def visiting(browser: Browser, url: str) -> AsyncIterator[Page]:
    """Visit the page, in which time moves only on command."""
    context = await browser.new_context()
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.clock.install(time=NOON)
    await page.clock.pause_at(NOON + timedelta(seconds=1))
    await page.goto(url)
    try:
        yield page
    finally:
        await context.close()
    assert complaints == []


async def test_each_status_is_shown_in_its_look_with_its_figures(browser: Browser) -> None:
    front_end = FrontEnd()
    figures = {"updated": 2, "skipped": 1, "failedBatches": 4, "successRate": "98%", "duration": "12s"}
    for status in Status:
        stream: dict[str, object] = {"stream": f"messenger:{status}"}
        event = {"status": status, "message": "<b>What happened</b>", "batch": 3, "inserted": 5}
        front_end.sent += [{"status": "started", "message": "Started"} | stream, event | stream | figures]
    async with serving(front_end.respond) as url, visiting(browser, url) as page:
        for status in Status:
            toast = page.get_by_role("listitem").filter(has_text=f"messenger:{status} ·")
            await expect(toast.locator("span")).to_have_text("<b>What happened</b>")
            await expect(toast).to_have_class(LOOKS[status])
            await expect(toast.locator("small")).to_have_text(
                f"messenger:{status} · batch 3 · 5 new, 2 updated, 1 skipped · 4 failed · 98% · 12s"
            )


async def test_the_page_is_accessible(browser: Browser) -> None:
    front_end = FrontEnd()
    statuses = ("started", "retrying", "stopped")
    front_end.sent = [{"status": each, "message": "It happened", "stream": f"messenger:{each}"} for each in statuses]
    async with serving(front_end.respond) as url, visiting(browser, url) as page:
        await expect(page.get_by_role("listitem")).to_have_count(3)
        await page.clock.resume()  # axe-core has timers of its own
        assert await Visit(page, url).faults() == []


@pytest.mark.long
async def test_a_toast_goes_when_its_stream_is_complete_or_when_it_is_closed(browser: Browser) -> None:
    front_end = FrontEnd()
    front_end.sent = [
        {"status": "complete", "message": "Sweep completed", "stream": "messenger:1"},
        {"status": "stopped", "message": "The token is invalid", "stream": "messenger:2"},
    ]
    async with serving(front_end.respond) as url, visiting(browser, url) as page:
        toasts = page.get_by_role("listitem")
        await expect(toasts).to_have_count(2)
        await page.clock.run_for(6000)
        await expect(toasts).to_have_text([re.compile("The token is invalid")])
        await page.get_by_role("button", name="Close").click()
        await expect(toasts).to_have_count(0)


async def test_the_events_of_a_daemon_are_shown_to_a_page_of_an_allowed_origin(
    browser: Browser, installation: Installation
) -> None:
    front_end = FrontEnd()
    async with serving(front_end.respond) as url, frozen_world(20) as simulator:
        installation.configure_for(simulator, http={"listen": "127.0.0.1:0", "allowed_origins": [url]})
        async with started(installation.folder, "run") as daemon:
            front_end.events = f"{await daemon.url()}/api/events?last=500&status=complete"  # whatever comes after it
            async with visiting(browser, url) as page:
                for stream in STREAMS:
                    toast = page.get_by_role("listitem").filter(has_text=stream)
                    await expect(toast).to_have_class("success")
                    await expect(toast.locator("small")).to_have_text(re.compile(r"\d+ new, .* · 100% · \d+s$"))


@pytest.mark.long
async def test_a_page_of_another_origin_is_shown_nothing(browser: Browser, installation: Installation) -> None:
    front_end = FrontEnd()
    async with serving(front_end.respond) as url, frozen_world(20) as simulator:
        installation.configure_for(
            simulator, http={"listen": "127.0.0.1:0", "allowed_origins": ["https://crm.example"]}
        )
        async with started(installation.folder, "run") as daemon:
            address = await daemon.url()
            context = await browser.new_context()
            page = await context.new_page()
            await page.goto(url)
            ends = "new Promise(ends => new EventSource('{}/api/events?last=50').onerror = event => ends(event.type))"
            assert await page.evaluate(ends.format(address)) == "error"
            await context.close()
