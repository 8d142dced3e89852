-- The backlog has three queues: 0 is what is owed between two sweeps, 1 the histories of conversations that were met for
-- the first time. Queue 2 owes nothing: these histories were read back to the limit of sync.message_history, and are read
-- on if that is raised.

ALTER TABLE message_backlog ADD COLUMN queue INTEGER NOT NULL DEFAULT 0;

DROP INDEX message_backlog_by_age;

CREATE INDEX message_backlog_by_age ON message_backlog (stream, queue, newest_at DESC, gap_id DESC);

CREATE INDEX message_backlog_at_limit ON message_backlog (stream, reached_at) WHERE queue = 2;
