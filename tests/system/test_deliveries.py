"""Deliveries with the real daemon: whatever receiver and daemon go through, the receiver ends with the tables' rows."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from kit.binary import milepost, started, until
from kit.fleet import fleet
from kit.installation import Installation, PostgresqlInstallation, on_both_databases, on_sqlite_first
from kit.needs import needs
from kit.ports import unused_port
from kit.postgres import Database
from kit.receiver import NEW, OLD, Receiver
from kit.simulated import BICYCLES, NOW, frozen_world
from milepost.core.changes import Change, ChangeKind, ChangeOp, DeliveryResult
from milepost.deliveries.sender import sending_to
from milepost.settings.load import load
from milepost.settings.model import DeliverySettings
from milepost.simulator.server import SimulatorServer

SYNC = {"interval": "1s"}
# Columns that are plain text in both databases.
TABLES = {
    "contact": ("contacts", ("platform", "page_id", "contact_id"), ("name", "username")),
    "conversation": ("conversations", ("conversation_id",), ("contact_id", "snippet", "message_count")),
    "message": ("contact_interaction_events", ("event_id",), ("conversation_id", "direction", "text")),
}


def to_crm(receiver: Receiver, name: str = "crm", **keys: object) -> dict[str, object]:
    return {"name": name, "url": receiver.url, "secret": NEW, "from": "start"} | keys


def has_the_tables_of(installation: Installation, receiver: Receiver) -> bool:
    for kind, (table, key, columns) in TABLES.items():
        rows = installation.rows(f"SELECT {', '.join((*key, *columns))} FROM {table}")
        wanted = {row[: len(key)]: row[len(key) :] for row in rows}
        if wanted != {key: tuple(row[name] for name in columns) for key, row in receiver.tables[kind].items()}:
            return False
    return True


def let_messages_arrive(simulator: SimulatorServer, number: int) -> None:
    """Let messages arrive in old and new conversations."""
    first = simulator.world.truth(BICYCLES.id, "messenger", NOW)[0].id
    for each in range(number):
        simulator.world.receive(BICYCLES.id, "messenger", NOW, first if each % 2 else None)


class Misbehaviour:
    """Every third request is confirmed; the others are refused, torn, or applied without an answer that arrives.

    Those that are named to `hang` are held until nobody waits for them any more.
    """

    def __init__(self, hangs: frozenset[int] = frozenset()) -> None:
        self._hangs = hangs
        self.is_over = False

    def __call__(self, number: int) -> str | int:
        if self.is_over:
            return 204
        if number in self._hangs:
            return "hang"
        return (500, "lose", 204, "reset", 503, 200)[number % 6]


def time_passes(installation: Installation) -> None:
    """Let the wait after a failure end, and the hold of a killed worker, for which another one would have to wait."""
    installation.rows("UPDATE deliveries SET retry_at = NULL RETURNING 1")
    if isinstance(installation, PostgresqlInstallation):
        installation.rows("DELETE FROM delivery_holds RETURNING 1")


@on_both_databases
@pytest.mark.parametrize(
    ("kills", "hangs"),
    [
        pytest.param(3, frozenset(), marks=pytest.mark.timeout(240)),
        pytest.param(20, frozenset({7, 30}), marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
    ids=["3 kills", "20 kills"],
)
async def test_a_receiver_that_misbehaves_and_a_daemon_that_is_killed_end_with_the_same_rows(
    installation: Installation, kills: int, hangs: frozenset[int]
) -> None:
    misbehave = Misbehaviour(hangs)
    async with frozen_world(30, pages=(BICYCLES,)) as simulator, Receiver(misbehave).listening() as receiver:
        installation.configure_for(simulator, sync=SYNC, deliveries=[to_crm(receiver)])
        for _ in range(kills):
            async with started(installation.folder, "run") as daemon:
                before = len(receiver.requests)
                let_messages_arrive(simulator, 4)  # so that there is something to deliver, whatever came before
                await until(lambda before=before: len(receiver.requests) > before)  # type: ignore[misc]
                await daemon.kill()
            time_passes(installation)
        misbehave.is_over = True
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            await until(lambda: has_the_tables_of(installation, receiver))
            daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
    assert len(receiver.tables["message"]) > 30
    assert max(receiver.sizes) <= 100


@on_both_databases
async def test_what_is_new_arrives_within_seconds_of_its_commit(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator, Receiver().listening() as receiver:
        installation.configure_for(simulator, sync=SYNC, deliveries=[to_crm(receiver, **{"from": "now"})])
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            await until(lambda: has_begun(installation))
            conversation_id = simulator.world.receive(BICYCLES.id, "messenger", NOW)
            await until(lambda: (conversation_id,) in receiver.tables["conversation"])


def has_begun(installation: Installation) -> bool:
    return bool(installation.rows("SELECT 1 FROM deliveries"))


@on_sqlite_first
async def test_operators_pause_resume_and_replay_beside_the_daemon(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator, Receiver().listening() as receiver:
        installation.configure_for(simulator, sync=SYNC, deliveries=[to_crm(receiver)])
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            await until(lambda: has_the_tables_of(installation, receiver))

            paused = await milepost(installation.folder, "deliveries", "pause", "crm")
            assert (paused.code, paused.stdout) == (0, "crm: paused\n")
            simulator.world.receive(BICYCLES.id, "messenger", NOW)
            await until(lambda: not has_the_tables_of(installation, receiver))
            await until(lambda: installation.rows("SELECT 1 FROM deliveries WHERE behind_since IS NOT NULL"))
            assert not has_the_tables_of(installation, receiver)
            assert (await milepost(installation.folder, "deliveries", "resume", "crm")).code == 0
            await until(lambda: has_the_tables_of(installation, receiver))

            for rows in receiver.tables.values():
                rows.clear()
            replayed = await milepost(installation.folder, "deliveries", "replay", "crm")
            assert replayed.code == 0, replayed
            await until(lambda: has_the_tables_of(installation, receiver))
            await shown_by_list_and_api(installation, await daemon.url())


async def shown_by_list_and_api(installation: Installation, url: str) -> None:
    await until(lambda: installation.rows("SELECT 1 FROM deliveries WHERE behind_since IS NULL"))
    listed = await milepost(installation.folder, "deliveries", "list", "--json")
    async with aiohttp.ClientSession(url) as session, session.get("/api/deliveries") as response:
        (shown,) = (await response.json())["deliveries"]
    async with aiohttp.ClientSession(url) as session:
        await until_answer(session, "/metrics", 'milepost_delivery_lag_seconds{destination="crm"} 0.0')
        await until_answer(session, "/metrics", 'milepost_deliveries_total{destination="crm",result="delivered"}')
    said = json.loads(listed.stdout)
    assert said.keys() == shown.keys()
    for each in (said, shown):  # the rest may change in between
        assert (each["destination"], each["is_configured"], each["problem"]) == ("crm", True, None)


@on_sqlite_first
async def test_who_is_forgotten_is_deleted_at_the_receiver_too(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator, Receiver().listening() as receiver:
        installation.configure_for(simulator, sync=SYNC, deliveries=[to_crm(receiver)])
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            await until(lambda: has_the_tables_of(installation, receiver))
            gone = next(iter(receiver.tables["contact"]))
            forgot = await milepost(installation.folder, "contacts", "forget", "--yes", *gone)
            assert forgot.code == 0, forgot
            await until(lambda: gone not in receiver.tables["contact"])
            await until(lambda: has_the_tables_of(installation, receiver))
            assert all(row["contact_id"] != gone[-1] for row in receiver.tables["message"].values())


async def test_a_reload_adds_a_destination_and_changes_its_secret(installation: Installation) -> None:
    async with (
        frozen_world(10, pages=(BICYCLES,)) as simulator,
        Receiver().listening() as receiver,
        Receiver(secret=OLD).listening() as other,
    ):
        installation.configure_for(simulator, sync=SYNC)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            both = to_crm(other, "erp", secret=[NEW, OLD])
            installation.configure_for(simulator, sync=SYNC, deliveries=[to_crm(receiver), both])
            daemon.signal(signal.SIGHUP)
            await until(lambda: has_the_tables_of(installation, receiver) and has_the_tables_of(installation, other))
            assert NEW not in daemon.said
            assert OLD not in daemon.said


async def test_a_receiver_that_fails_is_said_and_holds_up_nobody(installation: Installation) -> None:
    async with (
        frozen_world(10, pages=(BICYCLES,)) as simulator,
        Receiver(lambda _: "hang").listening() as silent,
        Receiver(lambda _: 500).listening() as broken,
        Receiver().listening() as receiver,
    ):
        crm, erp, bi = to_crm(receiver), to_crm(broken, "erp"), to_crm(silent, "bi")
        http = {"listen": f"127.0.0.1:{unused_port()}"}
        installation.configure_for(simulator, sync=SYNC, http=http, deliveries=[erp, bi, crm])
        async with started(installation.folder, "run") as daemon:
            await daemon.says("HTTP 500")
            await until(lambda: has_the_tables_of(installation, receiver))
            url = await daemon.url()
            async with aiohttp.ClientSession(url) as session:
                await until_answer(session, "/api/daemon", "erp fail")
            status = await milepost(installation.folder, "status")
            assert "erp fail" in status.stdout
            silent.released.set()


async def until_answer(session: aiohttp.ClientSession, path: str, words: str) -> None:
    """Wait until the daemon's answer has these words: what it says of deliveries is a few seconds old."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(path) as response:
                if words in await response.text():
                    return
            await asyncio.sleep(0.1)


