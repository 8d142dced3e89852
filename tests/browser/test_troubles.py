"""What the status page says while something is wrong with the daemon as a whole."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
import yaml
from playwright.async_api import Browser, Page, Route, expect

from kit.binary import started
from kit.browser import visiting
from kit.installation import Installation, PostgresqlInstallation, ballast_of, installed_on_small_disk
from kit.postgres import Servers, fresh_database
from kit.simulated import BAKERY, BICYCLES, frozen_world, right_now
from milepost.simulator.access import USER

pytestmark = pytest.mark.asyncio(loop_scope="session")
CONNECTIONS_OF_A_BROWSER = 6  # to one host


async def verdict(page: Page, text: str) -> None:
    await expect(page.locator("#verdict")).to_have_text(text)


async def test_a_full_disk_is_the_verdict_whatever_the_streams_do(tmp_path: Path, browser: Browser) -> None:
    with installed_on_small_disk(tmp_path) as installation:
        async with frozen_world(600, pages=(BICYCLES,)) as simulator:
            installation.configure_for(simulator, store={"url": f"sqlite:///{installation.database}"})
            async with started(tmp_path, "run") as daemon, visiting(browser, await daemon.url()) as visit:
                page = visit.page
                await verdict(page, "The database is unavailable")
                await expect(page.locator("#verdict-more")).to_contain_text("the disk is full: make room")
                await expect(page.locator("#summary")).to_have_attribute("data-tone", "stopped")
                await expect(page).to_have_title("The database is unavailable · Milepost")
                await expect(page.locator(".card .state")).to_have_text("Retrying")
                assert await visit.faults() == []
                await expect(page.locator(".card .waits")).to_contain_text("Waits for the database")
                ballast_of(installation.database.parent).unlink()
                await verdict(page, "The stream is up to date")


@pytest.mark.long
async def test_a_stopped_postgresql_is_the_verdict_although_no_stream_can_be_read(
    tmp_path: Path, browser: Browser, postgres_servers: Servers
) -> None:
    server = postgres_servers.of("newest")
    with fresh_database(server, template=None) as database:
        installation = PostgresqlInstallation(tmp_path, database)
        async with frozen_world(20, pages=(BICYCLES,)) as simulator:
            installation.configure_for(simulator)
            async with started(tmp_path, "run") as daemon, visiting(browser, await daemon.url()) as visit:
                await expect(visit.page.locator(".card .state")).to_have_text("Up to date")
                visit.expects("503")
                server.stop("immediate")
                try:
                    await verdict(visit.page, "The database is unavailable")
                    await expect(visit.page.locator("#verdict-more")).to_contain_text("The stream is up to date")
                    await expect(visit.page.locator("body")).to_have_class("stale")
                finally:
                    server.start()
                await verdict(visit.page, "The stream is up to date")


@pytest.mark.long
async def test_failed_discovery_is_said_where_there_are_streams_and_where_there_are_none(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES), clock=right_now) as simulator:
        simulator.world.access.revoke(USER)
        source = {"access_token": simulator.world.user_token, "discover_pages": True}
        installation.configure(simulator.base_url, source=source)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await verdict(page, "There is no stream to work on")
            await expect(page.locator("#streams-empty")).to_contain_text("cannot be discovered")
            await expect(page.locator("#notice")).to_contain_text("code 190")
            simulator.world.access.allow(USER)
            daemon.signal(signal.SIGHUP)
            await verdict(page, "All 3 streams are up to date")
            await expect(page.locator("#notice")).to_be_hidden()
            simulator.world.access.revoke(USER)
            daemon.signal(signal.SIGHUP)
            await expect(page.locator("#notice")).to_contain_text("cannot be discovered since")
            await expect(page.locator("#notice")).to_contain_text("Give source.access_token a new token")


@pytest.mark.long
async def test_a_refused_reload_is_said_until_the_file_is_right(installation: Installation, browser: Browser) -> None:
    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        good = installation.config.read_text()
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await verdict(page, "The stream is up to date")
            installation.config.write_text(yaml.safe_dump({**yaml.safe_load(good), "sync": {"batch_size": 5000}}))
            daemon.signal(signal.SIGHUP)
            await expect(page.locator("#notice")).to_contain_text("sync.batch_size: found 5000")
            await verdict(page, "The stream is up to date")
            installation.config.write_text(good)
            daemon.signal(signal.SIGHUP)
            await expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.long
async def test_what_waits_for_a_slot_or_has_not_begun_does_not_count_as_syncing(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(60, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.hold(after=2)
        installation.configure_for(simulator, sync={"concurrency": 1, "batch_size": 20, "interval": "1h"})
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await verdict(page, "1 of 3 streams is syncing")
            await expect(page.locator("#verdict-more")).to_have_text("2 are waiting for a slot")
            await expect(page.locator(".card .state", has_text="Waiting for a slot")).to_have_count(2)
            simulator.release()
            await verdict(page, "All 3 streams are up to date")


async def test_an_answer_that_is_cut_off_does_not_end_the_refreshes(
    installation: Installation, browser: Browser
) -> None:
    cut_off = asyncio.Event()

    async def cut(route: Route) -> None:
        await route.fulfill(body='{"at":', content_type="application/json")
        cut_off.set()

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            await verdict(visit.page, "The stream is up to date")
            await visit.page.route("**/api/overview*", cut)
            await cut_off.wait()
            await visit.page.unroute_all(behavior="wait")
            await visit.page.get_by_role("button", name="Pause").click()
            await verdict(visit.page, "The stream is paused")


async def test_events_of_a_restored_database_are_shown_although_their_ids_are_lower(
    installation: Installation, browser: Browser
) -> None:
    def sent(seq: int, kind: str, at: str) -> str:
        event = {"status": "progress", "type": kind, "message": kind, "stream": "messenger:1", "at": at}
        return f"id: {seq}\ndata: {json.dumps(event)}\n\n"

    before = sent(89, "one", "2026-03-01T12:00:00Z") + sent(90, "two", "2026-03-01T12:00:01Z")
    connections = ["retry: 50\n\n" + before, "retry: 600000\n\n" + before + sent(3, "three", "2026-03-01T12:05:00Z")]

    async def answer(route: Route) -> None:
        await route.fulfill(body=connections.pop(0), content_type="text/event-stream")

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            await expect(visit.page.locator("#connection")).to_have_text("Live")  # it asks for events no more
            await visit.page.route("**/api/events*", answer)
            await visit.page.reload()
            await expect(visit.page.locator("#feed .what")).to_have_text(["three", "two", "one"])


async def test_the_drawer_of_a_stream_that_was_removed_closes(installation: Installation, browser: Browser) -> None:
    async def without_bicycles(route: Route) -> None:
        response = await route.fetch()
        changes = await response.json()
        changes["streams"].pop(f"messenger:{BICYCLES.id}", None)
        await route.fulfill(response=response, json={**changes, "removed": [f"messenger:{BICYCLES.id}"]})

    async with frozen_world(20, pages=(BAKERY, BICYCLES), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page, drawer = visit.page, visit.page.locator("#drawer")
            await verdict(page, "All 3 streams are up to date")
            await page.locator(f'[data-stream="messenger:{BICYCLES.id}"] .opens').click()
            await expect(drawer).to_be_visible()
            await page.route("**/api/overview*", without_bicycles)
            await drawer.get_by_role("button", name="Full sweep").click()
            await expect(drawer).to_be_hidden()
            await expect(page.locator(".card")).to_have_count(2)
            await page.unroute_all(behavior="wait")


async def test_a_token_revoked_after_a_transient_failure_is_the_reason_that_is_shown(
    installation: Installation, browser: Browser
) -> None:
    async with frozen_world(20, "http_500=first:1", pages=(BICYCLES,)) as simulator:
        simulator.hold(after=1)  # so that the token is revoked before the second attempt
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            await daemon.says("fetch failed, retrying")
            simulator.world.access.revoke(BICYCLES.id, 463)
            simulator.release()
            card = visit.page.locator(".card")
            await verdict(visit.page, "The stream needs you")
            await expect(card.locator(".problem")).to_contain_text("code 190")
            await expect(card.locator(".advice")).to_contain_text("The token has expired: give page")


async def test_an_error_of_the_page_itself_is_said_and_does_not_end_the_refreshes(
    installation: Installation, browser: Browser
) -> None:
    async def of_another_version(route: Route) -> None:
        response = await route.fetch()
        changes = await response.json()
        del changes["daemon"]["deliveries"]
        await route.fulfill(response=response, json=changes)

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page, notice = visit.page, visit.page.locator("#notice")
            await verdict(page, "The stream is up to date")
            visit.expected.add("TypeError")
            await page.route("**/api/overview*", of_another_version)
            await expect(notice).to_contain_text("This page failed to show the streams")
            await page.unroute_all(behavior="wait")
            await page.get_by_role("button", name="Pause").click()
            await verdict(page, "The stream is paused")
            await expect(notice).to_be_hidden()


async def test_a_daemon_that_is_down_behind_a_proxy_is_the_verdict(
    installation: Installation, browser: Browser
) -> None:
    async def bad_gateway(route: Route) -> None:
        await route.fulfill(status=502, body="<h1>Bad Gateway</h1>", content_type="text/html")

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            await verdict(visit.page, "The stream is up to date")
            visit.expects("502")
            await visit.page.route("**/api/**", bad_gateway)
            await verdict(visit.page, "The daemon is unreachable")
            await visit.page.unroute_all(behavior="wait")
            await verdict(visit.page, "The stream is up to date")


async def test_two_issues_of_one_kind_are_both_shown(installation: Installation, browser: Browser) -> None:
    whats = ("deliveries to crm are not made", "deliveries to erp fail")

    async def with_both(route: Route) -> None:
        response = await route.fetch()
        changes = await response.json()
        changes["daemon"]["issues"] = [
            {"kind": "deliveries", "what": what, "since": None, "reason": None, "advice": None} for what in whats
        ]
        await route.fulfill(response=response, json=changes)

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            await visit.page.route("**/api/overview*", with_both)
            for what in whats:
                await expect(visit.page.locator("#notice")).to_contain_text(what[1:])
            await visit.page.unroute_all(behavior="wait")
            await expect(visit.page.locator("#notice")).to_be_hidden()


async def test_the_runs_of_the_drawer_are_loaded_again_after_a_failure(
    installation: Installation, browser: Browser
) -> None:
    async def unavailable(route: Route) -> None:
        problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "it is away"}
        await route.fulfill(status=503, body=json.dumps(problem), content_type="application/problem+json")

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page, notice = visit.page, visit.page.locator("#notice")
            await verdict(page, "The stream is up to date")
            visit.expects("503")
            await page.route("**/api/runs*", unavailable)
            await page.locator(".card .opens").click()
            await expect(notice).to_contain_text("Cannot load the runs")
            await expect(page.locator("#drawer-runs")).to_be_hidden()
            await page.unroute_all(behavior="wait")
            await expect(page.locator("#drawer-runs figcaption")).to_contain_text("1 run")
            await expect(notice).to_be_hidden()


async def test_more_dead_letters_than_a_list_can_show_are_pointed_to(
    installation: Installation, browser: Browser
) -> None:
    at = "2026-03-01T12:00:00Z"
    common = {"stage": "fetch", "reason": "HTTP 500", "opened_at": at, "redrive_at": None}
    group = {**common, "group": "abc", "count": 1_200, "streams": 1, "latest_at": at}

    async def groups(route: Route) -> None:
        await route.fulfill(json={"groups": [group], "is_complete": False})

    async def members(route: Route) -> None:
        limit = int(route.request.url.rpartition("limit=")[2])
        facts = {
            **common,
            "stream": "messenger:1",
            "attempts": 0,
            "closed_at": None,
            "contact_name": None,
            "link": None,
        }
        found = [{**facts, "dead_letter_id": f"{number:x}", "subject": f"t_{number}"} for number in range(limit)]
        await route.fulfill(json={"dead_letters": found, "next": None})

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await page.route("**/api/dead-letters/groups", groups)
            await page.route("**/api/dead-letters?group=*", members)
            await page.reload()
            await expect(page.locator("#more-dead-letters")).to_contain_text("has all")
            await page.get_by_role("button", name="Show them").click()
            for number in (10, 50, 250):
                await expect(page.locator(".dead-letter")).to_have_count(number)
                await page.get_by_role("button", name="Show more of them").click()
            await expect(page.locator(".dead-letter")).to_have_count(1_000)
            await expect(page.get_by_role("button", name="Show more of them")).to_be_hidden()
            await expect(page.locator(".group > .more")).to_contain_text("The oldest 1,000 are shown")


async def test_pages_that_nobody_sees_leave_their_connections_to_others(
    installation: Installation, browser: Browser
) -> None:
    async def turn(page: Page, *, is_hidden: bool) -> None:
        await page.evaluate(f"Object.defineProperty(document, 'hidden', {{value: {is_hidden:d}, configurable: true}})")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            first = page = visit.page
            for _ in range(CONNECTIONS_OF_A_BROWSER):
                await expect(page.locator("#connection")).to_have_text("Live")
                await turn(page, is_hidden=True)
                page = await page.context.new_page()
                await page.goto(first.url)
            await expect(page.locator("#connection")).to_have_text("Live")
            await page.get_by_role("button", name="Pause").click()
            await turn(first, is_hidden=False)
            await expect(first.locator("#feed")).to_contain_text("Paused")


async def test_a_slow_discard_does_not_close_the_question_about_another_dead_letter(
    installation: Installation, browser: Browser
) -> None:
    go_on = asyncio.Event()

    async def slow(route: Route) -> None:
        await go_on.wait()
        await route.fulfill(json={"dead_letter_id": "1", "outcome": "closed", "reason": None, "redrive_at": None})

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        for thread in simulator.world.truth(BICYCLES.id, "messenger", right_now())[3:8:4]:
            simulator.world.poison(thread.id)
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page, dialog = visit.page, visit.page.locator("#discard")
            await expect(page.locator("#figure-dead-letters")).to_have_text("2")
            letters = page.locator(".dead-letter")
            await expect(letters).to_have_count(2)
            await page.route("**/discard", slow)
            await letters.nth(0).get_by_role("button", name="Discard").click()
            await dialog.locator("textarea").fill("no longer needed")
            await dialog.get_by_role("button", name="Discard it").click()
            await dialog.get_by_role("button", name="Cancel").click()
            await letters.nth(1).get_by_role("button", name="Discard").click()
            go_on.set()
            await expect(page.locator(".toast", has_text="is resolved and closed")).to_be_visible()
            await expect(dialog).to_be_visible()
            await expect(dialog.get_by_role("button", name="Discard it")).not_to_have_attribute("aria-disabled", "true")


async def test_an_action_without_an_answer_is_not_called_failed(installation: Installation, browser: Browser) -> None:
    async def done_but_cut_off(route: Route) -> None:
        await route.fetch()
        await route.abort()

    async with frozen_world(20, pages=(BICYCLES,), clock=right_now) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon, visiting(browser, await daemon.url()) as visit:
            page = visit.page
            await verdict(page, "The stream is up to date")
            visit.is_away = True
            await page.route("**/pause", done_but_cut_off)
            await page.get_by_role("button", name="Pause").click()
            await expect(page.locator(".toast")).to_contain_text("it may take effect all the same")
            await verdict(page, "The stream is paused")
