-- Messages that were edited or unsent. An unsent one keeps its row, without text and attachments.

ALTER TABLE contact_interaction_events ADD COLUMN edited_at timestamptz;
ALTER TABLE contact_interaction_events ADD COLUMN deleted_at timestamptz;

-- A checksum of the ids and the content of the messages that came with the conversation: only where an answer has
-- another one are the stored messages compared. NULL where it is not known.
ALTER TABLE conversations ADD COLUMN messages_fingerprint text;
