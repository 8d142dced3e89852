"""An outage of every stream takes few log lines that count everything, and so does its end."""

import json
import signal
from collections import Counter
from typing import Any

import pytest

from kit.binary import started, until
from kit.installation import Installation
from kit.simulated import frozen_world
from milepost.core.events import RunStatus
from milepost.simulator.plan import made_up_page

PAGES = tuple(made_up_page(1, number) for number in range(25))
STREAMS = 50
MAX_LINES_OF_A_KIND = (
    10 + 2 * 5
)  # ten streams separately, then summaries over half a minute, some of them for many streams


def counted(lines: list[dict[str, Any]]) -> Counter[str]:
    """Return how many lines there would have been for each event without deduplication."""
    count = Counter[str]()
    for line in lines:
        count[line["event"]] += line.get("repeated", 1)
    return count


@pytest.mark.long
async def test_an_outage_of_fifty_streams_takes_few_lines_and_all_are_counted(installation: Installation) -> None:
    async with frozen_world(20, pages=PAGES) as simulator:
        installation.configure_for(simulator, sync={"interval": "1s"}, log={"format": "json"})

        def ended(status: RunStatus) -> dict[str, int]:
            found = installation.rows("SELECT stream, count(*) FROM runs WHERE status = ? GROUP BY stream", status)
            return dict(found)

        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            await until(lambda: len(ended(RunStatus.COMPLETE)) == STREAMS)
            for page in PAGES:
                simulator.break_page(page.id)
            await until(lambda: len(failed := ended(RunStatus.FAILED)) == STREAMS and min(failed.values()) >= 4)
            for page in PAGES:
                simulator.mend_page(page.id)
            complete = ended(RunStatus.COMPLETE)
            await until(lambda: all(runs > complete[stream] for stream, runs in ended(RunStatus.COMPLETE).items()))
            daemon.signal(signal.SIGTERM)
            done = await daemon.ended()
    assert done.code == 0, done
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    troubles = [line for line in lines if line["level"] in {"warning", "error"}]
    written = Counter(line["event"] for line in troubles)
    assert max(written.values()) <= MAX_LINES_OF_A_KIND
    count = counted(troubles)
    assert count["run failed"] == sum(ended(RunStatus.FAILED).values())
    assert count["fetch failed, retrying"] == journaled(installation, "fetch_failed")
    assert count["batch given up"] == journaled(installation, "batch_failed")

    recoveries = [line for line in lines if line["event"] == "stream recovered"]
    assert len(recoveries) <= 3
    named = [name for line in recoveries for name in line.get("streams", [line.get("stream")])]
    assert len(set(named)) == STREAMS


def journaled(installation: Installation, tag: str) -> int:
    ((count,),) = installation.rows("SELECT count(*) FROM journal WHERE type = ?", tag)
    assert isinstance(count, int)
    return count
