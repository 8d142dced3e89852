"""Access that changes without a restart of the daemon: tokens are revoked and renewed, pages come and go."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kit.binary import Running, started, until
from kit.installation import Installation, page_section
from kit.leaks import leaks, left_behind
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world, taken_cursors
from milepost.simulator.access import USER
from milepost.simulator.plan import SimulatedPage

STREAM = f"messenger:{BICYCLES.id}"
OFTEN = {"interval": "1s"}
OTHER_STORE = "sqlite:///other.db"


@pytest.fixture
def token_file(installation: Installation) -> Path:
    return installation.folder / "token"


def by_file(page: SimulatedPage, token_file: Path) -> dict[str, object]:
    """Return the page as config.yaml lists it, with its token in a file."""
    token_file.write_text(page.token)
    section = {key: value for key, value in page_section(page).items() if key != "access_token"}
    return section | {"access_token_file": token_file.name}


@asynccontextmanager
async def running(installation: Installation) -> AsyncIterator[Running]:
    """Run the daemon, and wait until it has opened its database."""
    async with started(installation.folder, "run") as daemon:
        await daemon.says("started")
        yield daemon


async def ended_as(installation: Installation, stream: str, status: str, *, since_run: int = 0) -> None:
    """Wait until a run of the stream has ended this way; the runs in `since_run` do not count."""
    await until(lambda: status in [ending for ending, _ in installation.endings(stream)[since_run:]])


async def reload(daemon: Running, *tells: str) -> None:
    daemon.signal(signal.SIGHUP)
    for text in tells or ("configuration reloaded",):
        await daemon.says(text)


async def test_a_new_token_in_its_file_restarts_a_stopped_stream_at_its_cursor(
    installation: Installation, token_file: Path
) -> None:
    async with frozen_world(300, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.hold(after=2)
        installation.configure(simulator.base_url, by_file(BICYCLES, token_file), page_section(BAKERY))
        async with running(installation) as daemon:
            await until(lambda: len(installation.positions(STREAM)) >= 2)
            simulator.world.access.revoke(BICYCLES.id, 463)
            simulator.release()
            await ended_as(installation, STREAM, "stopped")
            walked = installation.positions(STREAM)
            await asyncio.to_thread(token_file.write_text, simulator.world.access.renew(BICYCLES.id))
            await daemon.says("access renewed")
            others = f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}"
            for stream in (STREAM, *others):
                await ended_as(installation, stream, "complete")
            assert not daemon.has_ended
    assert installation.positions(STREAM)[: len(walked)] == walked
    assert len(set(installation.positions(STREAM))) == len(installation.positions(STREAM)), "it began again"
    assert installation.rows("SELECT count(*) FROM conversations WHERE page_id = ?", BICYCLES.id) == [(300,)]
    assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]
    for stream in others:
        assert installation.endings(stream) == [("complete", None)], "the others are not affected"


async def test_sighup_applies_new_tokens_and_new_pages_of_the_configuration(installation: Installation) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.world.access.revoke(BICYCLES.id)
        installation.configure(simulator.base_url, page_section(BICYCLES))
        async with running(installation) as daemon:
            await ended_as(installation, STREAM, "stopped")
            simulator.world.access.renew(BICYCLES.id)
            installation.configure_for(simulator)
            await reload(daemon, "configuration reloaded", "access renewed", "stream added")
            for stream in (STREAM, f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}"):
                await ended_as(installation, stream, "complete")


async def test_sighup_tries_a_stopped_stream_at_once_after_its_permission_was_granted(
    installation: Installation,
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        simulator.world.access.forbid(BICYCLES.id)
        installation.configure_for(simulator)
        async with running(installation) as daemon:
            await ended_as(installation, STREAM, "stopped")
            simulator.world.access.allow(BICYCLES.id)
            await reload(daemon)
            await ended_as(installation, STREAM, "complete")


async def test_an_invalid_configuration_is_logged_and_the_previous_one_stays_in_effect(
    installation: Installation,
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=OFTEN)
        good = installation.config.read_text()
        async with running(installation) as daemon:
            await ended_as(installation, STREAM, "complete")
            installation.config.write_text("sync: {interval: yesterday}\n")
            await reload(daemon, "configuration not reloaded")
            newcomer = simulator.world.receive(BICYCLES.id, "messenger", NOW)
            find = "SELECT 1 FROM conversations WHERE conversation_id = ?"
            await until(lambda: installation.rows(find, newcomer))
            installation.config.write_text(good)
            await reload(daemon)
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert ended.code == 0, ended
    assert "config.yaml:1: sync.interval:" in ended.stderr


async def test_a_removed_page_stops_after_its_batch_and_resumes_there_when_it_is_back(
    installation: Installation,
) -> None:
    async with frozen_world(500, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.hold(after=2)
        installation.configure_for(simulator, sync=OFTEN)
        async with running(installation) as daemon:
            await until(lambda: len(installation.positions(STREAM)) >= 2)
            installation.configure(simulator.base_url, page_section(BAKERY), sync=OFTEN)
            await reload(daemon, "stream removed", "configuration reloaded")
            simulator.release()
            await ended_as(installation, STREAM, "paused")
            assert installation.endings(STREAM) == [("paused", "removed")]
            walked = installation.positions(STREAM)
            await ended_as(installation, f"messenger:{BAKERY.id}", "complete")
            taken_cursors(simulator)  # perhaps including the prefetched batch, which was dropped
            for stream in (f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}"):
                runs = len(installation.endings(stream))
                await ended_as(installation, stream, "complete", since_run=runs)
            assert STREAM not in taken_cursors(simulator), "it is worked no more"
            installation.configure_for(simulator, sync=OFTEN)
            await reload(daemon, "stream added")
            await ended_as(installation, STREAM, "complete")
            *head, resumed = taken_cursors(simulator)[STREAM][:2]
            if resumed == walked[-1]:
                assert head == [None], "what is new is read first where an interval has passed"
            else:
                assert head == walked[-1:]
    assert installation.rows("SELECT count(*) FROM conversations WHERE page_id = ?", BICYCLES.id) == [(500,)]


async def test_a_reload_applies_live_settings_and_names_those_that_need_a_restart(installation: Installation) -> None:
    async with frozen_world(120, pages=(BAKERY, BICYCLES)) as simulator:
        installation.configure(simulator.base_url, page_section(BICYCLES))
        async with running(installation) as daemon:
            await ended_as(installation, STREAM, "complete")
            installation.configure_for(
                simulator,
                sync=OFTEN,
                log={"level": "debug"},
                http={"listen": "127.0.0.1:1"},
                store={"url": OTHER_STORE},
            )
            await reload(daemon)
            changed = await daemon.says("configuration reloaded")
            restart = await daemon.says("restart needed")
            newcomer = simulator.world.receive(BICYCLES.id, "messenger", NOW)
            find = "SELECT 1 FROM conversations WHERE conversation_id = ?"
            await until(lambda: installation.rows(find, newcomer))
            await daemon.says("run started")  # logged at debug, for a new page
    assert 'changed=\'["pages","sync.interval","log.level"]\'' in changed
    assert 'keys=\'["store.url","http.listen"]\'' in restart
    assert "until Milepost is restarted" in restart


async def test_a_missing_configuration_is_refused_and_the_previous_one_stays_in_effect(
    installation: Installation,
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync=OFTEN)
        async with running(installation) as daemon:
            installation.config.unlink()
            await reload(daemon, "configuration not reloaded")
            runs = len(installation.endings(STREAM))
            await ended_as(installation, STREAM, "complete", since_run=runs)
            assert not daemon.has_ended


async def test_discovered_pages_are_added_when_they_come_and_suspended_when_they_go(installation: Installation) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES)) as simulator:
        access = simulator.world.access
        access.unmanage(BAKERY.id)
        manager = {"access_token": access.user_token, "discover_pages": True}
        installation.configure(simulator.base_url, source=manager)
        async with running(installation) as daemon:
            await ended_as(installation, STREAM, "complete")
            assert list(installation.checkpoints()) == [STREAM]
            access.manage(BAKERY.id)
            access.unmanage(BICYCLES.id)
            await reload(daemon, "stream added", "page lost")
            await ended_as(installation, f"instagram:{BAKERY.id}", "complete")
            await ended_as(installation, STREAM, "stopped")
            runs = len(installation.endings(STREAM))
            access.manage(BICYCLES.id)
            await reload(daemon, "access renewed")
            await ended_as(installation, STREAM, "complete", since_run=runs)
            said = await daemon.kill()
    assert "source.access_token does not manage it any more" in said.stderr
    tokens = [access.user_token, BAKERY.token, BICYCLES.token]
    assert leaks(left_behind(installation.folder, besides=[installation.config]), tokens) == []


async def test_a_dead_manager_token_is_logged_and_replaced_while_configured_pages_are_synced(
    installation: Installation,
) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES)) as simulator:
        access = simulator.world.access
        pages = (page_section(BAKERY),)
        installation.configure(
            simulator.base_url, *pages, source={"access_token": access.user_token, "discover_pages": True}
        )
        access.revoke(USER, 460)
        synced = await installation.sync()
        assert synced.code == 77, synced
        assert "pages could not be discovered" in synced.stderr
        assert installation.endings(f"messenger:{BAKERY.id}") == [("complete", None)]
        async with running(installation) as daemon:
            await daemon.says("pages could not be discovered")
            renewed = {"access_token": access.renew(USER), "discover_pages": True}
            installation.configure(simulator.base_url, *pages, source=renewed)
            await reload(daemon, "configuration reloaded", "stream added")
            await ended_as(installation, STREAM, "complete")
