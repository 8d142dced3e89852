-- Webhook events, from when they are acknowledged: they wait until their messages are stored, and stay a while longer, so
-- that their repetitions are recognized. They hold ids and times, no names and no texts.

CREATE TABLE webhook_events (
    event_key text COLLATE "C" PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    contact_id text COLLATE "C",
    occurred_at timestamptz(3) NOT NULL,
    received_at timestamptz(3) NOT NULL,
    due_at timestamptz(3), -- NULL: worked off
    claims bigint NOT NULL
);

CREATE INDEX webhook_events_by_due ON webhook_events (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_events_by_age ON webhook_events (received_at);
CREATE INDEX webhook_events_by_message ON webhook_events (message_id);
CREATE INDEX webhook_events_by_contact ON webhook_events (stream, contact_id);
