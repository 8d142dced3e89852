"""What a front end of the original kind relies on, field by field, as the real daemon sends it."""

import re
from typing import Any

import aiohttp

from kit.binary import started
from kit.event_source import listening
from kit.installation import Installation
from kit.simulated import BICYCLES, frozen_world

STREAM = f"messenger:{BICYCLES.id}"
STATUSES = {
    "started", "progress", "retrying", "db_retrying", "batch_failed", "batch_db_failed", "rate_limited",
    "timeout_warning", "batch_limit_warning", "paused", "stopped", "complete", "complete_with_errors",
}  # fmt: skip
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"
FORMS: dict[str, str] = {
    "status": "|".join(STATUSES),
    "message": r"[^\n]+",
    "stream": r"(messenger|instagram):\d+",
    "at": INSTANT,
    "until": INSTANT,
    "type": r"[a-z_]+",
    "run": r"\S+",
    "successRate": r"(100|\d\d?)%",
    "duration": r"\d+s",
}
COUNTS = {"batch", "inserted", "updated", "skipped", "unchanged", "deadLettered", "batches", "failedBatches"}
NUMBERS = {"success_rate", "duration_seconds"}
OF_A_BATCH = {"inserted", "updated", "skipped", "unchanged", "deadLettered"}
OF_A_RUN = {"batches", "failedBatches", "duration", "duration_seconds"}
RATE = {"successRate", "success_rate"}
# What each type of entry has beside status, message, stream, at, type and run.
FIELDS = {
    "run_started": OF_A_RUN,
    "batch_stored": {"batch"} | OF_A_BATCH | OF_A_RUN | RATE,
    "fetch_failed": {"batch", "until"} | OF_A_RUN,
    "batch_failed": {"batch"} | OF_A_RUN,
    "sweep_completed": OF_A_BATCH | OF_A_RUN | RATE,
    "run_ended": OF_A_BATCH | OF_A_RUN,
}


async def everything_sent(installation: Installation) -> list[dict[str, Any]]:
    """Return all events from the first on, as a front end reads them after it was away."""
    ((entries,),) = installation.rows("SELECT count(*) FROM journal")
    async with (
        started(installation.folder, "run") as daemon,
        listening(await daemon.url(), last_event_id="0") as source,
    ):
        return [each.told for each in await source.events(entries)]


def demand_form(event: dict[str, Any]) -> None:
    """Check that every field is one of the contract, in its form."""
    assert {"status", "message", "stream", "at"} <= event.keys()
    for name, value in event.items():
        if name in COUNTS:
            assert type(value) is int, event
            assert value >= 0
        elif name in NUMBERS:
            assert type(value) in (int, float), event
            assert value >= 0
        else:
            assert re.fullmatch(FORMS[name], value), event
    assert event.get("skipped") == event.get("deadLettered")
    if "successRate" in event:  # rounded down: what failed is never 100 %
        assert event["successRate"] == f"{int(event['success_rate'])}%"
    if "duration" in event:
        assert event["duration"] == f"{event['duration_seconds']:.0f}s"


async def test_every_event_has_the_fields_of_its_type_in_their_form(installation: Installation) -> None:
    async with frozen_world(150, "http_500=0.3", pages=(BICYCLES,)) as simulator:
        limits = {"batch_size": 10, "max_batches_per_run": 4}
        retry = {"attempts": 2, "base_delay": "1ms", "max_delay": "2ms"}
        installation.configure_for(simulator, sync=limits, retry=retry)
        await installation.sync_until_complete(most=60)
        events = await everything_sent(installation)

    for event in events:
        demand_form(event)
        assert FIELDS.get(event["type"], set()) <= event.keys(), event
    assert {event["stream"] for event in events} == {STREAM}
    assert {"started", "progress", "retrying", "batch_limit_warning"} <= {event["status"] for event in events}


async def test_the_figures_of_a_run_are_the_sums_of_its_batches(installation: Installation) -> None:
    async with frozen_world(150, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"batch_size": 10})
        await installation.sync_until_complete()
        events = await everything_sent(installation)

    (complete,) = (event for event in events if event["status"] == "complete")
    batches = [event for event in events if event["type"] == "batch_stored" and event["run"] == complete["run"]]
    assert [event["batch"] for event in batches] == list(range(1, len(batches) + 1))
    for name in ("inserted", "updated", "skipped", "deadLettered"):
        assert complete[name] == sum(event[name] for event in batches)
    assert complete["batches"] >= len(batches)  # those that changed nothing have no entry
    assert (complete["failedBatches"], complete["successRate"]) == (0, "100%")
    assert complete["inserted"] == 150


async def test_a_sync_is_answered_with_what_was_done(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            url = f"{await daemon.url()}/api/streams/{STREAM}"
            async with aiohttp.ClientSession() as session:
                for action in ("pause", "resume", "sync"):
                    async with session.post(f"{url}/{action}", json={}) as response:
                        assert (response.status, response.content_type) == (200, "application/json")
                        assert await response.json() == {"stream": STREAM, "action": action, "outcome": "done"}
