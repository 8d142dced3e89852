"""A front end that follows a daemon across crashes receives every entry once."""

import asyncio
import signal
from collections import Counter
from contextlib import suppress

import aiohttp

from kit.binary import started, until
from kit.event_source import Heard, listening
from kit.installation import Installation
from kit.ports import unused_port
from kit.simulated import BICYCLES, STREAMS, frozen_world

FAULTS = "http_500=0.05,latency=10ms"
RETRY = {"attempts": 20, "base_delay": "1ms", "max_delay": "10ms"}


class FrontEnd:
    """Listens like a browser: when a connection ends, it reconnects with the id of the last event."""

    def __init__(self, url: str) -> None:
        self.heard: list[Heard] = []
        self._url = url
        self._last_event_id = "0"

    async def listen(self) -> None:
        """Listen until the connection ends."""
        async with listening(self._url, last_event_id=self._last_event_id) as source:
            with suppress(aiohttp.ClientError):
                while events := await source.some_events():
                    self.heard += events
            self._last_event_id = source.last_event_id

    @property
    def entries(self) -> list[Heard]:
        """The events received that are in the journal."""
        return [event for event in self.heard if event.id]

    @property
    def statuses(self) -> Counter[str]:
        return Counter(event.told["status"] for event in self.heard)


async def test_a_front_end_receives_every_entry_once_across_crashes_of_the_daemon(installation: Installation) -> None:
    address = f"127.0.0.1:{unused_port()}"
    front_end = FrontEnd(f"http://{address}")
    async with frozen_world(400, FAULTS) as simulator:
        installation.configure_for(simulator, retry=RETRY, sync={"batch_size": 10}, http={"listen": address})
        for life in range(1, 4):
            simulator.hold(after=12 * life)  # of each stream, which has 40 batches
            enough = len(front_end.entries) + 20
            async with started(installation.folder, "run") as daemon:
                await daemon.says("started")
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(front_end.listen())
                    await until(lambda: len(front_end.entries) >= enough)  # noqa: B023  (waited for here)
                    await daemon.kill()
        simulator.release()
        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(front_end.listen())
                await until(
                    lambda: sum(event.told["status"] == "complete" for event in front_end.heard) >= len(STREAMS)
                )
                daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
    ((entries,),) = installation.rows("SELECT count(*) FROM journal")
    assert [int(event.id) for event in front_end.entries] == list(range(1, entries + 1))
    assert [event.told["type"] for event in front_end.entries] == [
        tag for (tag,) in installation.rows("SELECT type FROM journal ORDER BY seq")
    ]
    assert front_end.statuses["paused"] >= len(STREAMS), "the runs that were killed"
    assert front_end.statuses["retrying"]


async def test_a_front_end_receives_the_shutdown_and_does_not_delay_it(installation: Installation) -> None:
    address = f"127.0.0.1:{unused_port()}"
    front_end = FrontEnd(f"http://{address}")
    async with frozen_world(500, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=2)
        installation.configure_for(simulator, http={"listen": address})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch stored")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(front_end.listen())
                await until(lambda: front_end.statuses["progress"])
                daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert ended.code == 0, f"it waited until its patience was over: {ended}"
    last = front_end.entries[-1].told
    assert (last["type"], last["status"]) == ("run_ended", "paused")


async def test_the_activity_of_the_last_hour_survives_a_restart(installation: Installation) -> None:
    address = f"127.0.0.1:{unused_port()}"
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http={"listen": address})
        for _ in range(2):
            async with started(installation.folder, "run") as daemon:
                await daemon.says("sweep completed")
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"http://{address}/api/activity?stream=messenger:{BICYCLES.id}") as response,
                ):
                    buckets = (await response.json())["buckets"]
                await daemon.kill()
            read = installation.rows("SELECT sum(inserted + updated + unchanged) FROM runs")
            assert [(sum(bucket["conversations"] for bucket in buckets),)] == read
