-- What is owed of conversations that had more messages than their list showed. A projection of the journal: a row is
-- there from the commit that stores the newest messages until the one that stores the last of the others.

CREATE TABLE message_backlog (
    gap_id TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    owed_since TEXT NOT NULL,
    newest_at TEXT NOT NULL, -- of the messages in the list
    reached_at TEXT NOT NULL, -- of the oldest message that was read
    stored INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    retry_at TEXT,
    -- The whole as JSON, with the cursor where reading continues.
    state TEXT NOT NULL
) STRICT;

CREATE INDEX message_backlog_by_age ON message_backlog (stream, newest_at, gap_id);
