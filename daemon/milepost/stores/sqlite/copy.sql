-- What `milepost store copy` reads and writes. The columns are those of stores/rows.py; each table is read in the
-- order of its key, byte by byte.

-- name: counts
SELECT 'forgotten', count(*) FROM forgotten
UNION ALL SELECT 'journal', count(*) FROM journal
UNION ALL SELECT 'pages', count(*) FROM pages
UNION ALL SELECT 'contacts', count(*) FROM contacts
UNION ALL SELECT 'conversations', count(*) FROM conversations
UNION ALL SELECT 'contact_interaction_events', count(*) FROM contact_interaction_events
UNION ALL SELECT 'deleted_rows', count(*) FROM deleted_rows
UNION ALL SELECT 'dead_letter_payloads', count(*) FROM dead_letter_payloads
UNION ALL SELECT 'missed_conversations', count(*) FROM missed_conversations
UNION ALL SELECT 'page_moves', count(*) FROM page_moves
UNION ALL SELECT 'webhook_events', count(*) FROM webhook_events
UNION ALL SELECT 'deliveries', count(*) FROM deliveries
UNION ALL SELECT 'source', count(*) FROM source;

-- name: read_forgotten
SELECT platform, page_id, kind, id
FROM forgotten
ORDER BY platform, page_id, kind, id;

-- name: read_journal
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal ORDER BY seq;

-- name: read_pages
SELECT platform, page_id, name, username, first_seen_at, last_seen_at
FROM pages
ORDER BY platform, page_id;

-- name: read_contacts
SELECT
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version, change_seq
FROM contacts
ORDER BY platform, page_id, contact_id;

-- name: read_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version, change_seq
FROM conversations
ORDER BY conversation_id;

-- name: read_contact_interaction_events
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    edited_at, deleted_at, reactions, referral, content_at, version, change_seq, history
FROM contact_interaction_events
ORDER BY event_id;

-- name: read_deleted_rows
SELECT change_seq, kind, platform, page_id, id, moved FROM deleted_rows ORDER BY change_seq;

-- name: read_dead_letter_payloads
SELECT dead_letter_id, payload FROM dead_letter_payloads ORDER BY dead_letter_id;

-- name: read_missed_conversations
SELECT stream, conversation_id, sweep_started_at
FROM missed_conversations
ORDER BY stream, conversation_id;

-- name: read_page_moves
SELECT platform, previous_page_id, page_id, moved_at
FROM page_moves
ORDER BY platform, previous_page_id, page_id;

-- name: read_webhook_events
SELECT event_key, stream, kind, message_id, contact_id, occurred_at, received_at, due_at, claims, actor, detail
FROM webhook_events
ORDER BY event_key;

-- name: read_deliveries
SELECT
    destination, place, behind_since, delivered_at, paused_at, failing_since, failures, problem, retry_at, replays
FROM deliveries
ORDER BY destination;

-- name: read_source
SELECT place, kind, base_url FROM source ORDER BY place;

-- name: add_forgotten
INSERT INTO forgotten (platform, page_id, kind, id) VALUES (?, ?, ?, ?);

-- name: add_journal
INSERT INTO journal (seq, stream, version, run_id, recorded_at, type, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_pages
INSERT INTO pages (platform, page_id, name, username, first_seen_at, last_seen_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_contacts
INSERT INTO contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version, change_seq
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_conversations
INSERT INTO conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version, change_seq
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_contact_interaction_events
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    edited_at, deleted_at, reactions, referral, content_at, version, change_seq, history
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_deleted_rows
INSERT INTO deleted_rows (change_seq, kind, platform, page_id, id, moved) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_dead_letter_payloads
INSERT INTO dead_letter_payloads (dead_letter_id, payload) VALUES (?, ?);

-- name: add_missed_conversations
INSERT INTO missed_conversations (stream, conversation_id, sweep_started_at) VALUES (?, ?, ?);

-- name: add_page_moves
INSERT INTO page_moves (platform, previous_page_id, page_id, moved_at) VALUES (?, ?, ?, ?);

-- name: add_webhook_events
INSERT INTO webhook_events (
    event_key, stream, kind, message_id, contact_id, occurred_at, received_at, due_at, claims, actor, detail
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_deliveries
INSERT INTO deliveries (
    destination, place, behind_since, delivered_at, paused_at, failing_since, failures, problem, retry_at, replays
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_source
INSERT INTO source (place, kind, base_url) VALUES (?, ?, ?);