@pytest.mark.timeout(240)
async def test_one_of_several_workers_delivers_and_another_takes_over(
    tmp_path_factory: pytest.TempPathFactory, fresh: PostgresqlInstallation
) -> None:
    folder = tmp_path_factory.mktemp("fleet")
    async with (
        frozen_world(20, pages=(BICYCLES,)) as simulator,
        Receiver().listening() as receiver,
        fleet(folder, fresh.kept, simulator) as workers,
    ):
        for _ in range(2):
            await workers.join(sync=SYNC, deliveries=[to_crm(receiver)])
        await until(lambda: bool(receiver.seqs) and has_the_tables_of(fresh, receiver))
        assert len(receiver.seqs) == len(set(receiver.seqs)), "one of them alone delivers"
        ((holder,),) = fresh.rows("SELECT worker FROM delivery_holds")
        (of_holder,) = (worker for worker in workers.all if f":{worker.pid}:" in holder)
        of_holder.signal(signal.SIGTERM)
        await of_holder.ended()
        conversation_id = simulator.world.receive(BICYCLES.id, "messenger", NOW)
        await until(lambda: (conversation_id,) in receiver.tables["conversation"])
        ((other,),) = fresh.rows("SELECT worker FROM delivery_holds")
        assert other != holder


@pytest.fixture
def fresh(database: Database, tmp_path_factory: pytest.TempPathFactory) -> PostgresqlInstallation:
    return PostgresqlInstallation(tmp_path_factory.mktemp("kept"), database)


