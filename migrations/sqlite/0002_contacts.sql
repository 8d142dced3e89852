-- What Milepost is for: the contacts, conversations and interaction events of every page.
-- Ids are text (they exceed 2^53), times are ISO 8601 in UTC.

CREATE TABLE contacts (
    platform TEXT NOT NULL,
    page_id TEXT NOT NULL,
    contact_id TEXT NOT NULL,
    name TEXT,
    username TEXT,
    first_seen_at TEXT NOT NULL,
    last_interaction_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- A contact's id is scoped to its page: a person on two pages is two contacts.
    PRIMARY KEY (platform, page_id, contact_id)
) STRICT;

CREATE TABLE conversations (
    conversation_id TEXT PRIMARY KEY,
    platform TEXT NOT NULL,
    page_id TEXT NOT NULL,
    contact_id TEXT,
    link TEXT,
    snippet TEXT,
    message_count INTEGER,
    unread_count INTEGER,
    can_reply INTEGER,
    updated_time TEXT NOT NULL,
    first_synced_at TEXT NOT NULL,
    synced_at TEXT NOT NULL,
    deleted_at TEXT
) STRICT;

CREATE TABLE contact_interaction_events (
    event_id TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    platform TEXT NOT NULL,
    page_id TEXT NOT NULL,
    contact_id TEXT,
    direction TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    kind TEXT NOT NULL,
    text TEXT,
    attachments TEXT,
    occurred_at TEXT NOT NULL
) STRICT;
