-- What webhooks say of messages and no sweep can find: reactions, and which ad or link led to them.

ALTER TABLE contact_interaction_events ADD COLUMN reactions TEXT; -- JSON; NULL: none
ALTER TABLE contact_interaction_events ADD COLUMN referral TEXT; -- JSON

-- As of when the text and the attachments are known, by the platform's clock: what was said or read before that is
-- older. It equals deleted_at where a webhook said that the message was unsent. NULL: read before this was noted.
ALTER TABLE contact_interaction_events ADD COLUMN content_at TEXT;

-- A fact waits here with what it says until its message is stored; `detail` is erased as soon as it was applied.
ALTER TABLE webhook_events ADD COLUMN actor TEXT; -- whose reaction it is
ALTER TABLE webhook_events ADD COLUMN detail TEXT; -- JSON

CREATE INDEX webhook_events_of_facts ON webhook_events (stream, occurred_at, event_key)
WHERE due_at IS NOT NULL AND kind NOT IN ('message', 'revision');
