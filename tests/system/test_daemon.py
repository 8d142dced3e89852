"""`milepost run`: what it serves, how it ends, and that only one runs per database."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import aiohttp

from kit.binary import PATIENCE_SECONDS, started, until
from kit.installation import Installation
from kit.simulated import BICYCLES, NOW, STREAMS, frozen_world, taken_cursors

STREAM = f"messenger:{BICYCLES.id}"


async def asked(url: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as answer:
        return answer.status, await answer.text()


async def committed(installation: Installation, query: str, *parameters: object) -> None:
    """Wait until the query returns rows."""
    await until(lambda: installation.rows(query, *parameters))


async def test_the_daemon_serves_health_readiness_and_metrics_and_exits_0_on_sigterm(
    installation: Installation,
) -> None:
    async with frozen_world(60) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            url = await daemon.url()
            await until(lambda: daemon.said.count("sweep completed") == len(STREAMS))  # what is logged is counted
            assert await asked(url, "/healthz") == (200, "alive\n")
            assert await asked(url, "/readyz") == (200, "ready\n")
            status, metrics = await asked(url, "/metrics")
            assert status == 200
            assert f'milepost_runs_total{{status="complete",stream="{STREAM}"}} 1.0' in metrics
            assert f'milepost_conversations_total{{result="inserted",stream="{STREAM}"}} 60.0' in metrics
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert ended.code == 0, ended
    assert ended.stdout == ""


async def test_a_shutdown_pauses_the_current_run_and_the_next_start_continues_there(
    installation: Installation,
) -> None:
    async with frozen_world(500, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=1)
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch stored")
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
        assert ended.code == 0, f"it waited for an answer until its patience was over: {ended}"
        assert installation.endings(STREAM) == [("paused", "shutdown")]
        place = installation.positions(STREAM)[-1]
        taken_cursors(simulator)
        simulator.release()
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch stored")
        assert taken_cursors(simulator)[STREAM][0] == place


async def test_a_second_signal_does_not_wait_for_the_current_batch(installation: Installation) -> None:
    async with frozen_world(500, pages=(BICYCLES,)) as simulator:
        simulator.hold(after=1)
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch stored")
            with closing(sqlite3.connect(installation.database, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # the current commit has to wait, and the shutdown with it
                await until(lambda: simulator.held == 1)
                asked_before = simulator.requests.total
                simulator.release()
                await until(
                    lambda: simulator.requests.total > asked_before
                )  # the prefetch: the batch before has arrived
                daemon.signal(signal.SIGTERM)
                await daemon.says("stopping")
                daemon.signal(signal.SIGTERM)
                await daemon.says("stopping at once")
            ended = await daemon.ended()
    assert ended.code == 1, ended
    assert ended.stderr.endswith(
        "milepost: stopped before the current work was finished\n"
        "  → what was committed is safe; the next start continues from there\n"
    )
    assert "Traceback" not in ended.stderr
    assert installation.rows("SELECT status FROM runs") == [("running",)], "the next start journals the interruption"


async def test_a_second_daemon_on_the_same_database_is_refused(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            async with started(installation.folder, "run") as second:
                refused = await second.ended()
            assert not daemon.has_ended
    assert refused.code == 75
    error, hint = refused.stderr.splitlines()
    assert error.startswith(f"milepost: another Milepost (process {daemon.pid}) is using the database ")
    assert error.endswith("milepost.db")
    assert hint == "  → stop it first, or let it do the work: `milepost status` shows what it is doing"


async def test_a_port_in_use_is_reported_and_nothing_is_fetched(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http={"listen": f"127.0.0.1:{simulator.port}"})
        async with started(installation.folder, "run") as daemon:
            refused = await daemon.ended()
        assert simulator.requests.total == 0
    assert refused.code == 78, refused
    assert f"cannot listen on 127.0.0.1:{simulator.port}: address already in use" in refused.stderr
    assert "set http.listen to a free port" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_incremental_sweeps_copy_new_messages(installation: Installation) -> None:
    async with frozen_world(120, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"interval": "1s"})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            newcomer = simulator.world.receive(BICYCLES.id, "messenger", NOW)
            find = "SELECT 1 FROM conversations WHERE conversation_id = ?"
            await committed(installation, find, newcomer)
            daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
    assert installation.rows("SELECT mode, inserted FROM runs WHERE inserted > 0") == [
        ("full", 120),
        ("incremental", 1),
    ]


WITHOUT_DNS = """
import socket, sys, time
look_up = socket.getaddrinfo

def never(host, *more, **options):
    if host != "graph.invalid":
        return look_up(host, *more, **options)
    print("asked", flush=True)
    time.sleep(600)

socket.getaddrinfo = never
from milepost.cli import main
sys.argv = ["milepost", "run"]
main()
"""


def test_a_dns_server_that_does_not_answer_does_not_hold_up_the_end(tmp_path: Path) -> None:
    pages = "pages: [{id: '1', platforms: [messenger], access_token: EAAPageToken0000000000}]"
    source = "source: {kind: facebook, base_url: https://graph.invalid}"
    (tmp_path / "config.yaml").write_text(f"{source}\n{pages}\nhttp: {{listen: '127.0.0.1:0'}}")
    program = [sys.executable, "-c", WITHOUT_DNS]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        try:
            assert daemon.stdout.readline() == b"asked\n"
            daemon.terminate()
            assert daemon.wait(PATIENCE_SECONDS) == 0
        finally:
            daemon.kill()