# --- the page ---------------------------------------------------------------------------------------------------------


PAGE = (Path(__file__).parents[2] / "docs" / "deliveries.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def contact(seq: int, contact_id: str, name: str | None) -> Change:
    key = {"platform": "messenger", "page_id": "1", "contact_id": contact_id}
    row = None if name is None else {**key, "name": name}
    return Change(seq, ChangeKind.CONTACT, ChangeOp.UPSERT if row else ChangeOp.DELETE, key, row)


def destination(port: int, *secrets: str) -> DeliverySettings:
    url = f"http://127.0.0.1:{port}/"
    return DeliverySettings.model_validate({"name": "crm", "url": url, "secret": secrets or (NEW,)})


@asynccontextmanager
async def serving(folder: Path, port: int, *command: str) -> AsyncIterator[None]:
    """Run a receiver during the block."""
    names = {"PORT": str(port), "CRM_SECRET": NEW, "CRM_DATABASE": str(folder / "crm.db")}
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env={**os.environ, **names})
    try:
        await until(lambda: process.returncode is not None or is_listening(port))
        assert process.returncode is None
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def is_listening(port: int) -> bool:
    found = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{port:04X} " in line and " 0A " in line for line in found)


async def deliver(port: int) -> None:
    """Deliver rows, some of them twice, and a deletion; then what nobody vouches for."""
    async with sending_to(destination(port, NEW, OLD)) as sender:
        now = datetime.now(UTC)
        first, second = contact(1, "ada", "Ada"), contact(2, "bob", "Bob")
        for changes in ([first, second], [second], [contact(3, "ada", "Ada L."), contact(4, "bob", None)]):
            assert (await sender.send(changes, now)).result is DeliveryResult.DELIVERED
        late = await sender.send([contact(5, "eve", "Eve")], now - timedelta(hours=1))
        assert late.problem == "HTTP 401", "a request that somebody recorded"
    async with sending_to(destination(port, OLD)) as other:
        assert (await other.send([contact(6, "eve", "Eve")], now)).problem == "HTTP 401"


async def test_the_receiver_in_python_keeps_what_is_delivered(tmp_path: Path) -> None:
    (tmp_path / "receiver.py").write_text(block("python"))
    port = unused_port()
    async with serving(tmp_path, port, sys.executable, "receiver.py"):
        await deliver(port)
    with closing(sqlite3.connect(tmp_path / "crm.db")) as database:
        rows = database.execute("SELECT kind, key, row FROM crm").fetchall()
    assert [(kind, json.loads(key), json.loads(row)["name"]) for kind, key, row in rows] == [
        ("contact", ["messenger", "1", "ada"], "Ada L.")
    ]


@needs("node", "nodejs")
async def test_the_receiver_in_javascript_keeps_what_is_delivered(tmp_path: Path) -> None:
    (tmp_path / "receiver.mjs").write_text(block("js"))
    port = unused_port()
    async with (
        serving(tmp_path, port, "node", "receiver.mjs"),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        await deliver(port)
        async with session.get("/") as response:
            ((name, row),) = json.loads(await response.text())
    assert (json.loads(name), row["name"]) == (["contact", "messenger", "1", "ada"], "Ada L.")


def test_the_configuration_on_the_page_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block("yaml"))
    (delivery,) = load(file, {"CRM_SECRET": NEW}).deliveries
    assert delivery.name == "crm"


async def test_the_command_on_the_page_makes_a_secret_that_is_accepted(tmp_path: Path) -> None:
    (command,) = re.findall(r"`(echo whsec_.*?)`", PAGE)
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
    secret, _ = await process.communicate()
    made = DeliverySettings.model_validate({"name": "crm", "url": "https://crm.example", "secret": secret.decode()})
    assert len(made.secret) == 1


@pytest.mark.parametrize("field", ["seq", "kind", "op", "key", "row", "history"])
def test_the_example_on_the_page_has_each_field(field: str) -> None:
    (change,) = json.loads(block("json"))["data"]["changes"]
    assert field in change
    assert set(change) == set(Change.__struct_fields__)
