"""What one would write in an afternoon: walk the edge with `requests`, upsert with `sqlite3`, commit each page.

It has no journal, no retries, no way to resume, and reads one page after the other. It has one optimization: a
row whose `updated_time` has not changed is not written again.

    python benchmarks/naive.py BASE_URL DATABASE BATCH_SIZE MESSAGES PAGE_ID...
"""

import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

try:
    import requests  # type: ignore[import-untyped, unused-ignore]  # it may be installed with or without types
except ImportError:
    sys.exit("the naive script needs requests: pip install requests")

SCHEMA = """
CREATE TABLE IF NOT EXISTS contacts (
    platform TEXT, page_id TEXT, contact_id TEXT, name TEXT, username TEXT,
    first_seen_at TEXT, last_interaction_at TEXT, updated_at TEXT,
    PRIMARY KEY (platform, page_id, contact_id)
);
CREATE TABLE IF NOT EXISTS conversations (
    conversation_id TEXT PRIMARY KEY, platform TEXT, page_id TEXT, contact_id TEXT, link TEXT, snippet TEXT,
    message_count INTEGER, unread_count INTEGER, can_reply INTEGER, updated_time TEXT,
    first_synced_at TEXT, synced_at TEXT, deleted_at TEXT
);
CREATE TABLE IF NOT EXISTS contact_interaction_events (
    event_id TEXT PRIMARY KEY, conversation_id TEXT, platform TEXT, page_id TEXT, contact_id TEXT,
    direction TEXT, kind TEXT, text TEXT, attachments TEXT, occurred_at TEXT
);
"""
UPSERT_CONTACT = """
INSERT INTO contacts VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    name = excluded.name, last_interaction_at = excluded.last_interaction_at, updated_at = excluded.updated_at
WHERE excluded.last_interaction_at > contacts.last_interaction_at
"""
UPSERT_CONVERSATION = """
INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    contact_id = excluded.contact_id, link = excluded.link, snippet = excluded.snippet,
    message_count = excluded.message_count, unread_count = excluded.unread_count, can_reply = excluded.can_reply,
    updated_time = excluded.updated_time, synced_at = excluded.synced_at
WHERE excluded.updated_time > conversations.updated_time
"""
INSERT_EVENT = "INSERT OR IGNORE INTO contact_interaction_events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def pages(base_url: str, page_id: str, batch_size: int, messages: int) -> Iterator[list[dict[str, Any]]]:
    """Walk one inbox from its head to its end."""
    fields = (
        "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants,"
        f"messages.limit({messages}){{id,created_time,from,message,sticker,attachments,shares}}"
    )
    parameters = {"platform": "messenger", "fields": fields, "limit": str(batch_size)}
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer benchmark-token"
        while True:
            response = session.get(f"{base_url}/v26.0/{page_id}/conversations", params=parameters, timeout=30)
            response.raise_for_status()
            answer = response.json()
            yield answer["data"]
            if "next" not in answer["paging"]:
                return
            parameters["after"] = answer["paging"]["cursors"]["after"]


def store(database: sqlite3.Connection, page_id: str, conversations: list[dict[str, Any]]) -> None:
    """Write one page of the list and commit it."""
    now = datetime.now(UTC).isoformat()
    contacts, rows, events = [], [], []
    for each in conversations:
        contact = next(person for person in each["participants"]["data"] if person["id"] != page_id)
        updated_time = datetime.strptime(each["updated_time"], "%Y-%m-%dT%H:%M:%S%z").isoformat()
        contacts.append(("messenger", page_id, contact["id"], contact["name"], None, now, updated_time, now))
        told = (each.get(name) for name in ("link", "snippet", "message_count", "unread_count", "can_reply"))
        rows.append((each["id"], "messenger", page_id, contact["id"], *told, updated_time, now, now, None))
        for message in each["messages"]["data"]:
            sender = message["from"]["id"]
            direction, other = ("out", contact["id"]) if sender == page_id else ("in", sender)
            occurred_at = datetime.strptime(message["created_time"], "%Y-%m-%dT%H:%M:%S%z").isoformat()
            text = message.get("message")
            event = (message["id"], each["id"], "messenger", page_id, other, direction, "message", text, None)
            events.append((*event, occurred_at))
    database.executemany(UPSERT_CONTACT, contacts)
    database.executemany(UPSERT_CONVERSATION, rows)
    database.executemany(INSERT_EVENT, events)
    database.commit()


def main() -> None:
    """Copy the inboxes of all pages, one after the other."""
    base_url, path, batch_size, messages, *page_ids = sys.argv[1:]
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    for page_id in page_ids:
        for conversations in pages(base_url, page_id, int(batch_size), int(messages)):
            store(database, page_id, conversations)
    database.close()


if __name__ == "__main__":
    main()
