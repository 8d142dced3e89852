-- For the search for histories that are not on record, after sync.message_history was raised.
CREATE INDEX message_backlog_by_conversation ON message_backlog (conversation_id, stream);
