-- What Milepost is for: the contacts, conversations and interaction events of every page.
-- Ids are text (they exceed 2^53). Times are in whole milliseconds, as in SQLite.

CREATE TABLE contacts (
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    contact_id text COLLATE "C" NOT NULL,
    name text,
    username text,
    first_seen_at timestamptz(3) NOT NULL,
    last_interaction_at timestamptz(3) NOT NULL,
    updated_at timestamptz(3) NOT NULL,
    -- A contact's id is scoped to its page: a person on two pages is two contacts.
    PRIMARY KEY (platform, page_id, contact_id)
);

CREATE TABLE conversations (
    conversation_id text COLLATE "C" PRIMARY KEY,
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    contact_id text COLLATE "C",
    link text,
    snippet text,
    message_count bigint,
    unread_count bigint,
    can_reply boolean,
    updated_time timestamptz(3) NOT NULL,
    first_synced_at timestamptz(3) NOT NULL,
    synced_at timestamptz(3) NOT NULL,
    deleted_at timestamptz(3)
);

CREATE TABLE contact_interaction_events (
    event_id text COLLATE "C" PRIMARY KEY,
    conversation_id text COLLATE "C" NOT NULL,
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    contact_id text COLLATE "C",
    direction text NOT NULL CHECK (direction IN ('in', 'out')),
    kind text NOT NULL,
    text text,
    attachments json,
    occurred_at timestamptz(3) NOT NULL
);
