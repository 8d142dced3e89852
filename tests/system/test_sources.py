"""Real and invented conversations never share a database, even if `source.kind` was forgotten.

A simulator with another seed than the embedded one plays the real API.
"""

import signal
from pathlib import Path

import pytest

from kit.binary import Ended, milepost, started
from kit.installation import Installation, on_both_databases, on_sqlite_first, page_section
from kit.simulated import BICYCLES, frozen_world
from milepost.cli import COMMANDS
from milepost.simulator.server import SimulatorServer

STREAM = f"messenger:{BICYCLES.id}"
INVENTED, REAL = 50, 120
WARNING = "a new database was created beside others"


def real_api(conversations: int = REAL) -> SimulatorServer:
    return frozen_world(conversations, pages=(BICYCLES,), seed=7)


def refused(ended: Ended, *expected: str) -> None:
    assert ended.code == 78, ended
    assert [each for each in expected if each not in ended.stderr] == [], ended


def conversations(installation: Installation) -> set[str]:
    return {id_ for (id_,) in installation.rows("SELECT conversation_id FROM conversations WHERE deleted_at IS NULL")}


def truth(api: SimulatorServer) -> set[str]:
    page = BICYCLES.id
    return {each.id for each in api.world.truth(page, "messenger", api.world.plan.anchor_at)}


async def with_invented_people(installation: Installation) -> set[str]:
    """Fill the page's stream with the embedded world's people, as an older version would have."""
    async with frozen_world(INVENTED, pages=(BICYCLES,)) as embedded:
        await installation.sync_from(embedded)
        installation.rows("DELETE FROM source")
        return conversations(installation)


@pytest.mark.parametrize(
    "command", [["config", "check"], ["config", "check", "--online"], ["sync"], ["run"]], ids=" ".join
)
async def test_pages_without_the_facebook_kind_are_refused_and_nothing_is_created(
    installation: Installation, command: list[str]
) -> None:
    installation.config.write_text("pages:\n  - id: '1234567890'\n    access_token: EAABx\n")
    refused(
        await milepost(installation.folder, *command),
        "config.yaml:1: pages: source.kind is not set: it is simulator, whose world brings pages of its own;",
        "set source.kind: facebook",
    )
    assert list(installation.folder.glob("*.db*")) == []


async def test_the_simulated_world_uses_a_database_of_its_own(installation: Installation) -> None:
    async with real_api() as api:
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch stored")
            daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
        assert not installation.database.exists()
        await installation.sync_from(api)
        assert conversations(installation) == truth(api)


