"""The receivers of docs/deliveries.md: they verify, store and forget as the page says."""

import asyncio
import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from kit.binary import until
from kit.needs import needs
from kit.ports import unused_port
from kit.receiver import NEW, OLD
from milepost.core.changes import Change, ChangeKind, ChangeOp
from milepost.core.deliveries import DeliveryResult
from milepost.deliveries.sender import sending_to
from milepost.settings import DeliverySettings, load

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
