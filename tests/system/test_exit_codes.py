"""The exit codes that scripts rely on."""

import signal

from aiohttp import web

from kit.binary import milepost, started
from kit.graph_answers import listed, message, thread
from kit.installation import Installation, page_section
from kit.loopback import serving
from kit.simulated import BAKERY, BICYCLES, frozen_world
from milepost.simulator.plan import SimulatedPage

DEAD_TOKEN = page_section(BAKERY) | {"access_token": "EAADeadToken0000000000"}
# The API knows no such page, which may be temporary: it is retried, and then a person has to check the configuration.
UNKNOWN_PAGE = page_section(
    SimulatedPage(id="61550000000000009", name="Nobody", token=BICYCLES.token, platforms=("messenger",))
)


async def test_sync_exits_1_when_a_conversation_became_a_dead_letter(installation: Installation) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(listed(thread("t_1", message()), {"id": "t_2", "updated_time": "the day before"}))

    async with serving(answer) as base_url:
        installation.configure(base_url, page_section(BICYCLES))
        done = await installation.sync()
    assert done.code == 1, done
    assert installation.rows("SELECT subject FROM dead_letters") == [("t_2",)]
    assert installation.rows("SELECT conversation_id FROM conversations") == [("t_1",)]


async def test_sync_exits_75_after_ctrl_c(installation: Installation) -> None:
    async with frozen_world(500, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=1)
        installation.configure_for(simulator)
        async with started(installation.folder, "sync") as running:
            await running.says("batch stored")
            running.signal(signal.SIGINT)
            done = await running.ended()
    assert done.code == 75, done
    assert "shutdown; the next sync continues there" in done.stdout
    assert "Traceback" not in done.stderr
    assert installation.endings(f"messenger:{BICYCLES.id}") == [("paused", "shutdown")]


async def test_sync_exits_77_when_the_token_is_dead(installation: Installation) -> None:
    async with frozen_world(10) as simulator:
        installation.configure(simulator.base_url, DEAD_TOKEN)
        done = await installation.sync()
        looks = 2  # one for each stream, whether its list can be read at all
        assert simulator.requests.total == 2 + looks, "calling on with a dead token helps nobody"
    assert done.code == 77, done
    assert "code 190" in done.stdout


async def test_sync_exits_78_when_the_api_knows_no_such_page(installation: Installation) -> None:
    async with frozen_world(10) as simulator:
        installation.configure(simulator.base_url, UNKNOWN_PAGE)
        done = await installation.sync()
    assert done.code == 78, done
    assert "code 100, subcode 33" in done.stdout
    assert installation.endings(f"messenger:{UNKNOWN_PAGE['id']}") == [("stopped", "configuration")]


async def test_the_most_serious_of_several_streams_wins_and_the_others_are_synced(installation: Installation) -> None:
    broken = SimulatedPage(id="61550000000000008", name="Broken", token="EAABroken0token", platforms=("messenger",))
    async with frozen_world(170, pages=(BAKERY, BICYCLES, broken)) as simulator:
        simulator.break_page(broken.id)
        pages = [page_section(BICYCLES), page_section(broken), DEAD_TOKEN, UNKNOWN_PAGE]
        installation.configure(simulator.base_url, *pages, sync={"max_batches_per_run": 1})
        streams = [f"messenger:{page['id']}" for page in pages]
        codes = [(await installation.sync(*streams[:number])).code for number in (4, 3, 2, 1, 1)]
    assert codes == [78, 77, 1, 75, 0]
    assert installation.rows("SELECT count(*) FROM conversations WHERE page_id = ?", BICYCLES.id) == [(170,)]


async def test_sync_exits_2_for_a_stream_that_is_not_configured(installation: Installation) -> None:
    installation.configure("http://127.0.0.1:1", page_section(BICYCLES))
    done = await installation.sync("messenger:404")
    assert done.code == 2, done
    assert f"there is no stream messenger:404; known are messenger:{BICYCLES.id}" in done.stderr


async def test_a_stream_is_not_unknown_while_pages_could_not_be_discovered(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        manager = {"access_token": "EAADeadToken0000000000", "discover_pages": True}
        installation.configure(simulator.base_url, source=manager)
        done = await installation.sync("messenger:404")
    assert done.code == 77, done
    assert "messenger:404" in done.stdout
    assert "the pages could not be discovered" in done.stdout


async def test_sync_exits_78_when_the_manager_has_no_page(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        simulator.world.access.unmanage(BICYCLES.id)
        manager = {"access_token": simulator.world.access.user_token, "discover_pages": True}
        installation.configure(simulator.base_url, source=manager)
        done = await installation.sync()
    assert done.code == 78, done
    assert "source.access_token manages no page" in done.stderr


async def test_sync_exits_75_when_a_rate_limit_prevents_page_discovery(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        simulator.limit(4, seconds=600)
        manager = {"access_token": simulator.world.access.user_token, "discover_pages": True}
        installation.configure(simulator.base_url, source=manager)
        done = await installation.sync()
    assert done.code == 75, done


async def test_sync_exits_2_for_wrong_usage(installation: Installation) -> None:
    unknown_option = await installation.sync("--fast")
    no_stream = await installation.sync("the bakery")
    no_command = await milepost(installation.folder, "dance")
    assert [unknown_option.code, no_stream.code, no_command.code] == [2, 2, 2]
    assert "messenger:<page id>" in no_stream.stderr
    assert not installation.database.exists()
