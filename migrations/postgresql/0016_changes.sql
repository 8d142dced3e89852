-- The change feed: where each row stands in it, and which version of its stream's journal last changed it.

-- Every change takes the next number. Several transactions take numbers at the same time, and are committed in any order:
-- each holds a lock, from before its first number on, whose key is the last number that was taken before. What is below
-- the least of these is committed for good, or never will be.
CREATE SEQUENCE change_seqs MINVALUE 0;
SELECT setval('change_seqs', 0);

-- The functions of triggers work with the rights of their owner, for whoever may change rows; so they find nothing among
-- the temporary tables of that session.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE FUNCTION begin_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('milepost.takes_numbers', true) IS DISTINCT FROM 'yes' THEN
        PERFORM pg_advisory_xact_lock_shared(
            hashtext(current_schema() || ' changes'), (last_value % 2147483648)::integer
        )
        FROM change_seqs;
        PERFORM set_config('milepost.takes_numbers', 'yes', true);
    END IF;
    RETURN NULL;
END
$$;

-- Rows that are gone, by their keys. `moved` ones are still there, under another page.
CREATE TABLE deleted_rows (
    change_seq bigint PRIMARY KEY DEFAULT nextval('change_seqs'),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('contact', 'conversation', 'message')),
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    moved boolean NOT NULL
);

ALTER TABLE contacts
    ADD COLUMN version bigint NOT NULL DEFAULT 0,
    ADD COLUMN change_seq bigint NOT NULL DEFAULT 0;
ALTER TABLE conversations
    ADD COLUMN version bigint NOT NULL DEFAULT 0,
    ADD COLUMN change_seq bigint NOT NULL DEFAULT 0;
ALTER TABLE contact_interaction_events
    ADD COLUMN version bigint NOT NULL DEFAULT 0,
    ADD COLUMN change_seq bigint NOT NULL DEFAULT 0,
    -- Whether it was not new when it was stored: it came with a first copy, or as an older one of its conversation.
    ADD COLUMN history boolean NOT NULL DEFAULT false;

-- What is there already begins the feed. It was changed last by the version that its stream has now, at the latest.
UPDATE contacts SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    change_seq = nextval('change_seqs');
UPDATE conversations SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    change_seq = nextval('change_seqs');
UPDATE contact_interaction_events SET
    version = coalesce(
        (SELECT max(journal.version) FROM journal WHERE stream = platform || ':' || page_id), 0
    ),
    history = true,
    change_seq = nextval('change_seqs');

ALTER TABLE contacts ALTER COLUMN change_seq SET DEFAULT nextval('change_seqs');
ALTER TABLE conversations ALTER COLUMN change_seq SET DEFAULT nextval('change_seqs');
ALTER TABLE contact_interaction_events ALTER COLUMN change_seq SET DEFAULT nextval('change_seqs');

CREATE INDEX contacts_by_change ON contacts (change_seq);
CREATE INDEX conversations_by_change ON conversations (change_seq);
CREATE INDEX interaction_events_by_change ON contact_interaction_events (change_seq);

-- Whatever else changes a row: if that takes no number, it gets one.
CREATE FUNCTION number_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    new.change_seq := nextval('change_seqs');
    RETURN new;
END
$$;

CREATE FUNCTION note_deleted_contacts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
    SELECT 'contact', platform, page_id, contact_id, false FROM gone;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_deleted_conversations() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
    SELECT 'conversation', platform, page_id, conversation_id, false FROM gone;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_deleted_messages() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
    SELECT 'message', platform, page_id, event_id, false FROM gone;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_moved_conversation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
    VALUES ('conversation', old.platform, old.page_id, old.conversation_id, true);
    RETURN NULL;
END
$$;

CREATE FUNCTION note_moved_message() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO deleted_rows (kind, platform, page_id, id, moved)
    VALUES ('message', old.platform, old.page_id, old.event_id, true);
    RETURN NULL;
END
$$;

CREATE TRIGGER contacts_take_numbers BEFORE INSERT OR UPDATE OR DELETE ON contacts
FOR EACH STATEMENT EXECUTE FUNCTION begin_changes();

CREATE TRIGGER contacts_are_changed BEFORE UPDATE ON contacts
FOR EACH ROW WHEN (new.change_seq = old.change_seq) EXECUTE FUNCTION number_change();

CREATE TRIGGER contacts_are_deleted AFTER DELETE ON contacts
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_deleted_contacts();

CREATE TRIGGER conversations_take_numbers BEFORE INSERT OR UPDATE OR DELETE ON conversations
FOR EACH STATEMENT EXECUTE FUNCTION begin_changes();

CREATE TRIGGER conversations_are_changed BEFORE UPDATE ON conversations
FOR EACH ROW WHEN (new.change_seq = old.change_seq) EXECUTE FUNCTION number_change();

CREATE TRIGGER conversations_are_deleted AFTER DELETE ON conversations
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_deleted_conversations();

CREATE TRIGGER conversations_are_moved AFTER UPDATE OF page_id ON conversations
FOR EACH ROW WHEN (new.page_id <> old.page_id) EXECUTE FUNCTION note_moved_conversation();

CREATE TRIGGER interaction_events_take_numbers BEFORE INSERT OR UPDATE OR DELETE ON contact_interaction_events
FOR EACH STATEMENT EXECUTE FUNCTION begin_changes();

CREATE TRIGGER interaction_events_are_changed BEFORE UPDATE ON contact_interaction_events
FOR EACH ROW WHEN (new.change_seq = old.change_seq) EXECUTE FUNCTION number_change();

CREATE TRIGGER interaction_events_are_deleted AFTER DELETE ON contact_interaction_events
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_deleted_messages();

CREATE TRIGGER interaction_events_are_moved AFTER UPDATE OF page_id ON contact_interaction_events
FOR EACH ROW WHEN (new.page_id <> old.page_id) EXECUTE FUNCTION note_moved_message();
