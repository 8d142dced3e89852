"""Each command, started anew: the other tests fork a process that has imported everything, in an order of its own."""

import signal

import pytest
from aiohttp import web

from kit.binary import NOT_FORKED, milepost, started
from kit.installation import Installation
from kit.loopback import serving
from kit.simulated import BICYCLES, NOW, frozen_world
from milepost.cli import COMMANDS

STREAM = f"messenger:{BICYCLES.id}"
USES = [  # one use of each command that ends by itself, in this order, and its exit code
    ("config check", 0),
    ("sync", 1),
    ("status", 0),
    ("pause {stream}", 0),
    ("resume {stream}", 0),
    ("dead-letters redrive", 1),
    ("changes", 0),
    ("journal verify", 0),
    ("backup copy.db", 0),
    ("deliveries list", 0),
    ("contacts forget messenger {page} nobody --yes", 0),
    ("store copy --to sqlite:///other.db", 0),
    ("notify test", 0),
    ("streams remove {stream} --yes", 0),
    ("completion bash", 0),
]


@pytest.mark.long
async def test_each_command_shows_its_help_in_a_process_of_its_own(installation: Installation) -> None:
    for command in COMMANDS:
        shown = await milepost(installation.folder, command, "--help", environment=NOT_FORKED)
        assert shown.code == 0, shown
        assert shown.stdout.startswith(f"Usage: milepost {command} ")


@pytest.mark.timeout(600)  # the program is started twenty times
async def test_each_command_works_in_a_process_of_its_own(installation: Installation) -> None:
    assert {use.split()[0] for use, _ in USES} == COMMANDS.keys() - {
        "run",
        "simulate",
    }  # tests/cli starts the latter

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    async with serving(take) as people, frozen_world(5, pages=(BICYCLES,)) as simulator:
        simulator.world.poison(simulator.world.truth(BICYCLES.id, "messenger", NOW)[2].id)
        installation.configure_for(simulator, notify={"urls": [people.replace("http", "json")]})
        for use, code in USES:
            words = use.format(stream=STREAM, page=BICYCLES.id).split()
            ended = await milepost(installation.folder, *words, environment=NOT_FORKED)
            assert ended.code == code, f"{use}\n{ended}"
        async with started(installation.folder, "run", environment=NOT_FORKED) as daemon:
            await daemon.says("sweep completed")
            daemon.signal(signal.SIGTERM)
            ran = await daemon.ended()
            assert ran.code == 0, ran
