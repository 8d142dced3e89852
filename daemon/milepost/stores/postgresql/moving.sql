-- What `milepost store copy` reads and writes, a table at a time. The columns are those of stores/rows.py; the first
-- ones are the key, which comes in the order of its bytes.

-- name: read_forgotten
SELECT platform, page_id, kind, id
FROM forgotten
WHERE (platform, page_id, kind, id) > (%s, %s, %s, %s)
ORDER BY platform, page_id, kind, id
LIMIT %s;

-- name: read_journal
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE seq > %s
ORDER BY seq
LIMIT %s;

-- name: read_contacts
SELECT
    platform, page_id, contact_id, name, username, instant_text(first_seen_at), instant_text(last_interaction_at),
    instant_text(updated_at)
FROM contacts
WHERE (platform, page_id, contact_id) > (%s, %s, %s)
ORDER BY platform, page_id, contact_id
LIMIT %s;

-- name: read_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    instant_text(updated_time), instant_text(first_synced_at), instant_text(synced_at), instant_text(deleted_at)
FROM conversations
WHERE conversation_id > %s
ORDER BY conversation_id
LIMIT %s;

-- name: read_contact_interaction_events
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments::text,
    instant_text(occurred_at)
FROM contact_interaction_events
WHERE event_id > %s
ORDER BY event_id
LIMIT %s;

-- name: read_dead_letter_payloads
SELECT dead_letter_id, payload FROM dead_letter_payloads WHERE dead_letter_id > %s ORDER BY dead_letter_id LIMIT %s;

-- name: read_missed_conversations
SELECT stream, conversation_id, instant_text(sweep_started_at)
FROM missed_conversations
WHERE (stream, conversation_id) > (%s, %s)
ORDER BY stream, conversation_id
LIMIT %s;

-- name: read_source
SELECT place, kind, base_url FROM source WHERE place > %s ORDER BY place LIMIT %s;

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
COPY forgotten (platform, page_id, kind, id) FROM STDIN;

-- name: add_journal
COPY journal (seq, stream, version, run_id, recorded_at, type, data, hash) FROM STDIN;

-- name: add_contacts
COPY contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at
) FROM STDIN;

-- name: add_conversations
COPY conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at
) FROM STDIN;

-- name: add_contact_interaction_events
COPY contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at
) FROM STDIN;

-- name: add_dead_letter_payloads
COPY dead_letter_payloads (dead_letter_id, payload) FROM STDIN;

-- name: add_missed_conversations
COPY missed_conversations (stream, conversation_id, sweep_started_at) FROM STDIN;

-- name: add_source
COPY source (place, kind, base_url) FROM STDIN;

-- name: remove_contacts
DELETE FROM contacts
WHERE (platform, page_id, contact_id) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]));

-- name: remove_conversations
DELETE FROM conversations WHERE conversation_id = ANY (%s::text[]);

-- name: remove_contact_interaction_events
DELETE FROM contact_interaction_events WHERE event_id = ANY (%s::text[]);

-- name: remove_dead_letter_payloads
DELETE FROM dead_letter_payloads WHERE dead_letter_id = ANY (%s::text[]);

-- name: remove_missed_conversations
DELETE FROM missed_conversations WHERE (stream, conversation_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]));

-- name: remove_source
DELETE FROM source WHERE place = ANY (%s::bigint[]);

-- name: has_relations
SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s LIMIT 1;

-- name: has_entries
SELECT 1 FROM journal LIMIT 1;

-- name: set_mark
INSERT INTO unfinished_copy (place, source, since) VALUES (1, %s, %s)
ON CONFLICT (place) DO UPDATE SET source = excluded.source, since = excluded.since;

-- name: remove_mark
DELETE FROM unfinished_copy;

-- name: hold
-- One copy into a schema at a time. The transaction is kept open as long as it lasts, over a pooler as well.
SELECT
    set_config('idle_in_transaction_session_timeout', '0', true),
    pg_try_advisory_xact_lock(hashtextextended(%(schema)s || ' copy', 0));
