"""The status page shows how far receivers have got what changed, where the configuration names any."""

import pytest
from playwright.async_api import Browser, expect

from kit.binary import started
from kit.browser import visiting
from kit.installation import Installation
from kit.receiver import NEW, Receiver
from kit.simulated import BICYCLES, frozen_world, right_now

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_receivers_are_shown_with_what_keeps_them_from_more(installation: Installation, browser: Browser) -> None:
    async with (
        frozen_world(10, pages=(BICYCLES,), clock=right_now) as simulator,
        Receiver().listening() as receiver,
        Receiver(lambda _: 500).listening() as broken,
    ):
        installation.configure_for(
            simulator,
            sync={"interval": "1h"},
            deliveries=[
                {"name": name, "url": each.url, "secret": NEW, "from": "start"}
                for name, each in (("crm", receiver), ("erp", broken))
            ],
        )
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            cards = visit.page.locator("#deliveries-list > .card")
            await expect(cards).to_have_count(2)
            await expect(cards.nth(0)).to_contain_text("crm")
            await expect(cards.nth(0)).to_contain_text("Up to date")
            await expect(cards.nth(1)).to_contain_text("Failing")
            await expect(cards.nth(1)).to_contain_text("HTTP 500: ")
            await expect(visit.page.locator("#notice")).to_contain_text("Deliveries to erp fail")
            assert await visit.faults() == []
            assert not await visit.scrolls_sideways()
