-- New and changed conversations and messages, as they are committed, to those who may read them. Views cannot be
-- published, tables can. Row-level security says who gets an insert or an update; it cannot for a delete, whose row is
-- gone: Supabase sends its key to everybody who listens to the table. Milepost deletes rows only where a person is
-- forgotten, a stream removed or a page merged, and who reads the tables again finds out.

ALTER PUBLICATION supabase_realtime ADD TABLE milepost.conversations, milepost.contact_interaction_events;
