-- Webhook events, from when they are acknowledged: they wait until their messages are stored, and stay a while longer, so
-- that their repetitions are recognized. They hold ids and times, no names and no texts.

CREATE TABLE webhook_events (
    event_key TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    message_id TEXT NOT NULL,
    contact_id TEXT,
    occurred_at TEXT NOT NULL,
    received_at TEXT NOT NULL,
    due_at TEXT, -- NULL: worked off
    claims INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_events_by_due ON webhook_events (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_events_by_age ON webhook_events (received_at);
CREATE INDEX webhook_events_by_message ON webhook_events (message_id);
CREATE INDEX webhook_events_by_contact ON webhook_events (stream, contact_id);
