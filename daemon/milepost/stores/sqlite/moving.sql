-- What `milepost store copy` reads and writes, a table at a time. The columns are those of stores/rows.py; the first
-- ones are the key, which comes in the order of its bytes.

-- name: read_forgotten
SELECT platform, page_id, kind, id
FROM forgotten
WHERE (platform, page_id, kind, id) > (?, ?, ?, ?)
ORDER BY platform, page_id, kind, id
LIMIT ?;

-- name: read_journal
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: read_contacts
SELECT platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at
FROM contacts
WHERE (platform, page_id, contact_id) > (?, ?, ?)
ORDER BY platform, page_id, contact_id
LIMIT ?;

-- name: read_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at
FROM conversations
WHERE conversation_id > ?
ORDER BY conversation_id
LIMIT ?;

-- name: read_contact_interaction_events
SELECT event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at
FROM contact_interaction_events
WHERE event_id > ?
ORDER BY event_id
LIMIT ?;

-- name: read_dead_letter_payloads
SELECT dead_letter_id, payload FROM dead_letter_payloads WHERE dead_letter_id > ? ORDER BY dead_letter_id LIMIT ?;

-- name: read_missed_conversations
SELECT stream, conversation_id, sweep_started_at
FROM missed_conversations
WHERE (stream, conversation_id) > (?, ?)
ORDER BY stream, conversation_id
LIMIT ?;

-- name: read_source
SELECT place, kind, base_url FROM source WHERE place > ? ORDER BY place LIMIT ?;

-- name: count_forgotten
SELECT count(*) FROM forgotten;

-- name: count_journal
SELECT count(*) FROM journal;

-- name: count_contacts
SELECT count(*) FROM contacts;

-- name: count_conversations
SELECT count(*) FROM conversations;

-- name: count_contact_interaction_events
SELECT count(*) FROM contact_interaction_events;

-- name: count_dead_letter_payloads
SELECT count(*) FROM dead_letter_payloads;

-- name: count_missed_conversations
SELECT count(*) FROM missed_conversations;

-- name: count_source
SELECT count(*) FROM source;

-- name: add_forgotten
INSERT INTO forgotten (platform, page_id, kind, id) VALUES (?, ?, ?, ?);

-- name: add_journal
INSERT INTO journal (seq, stream, version, run_id, recorded_at, type, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_contacts
INSERT INTO contacts (platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_conversations
INSERT INTO conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_contact_interaction_events
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_dead_letter_payloads
INSERT INTO dead_letter_payloads (dead_letter_id, payload) VALUES (?, ?);

-- name: add_missed_conversations
INSERT INTO missed_conversations (stream, conversation_id, sweep_started_at) VALUES (?, ?, ?);

-- name: add_source
INSERT INTO source (place, kind, base_url) VALUES (?, ?, ?);

-- name: remove_contacts
DELETE FROM contacts WHERE platform = ? AND page_id = ? AND contact_id = ?;

-- name: remove_conversations
DELETE FROM conversations WHERE conversation_id = ?;

-- name: remove_contact_interaction_events
DELETE FROM contact_interaction_events WHERE event_id = ?;

-- name: remove_dead_letter_payloads
DELETE FROM dead_letter_payloads WHERE dead_letter_id = ?;

-- name: remove_missed_conversations
DELETE FROM missed_conversations WHERE stream = ? AND conversation_id = ?;

-- name: remove_source
DELETE FROM source WHERE place = ?;

-- name: mark
SELECT source, since FROM unfinished_copy;

-- name: set_mark
INSERT INTO unfinished_copy (place, source, since) VALUES (1, ?, ?)
ON CONFLICT (place) DO UPDATE SET source = excluded.source, since = excluded.since;

-- name: remove_mark
DELETE FROM unfinished_copy;
