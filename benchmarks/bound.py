"""What bounds everybody: the same rows with a journal and a checkpoint, by a hand-tuned program that does nothing else.

It requests ahead, decodes into structs, and commits up to eight batches together in a thread, as durably as Milepost.
It has no remedies, no retries and no way to resume, and nobody can see what it does.

    python benchmarks/bound.py BASE_URL DATABASE BATCH_SIZE MESSAGES PAGE_ID...
"""

import asyncio
import json
import sqlite3
import sys
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct
from naive import (  # type: ignore[import-not-found]  # it is beside this script
    INSERT_EVENT,
    SCHEMA,
    UPSERT_CONTACT,
    UPSERT_CONVERSATION,
)

JOURNAL = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, page_id TEXT, version INTEGER, recorded_at TEXT, data TEXT, hash TEXT,
    UNIQUE (page_id, version)
);
CREATE TABLE IF NOT EXISTS checkpoints (page_id TEXT PRIMARY KEY, version INTEGER, cursor TEXT);
"""
PRAGMAS = {"journal_mode": "WAL", "synchronous": "FULL", "wal_autocheckpoint": 16_000, "cache_size": -32 * 1024}
MAX_GROUP = 8  # batches in one transaction
MAX_AHEAD = 16  # batches that wait to be stored

Row = tuple[object, ...]


class Person(Struct):
    """A participant, or the sender of a message."""

    id: str
    name: str | None = None


class Message(Struct):
    """A message of a conversation."""

    id: str
    created_time: str
    sender: Person = msgspec.field(name="from")
    message: str | None = None


class Messages(Struct):
    """The messages that come with a conversation."""

    data: list[Message]


class People(Struct):
    """The participants of a conversation."""

    data: list[Person]


class Conversation(Struct):
    """A conversation as the list has it."""

    id: str
    updated_time: str
    participants: People
    messages: Messages
    link: str | None = None
    snippet: str | None = None
    message_count: int | None = None
    unread_count: int | None = None
    can_reply: bool | None = None


class Answer(Struct):
    """A response of the list."""

    data: list[Conversation]
    paging: dict[str, Any]


class Rows(Struct):
    """What a batch stores."""

    page_id: str
    cursor: str
    contacts: list[Row]
    conversations: list[Row]
    events: list[Row]


decode = msgspec.json.Decoder(Answer).decode


def rows_of(page_id: str, answer: Answer) -> Rows:
    """Return the rows of a batch."""
    now = datetime.now(UTC).isoformat()
    rows = Rows(page_id, answer.paging["cursors"]["after"], [], [], [])
    for each in answer.data:
        contact = next(person for person in each.participants.data if person.id != page_id)
        at = f"{each.updated_time[:19]}+00:00"
        rows.contacts.append(("messenger", page_id, contact.id, contact.name, None, now, at, now))
        told = (each.link, each.snippet, each.message_count, each.unread_count, each.can_reply)
        rows.conversations.append((each.id, "messenger", page_id, contact.id, *told, at, now, now, None))
        for message in each.messages.data:
            event = (message.id, each.id, "messenger", page_id, contact.id)
            direction = "out" if message.sender.id == page_id else "in"
            occurred_at = f"{message.created_time[:19]}+00:00"
            rows.events.append((*event, direction, "message", message.message, None, occurred_at))
    return rows


class Journal:
    """Writes groups of batches, each with an entry that continues the chain of its page."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for name, value in PRAGMAS.items():
            self._database.execute(f"PRAGMA {name} = {value}")
        self._database.executescript(SCHEMA + JOURNAL)
        self._heads: dict[str, tuple[int, str]] = {}

    def write(self, group: list[Rows]) -> None:
        """Write batches in one transaction."""
        self._database.execute("BEGIN IMMEDIATE")
        for rows in group:
            self._database.executemany(UPSERT_CONTACT, rows.contacts)
            self._database.executemany(UPSERT_CONVERSATION, rows.conversations)
            self._database.executemany(INSERT_EVENT, rows.events)
            self._append(rows)
        self._database.execute("COMMIT")

    def _append(self, rows: Rows) -> None:
        version, before = self._heads.get(rows.page_id, (0, ""))
        if version == 0:
            newest = "SELECT version, hash FROM journal WHERE page_id = ? ORDER BY version DESC LIMIT 1"
            version, before = self._database.execute(newest, (rows.page_id,)).fetchone() or (0, "")
        data = json.dumps({"cursor": rows.cursor, "conversations": len(rows.conversations)})
        sealed = sha256(f"{before}{data}".encode()).hexdigest()
        self._heads[rows.page_id] = (version + 1, sealed)
        entry = (rows.page_id, version + 1, datetime.now(UTC).isoformat(), data, sealed)
        self._database.execute("INSERT INTO journal VALUES (NULL, ?, ?, ?, ?, ?)", entry)
        self._database.execute("REPLACE INTO checkpoints VALUES (?, ?, ?)", (rows.page_id, version + 1, rows.cursor))


async def walk(
    session: aiohttp.ClientSession, url: str, page_id: str, sizes: tuple[str, str], waiting: asyncio.Queue[Rows | None]
) -> None:
    """Walk one inbox from its head to its end, without waiting for what is stored."""
    limit, messages = sizes
    fields = (
        "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants,"
        f"messages.limit({messages}){{id,created_time,from,message,sticker,attachments,shares}}"
    )
    parameters = {"platform": "messenger", "fields": fields, "limit": limit}
    while True:
        async with session.get(f"{url}/v26.0/{page_id}/conversations", params=parameters) as response:
            response.raise_for_status()
            answer = decode(await response.read())
        await waiting.put(rows_of(page_id, answer))
        if "next" not in answer.paging:
            return
        parameters["after"] = answer.paging["cursors"]["after"]


async def store(journal: Journal, waiting: asyncio.Queue[Rows | None]) -> None:
    """Store what waits, as much together as there is, until None comes."""
    is_over = False
    while not is_over:
        group = [await waiting.get()]
        while len(group) < MAX_GROUP and not waiting.empty():
            group.append(waiting.get_nowait())
        is_over = None in group
        await asyncio.to_thread(journal.write, [rows for rows in group if rows is not None])


async def main() -> None:
    """Copy the inboxes of all pages at the same time."""
    url, path, batch_size, messages, *page_ids = sys.argv[1:]
    waiting: asyncio.Queue[Rows | None] = asyncio.Queue(MAX_AHEAD)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer benchmark-token"}) as session:
        storing = asyncio.create_task(store(Journal(path), waiting))
        walks = (walk(session, url, page_id, (batch_size, messages), waiting) for page_id in page_ids)
        await asyncio.gather(*walks)
        await waiting.put(None)
        await storing


if __name__ == "__main__":
    asyncio.run(main())
