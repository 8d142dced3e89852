-- The change feed: where each row stands in it, and which version of its stream's journal last changed it.

-- Rows that are gone, by their keys. `moved` ones are still there, under another page.
CREATE TABLE deleted_rows (
    change_seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('contact', 'conversation', 'message')),
    platform TEXT NOT NULL,
    page_id TEXT NOT NULL,
    id TEXT NOT NULL,
    moved INTEGER NOT NULL
) STRICT;

-- Every change takes the next number. There is one writer at a time, so the numbers are committed in their order.
ALTER TABLE contacts ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contacts ADD COLUMN change_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN change_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contact_interaction_events ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contact_interaction_events ADD COLUMN change_seq INTEGER NOT NULL DEFAULT 0;

-- Whether a message was not new when it was stored: it came with a first copy, or as an older one of its conversation.
ALTER TABLE contact_interaction_events ADD COLUMN history INTEGER NOT NULL DEFAULT 0;

-- What is there already begins the feed. It was changed last by the version that its stream has now, at the latest.
UPDATE contacts SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    change_seq = rowid;
UPDATE conversations SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    change_seq = rowid + (SELECT coalesce(max(change_seq), 0) FROM contacts);
UPDATE contact_interaction_events SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    history = 1,
    change_seq = rowid + max(
        (SELECT coalesce(max(change_seq), 0) FROM contacts),
        (SELECT coalesce(max(change_seq), 0) FROM conversations)
    );

CREATE INDEX contacts_by_change ON contacts (change_seq);
CREATE INDEX conversations_by_change ON conversations (change_seq);
CREATE INDEX interaction_events_by_change ON contact_interaction_events (change_seq);

CREATE VIEW last_change (change_seq) AS
SELECT max(
    coalesce((SELECT max(change_seq) FROM contacts), 0),
    coalesce((SELECT max(change_seq) FROM conversations), 0),
    coalesce((SELECT max(change_seq) FROM contact_interaction_events), 0),
    coalesce((SELECT max(change_seq) FROM deleted_rows), 0)
);

-- Whatever else changes a row: if that takes no number, it gets one.

CREATE TRIGGER contacts_are_changed AFTER UPDATE ON contacts WHEN new.change_seq = old.change_seq
BEGIN
    UPDATE contacts SET change_seq = 1 + (SELECT change_seq FROM last_change) WHERE rowid = new.rowid;
END;

-- Before: the number of the row itself may be the last one.
CREATE TRIGGER contacts_are_deleted BEFORE DELETE ON contacts
BEGIN
    INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved)
    SELECT 1 + change_seq, 'contact', old.platform, old.page_id, old.contact_id, 0 FROM last_change;
END;

CREATE TRIGGER conversations_are_changed AFTER UPDATE ON conversations WHEN new.change_seq = old.change_seq
BEGIN
    UPDATE conversations SET change_seq = 1 + (SELECT change_seq FROM last_change) WHERE rowid = new.rowid;
END;

CREATE TRIGGER conversations_are_moved BEFORE UPDATE OF page_id ON conversations WHEN new.page_id <> old.page_id
BEGIN
    INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved)
    SELECT 1 + change_seq, 'conversation', old.platform, old.page_id, old.conversation_id, 1 FROM last_change;
END;

-- Before: the number of the row itself may be the last one.
CREATE TRIGGER conversations_are_deleted BEFORE DELETE ON conversations
BEGIN
    INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved)
    SELECT 1 + change_seq, 'conversation', old.platform, old.page_id, old.conversation_id, 0 FROM last_change;
END;

CREATE TRIGGER interaction_events_are_changed AFTER UPDATE ON contact_interaction_events WHEN new.change_seq = old.change_seq
BEGIN
    UPDATE contact_interaction_events SET change_seq = 1 + (SELECT change_seq FROM last_change) WHERE rowid = new.rowid;
END;

CREATE TRIGGER interaction_events_are_moved BEFORE UPDATE OF page_id ON contact_interaction_events WHEN new.page_id <> old.page_id
BEGIN
    INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved)
    SELECT 1 + change_seq, 'message', old.platform, old.page_id, old.event_id, 1 FROM last_change;
END;

-- Before: the number of the row itself may be the last one.
CREATE TRIGGER interaction_events_are_deleted BEFORE DELETE ON contact_interaction_events
BEGIN
    INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved)
    SELECT 1 + change_seq, 'message', old.platform, old.page_id, old.event_id, 0 FROM last_change;
END;