class TestADatabaseThatHoldsInventedPeople:
    @pytest.fixture
    def api(self) -> SimulatorServer:
        return real_api()

    async def test_a_database_with_invented_people_is_refused_and_left_unchanged(
        self, installation: Installation, api: SimulatorServer
    ) -> None:
        invented = await with_invented_people(installation)
        async with api:
            installation.configure_for(api)
            for command in ("sync", "run"):
                refused(
                    await milepost(installation.folder, command),
                    f"holds people that the simulator invented, in {STREAM}, and the configuration names facebook",
                    "set store.url to another database",
                    f"`milepost streams remove {STREAM}`, then `milepost store adopt`",
                )
        assert api.requests.total == 0
        assert conversations(installation) == invented

    async def test_a_new_database_can_be_used_instead_and_the_log_names_the_one_beside_it(
        self, installation: Installation, api: SimulatorServer
    ) -> None:
        await with_invented_people(installation)
        async with api:
            installation.configure_for(api, store={"url": "sqlite:///real.db"})
            synced = await installation.sync()
            assert synced.code == 0, synced
            (line,) = (line for line in synced.stderr.splitlines() if WARNING in line)
            assert f"milepost.db holds {INVENTED} conversations, last written at 20" in line
            installation.database = installation.folder / "real.db"
            assert conversations(installation) == truth(api)
            assert WARNING not in (await installation.sync()).stderr

    @pytest.mark.skipif("streams" not in COMMANDS, reason="`milepost streams remove` is not built yet")
    async def test_the_copy_is_complete_and_real_once_the_invented_stream_was_removed(
        self, installation: Installation, api: SimulatorServer
    ) -> None:
        await with_invented_people(installation)
        async with api:
            installation.configure_for(api)
            removed = await milepost(installation.folder, "streams", "remove", STREAM, "--yes")
            assert removed.code == 0, removed
            adopted = await milepost(installation.folder, "store", "adopt", "--yes")
            assert adopted.code == 0, adopted
            synced = await installation.sync()
            assert synced.code == 0, synced
            assert conversations(installation) == truth(api)

    async def test_store_adopt_switches_the_source_and_reports_what_stays(
        self, installation: Installation, api: SimulatorServer
    ) -> None:
        invented = await with_invented_people(installation)
        async with api:
            installation.configure_for(api)
            unasked = await milepost(installation.folder, "store", "adopt")
            assert unasked.code == 2
            assert "pass --yes to confirm" in unasked.stderr
            refused(await installation.sync())
            adopted = await milepost(installation.folder, "store", "adopt", "--yes")
            assert adopted.code == 0, adopted
            assert [line.split() for line in adopted.stdout.splitlines() if line.startswith(STREAM)] == [
                [STREAM, str(INVENTED), str(INVENTED)]
            ]
            assert "`milepost sync --full` reads the existing streams in full" in adopted.stdout
            assert (await installation.sync("--full")).code == 0
            assert conversations(installation) == truth(api)
        deleted = installation.rows("SELECT conversation_id FROM conversations WHERE deleted_at IS NOT NULL")
        assert {id_ for (id_,) in deleted} == invented, "the full sweep did not find them"


@on_both_databases
async def test_a_database_belongs_to_one_source_until_it_is_adopted(installation: Installation) -> None:
    async with real_api(20) as one, real_api(20) as other:
        await installation.sync_from(one)
        installation.configure_for(other)
        refused(await installation.sync(), f"what came from facebook at {one.base_url}", other.base_url)
        assert other.requests.total == 0
        adopted = await milepost(installation.folder, "store", "adopt", "--yes")
        assert adopted.code == 0, adopted
        assert f"belongs to facebook at {other.base_url} from now on" in adopted.stdout
        again = await milepost(installation.folder, "store", "adopt")
        assert (again.code, "already" in again.stdout) == (0, True), again
        assert (await installation.sync()).code == 0
        installation.configure_for(one)
        refused(await installation.sync())


@on_sqlite_first
async def test_a_database_is_not_adopted_while_a_daemon_uses_it(installation: Installation) -> None:
    async with real_api(20) as api:
        installation.configure_for(api)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            busy = await milepost(installation.folder, "store", "adopt", "--yes")
    assert busy.code == 75, busy
    assert "stop it first" in busy.stderr


async def test_adopting_without_a_database_fails(installation: Installation) -> None:
    refused(await milepost(installation.folder, "store", "adopt", "--yes"), "there is no database at simulated.db")
    assert list(installation.folder.glob("*.db*")) == []


async def test_paths_are_relative_to_the_configuration_whatever_the_current_directory(
    installation: Installation, tmp_path: Path
) -> None:
    there = Installation(tmp_path / "there")
    there.folder.mkdir()
    async with real_api(20) as api:
        (there.folder / "token").write_text(BICYCLES.token)
        page = {key: value for key, value in page_section(BICYCLES).items() if key != "access_token"}
        there.configure(api.base_url, page | {"access_token_file": "token"}, store={"url": "sqlite:///kept.db"})
        synced = await milepost(installation.folder, "sync", "-c", "there/config.yaml")
        assert synced.code == 0, synced
    assert list(installation.folder.glob("*.db")) == []
    there.database = there.folder / "kept.db"
    assert len(conversations(there)) == 20
