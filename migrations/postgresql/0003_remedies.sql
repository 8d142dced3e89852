-- What the remedies of errors need: dead letters that are redriven and closed, notes of what a full sweep misses,
-- and the people who were erased.

ALTER TABLE dead_letters
    ADD COLUMN attempts bigint NOT NULL DEFAULT 0,
    ADD COLUMN redrive_at timestamptz(3),
    ADD COLUMN closed_at timestamptz(3),
    ADD COLUMN resolution text,
    ADD COLUMN note text NOT NULL DEFAULT '',
    ADD COLUMN fingerprint text NOT NULL DEFAULT '';

-- To list them, to redrive those that are open, and to find the one about a subject that fails again.
CREATE INDEX dead_letters_by_age ON dead_letters (opened_at, dead_letter_id);
CREATE INDEX dead_letters_open ON dead_letters (stream, opened_at, dead_letter_id) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_by_subject ON dead_letters (stream, subject)
WHERE closed_at IS NULL OR resolution = 'discarded';

-- For a full sweep, which asks for the conversations in the stretch of the inbox that it has just read.
CREATE INDEX conversations_by_updated_time ON conversations (platform, page_id, updated_time);

-- The conversations that a full sweep has not seen where they should be. When it ends, they are marked as deleted.
CREATE TABLE missed_conversations (
    stream text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    sweep_started_at timestamptz(3) NOT NULL,
    PRIMARY KEY (stream, conversation_id)
);

-- The people who were erased. Every commit looks here, and leaves out what is theirs.
CREATE TABLE forgotten (
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('contact', 'conversation')),
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (platform, page_id, kind, id)
);
