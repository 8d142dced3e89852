-- Publishes new and changed conversations and messages, as they are committed, to users who may read them. Only tables
-- can be published, not views. Row-level security decides who gets an insert or an update, but not a delete, because the
-- row is gone: Supabase sends its key to everybody who listens to the table. Milepost deletes rows only if a person is
-- forgotten, a stream is removed or a page is merged; clients notice it when they read the tables again.

ALTER PUBLICATION supabase_realtime ADD TABLE milepost.conversations, milepost.contact_interaction_events;
