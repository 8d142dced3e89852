-- What is owed of conversations that had more messages than their list showed. A projection of the journal: a row is
-- there from the commit that stores the newest messages until the one that stores the last of the others.

CREATE TABLE message_backlog (
    gap_id text COLLATE "C" PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    owed_since timestamptz(3) NOT NULL,
    newest_at timestamptz(3) NOT NULL, -- of the messages in the list
    reached_at timestamptz(3) NOT NULL, -- of the oldest message that was read
    stored bigint NOT NULL,
    attempts bigint NOT NULL,
    retry_at timestamptz(3),
    -- The whole as JSON, with the cursor where reading continues.
    state json NOT NULL
);

CREATE INDEX message_backlog_by_age ON message_backlog (stream, newest_at, gap_id);
