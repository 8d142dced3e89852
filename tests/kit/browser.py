"""Chromium without a window, and visits with it that fail on any console error or request to another host."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from milepost.simulator.server import SimulatorServer

# Opens a page with a third of the work of the whole browser, which serves where it alone is installed.
SHELL = "chromium-headless-shell"
CHROMIUM = "chromium" if shutil.which("chromium") and not shutil.which(SHELL) else SHELL
PACKAGES = (SHELL, "fonts-dejavu-core", "libatomic1")  # the last for Playwright's own Node.js
QUIET = (
    "--no-sandbox",  # Chromium's sandbox does not work as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 60_000
POLL_SECONDS = 0.05
DESKTOP, PHONE = 1280, 360


@dataclass
class Visit:
    """A visited page and its complaints: console errors, and requests to other hosts."""

    page: Page
    host: str
    complaints: list[str] = field(default_factory=list)
    is_away: bool = False  # whether the daemon is down, which makes the browser log network errors
    expected: set[str] = field(default_factory=set)

    def expects(self, status: str) -> None:
        """Expect the daemon to respond with this error status, too, which the browser logs as well."""
        self.expected.add(f"the server responded with a status of {status}")

    def on_console(self, message: ConsoleMessage) -> None:
        is_expected = any(each in message.text for each in self.expected)
        is_expected = is_expected or (self.is_away and "net::ERR_" in message.text)
        if message.type in {"error", "warning"} and not is_expected:
            self.complaints.append(f"console: {message.text}")

    def on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data" and parts.netloc != self.host:
            self.complaints.append(f"request to {request.url}")

    async def faults(self) -> list[str]:
        """Return the serious and critical accessibility findings of axe-core."""
        await self.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
        found = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html']}"
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
            for node in each["nodes"]
        ]

    async def scrolls_sideways(self) -> bool:
        """Whether the page is wider than the screen."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


async def comes_true(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until a condition holds that Playwright's `expect` cannot express."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while True:
            if await condition():
                return
            await asyncio.sleep(POLL_SECONDS)


def hold_after(simulator: SimulatorServer, stream: str, batches: int) -> None:
    """Hold all requests after so many more batches of a stream, so that its sweep stops there."""
    simulator.hold(after=simulator.requests.by_stream[stream] + batches)


async def by_touch(page: Page) -> None:
    """Show the page as on a phone with a touch screen."""
    session = await page.context.new_cdp_session(page)
    await session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    await session.send("Emulation.setEmulatedMedia", {"features": [{"name": "pointer", "value": "coarse"}]})
    await page.set_viewport_size({"width": PHONE, "height": 800})


async def small_targets(page: Page) -> list[str]:
    """Return the touch targets that are less than 44 pixels high."""
    found: list[str] = await page.evaluate(
        """[...document.querySelectorAll("button, a, select, textarea, [type=search], summary, .choice label")]
        .filter(each => each.checkVisibility() && !each.classList.contains("skip"))
        .filter(each => each.getBoundingClientRect().height < 44)
        .map(each => each.outerHTML)"""
    )
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=QUIET, timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, url: str) -> AsyncIterator[Visit]:
    """Visit a page with a fresh profile. Fails the test if there are complaints at the end."""
    context = await browser.new_context(
        color_scheme="light", viewport={"width": DESKTOP, "height": 900}, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    visit = Visit(page, urlsplit(url).netloc)
    page.on("console", visit.on_console)
    page.on("pageerror", lambda error: visit.complaints.append(f"script: {error}"))
    page.on("request", visit.on_request)
    await page.goto(url)
    try:
        yield visit
    finally:
        # A test may end while one of its routes still holds a request, which the page then sends itself.
        await page.unroute_all(behavior="ignoreErrors")
        await context.close()
    assert not visit.complaints, visit.complaints
