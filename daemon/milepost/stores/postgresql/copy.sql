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
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
ORDER BY seq;

-- name: read_pages
SELECT platform, page_id, name, username, instant_text(first_seen_at), instant_text(last_seen_at)
FROM pages
ORDER BY platform, page_id;

-- name: read_contacts
SELECT
    platform, page_id, contact_id, name, username, instant_text(first_seen_at), instant_text(last_interaction_at),
    instant_text(updated_at), version, change_seq
FROM contacts
ORDER BY platform, page_id, contact_id;

-- name: read_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    instant_text(updated_time), instant_text(first_synced_at), instant_text(synced_at), instant_text(deleted_at),
    messages_fingerprint, version, change_seq
FROM conversations
ORDER BY conversation_id;

-- name: read_contact_interaction_events
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments::text,
    instant_text(occurred_at), instant_text(edited_at), instant_text(deleted_at), reactions::text, referral::text,
    instant_text(content_at), version, change_seq, history
FROM contact_interaction_events
ORDER BY event_id;

-- name: read_deleted_rows
SELECT change_seq, kind, platform, page_id, id, moved FROM deleted_rows ORDER BY change_seq;

-- name: read_dead_letter_payloads
SELECT dead_letter_id, payload FROM dead_letter_payloads ORDER BY dead_letter_id;

-- name: read_missed_conversations
SELECT stream, conversation_id, instant_text(sweep_started_at)
FROM missed_conversations
ORDER BY stream, conversation_id;

-- name: read_page_moves
SELECT platform, previous_page_id, page_id, instant_text(moved_at)
FROM page_moves
ORDER BY platform, previous_page_id, page_id;

-- name: read_webhook_events
SELECT
    event_key, stream, kind, message_id, contact_id, instant_text(occurred_at), instant_text(received_at),
    instant_text(due_at), claims, actor, detail
FROM webhook_events
ORDER BY event_key;

-- name: read_deliveries
SELECT
    destination, place, instant_text(behind_since), instant_text(delivered_at), instant_text(paused_at),
    instant_text(failing_since), failures, problem, instant_text(retry_at), replays
FROM deliveries
ORDER BY destination;

-- name: read_source
SELECT place, kind, base_url FROM source ORDER BY place;

-- name: add_forgotten
COPY forgotten (platform, page_id, kind, id) FROM STDIN;

-- name: add_journal
COPY journal (seq, stream, version, run_id, recorded_at, type, data, hash) FROM STDIN;

-- name: add_pages
COPY pages (platform, page_id, name, username, first_seen_at, last_seen_at) FROM STDIN;

-- name: add_contacts
COPY contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at,
    version, change_seq
) FROM STDIN;

-- name: add_conversations
COPY conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version, change_seq
) FROM STDIN;

-- name: add_contact_interaction_events
COPY contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    edited_at, deleted_at, reactions, referral, content_at, version, change_seq, history
) FROM STDIN;

-- name: add_deleted_rows
COPY deleted_rows (change_seq, kind, platform, page_id, id, moved) FROM STDIN;

-- name: add_dead_letter_payloads
COPY dead_letter_payloads (dead_letter_id, payload) FROM STDIN;

-- name: add_missed_conversations
COPY missed_conversations (stream, conversation_id, sweep_started_at) FROM STDIN;

-- name: add_page_moves
COPY page_moves (platform, previous_page_id, page_id, moved_at) FROM STDIN;

-- name: add_webhook_events
COPY webhook_events (
    event_key, stream, kind, message_id, contact_id, occurred_at, received_at, due_at, claims, actor, detail
) FROM STDIN;

-- name: add_deliveries
COPY deliveries (
    destination, place, behind_since, delivered_at, paused_at, failing_since, failures, problem, retry_at, replays
) FROM STDIN;

-- name: add_source
COPY source (place, kind, base_url) FROM STDIN;

-- name: has_relations
SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s LIMIT 1;

-- name: begin_copy
-- The transaction lasts as long as the copy, through a pooler, too.
SELECT set_config('idle_in_transaction_session_timeout', '0', true);

-- name: lock_target
-- One copy into a schema at a time.
SELECT pg_try_advisory_xact_lock(hashtextextended(%s || ' copy', 0));

-- name: hide_target
-- A program that opens the database before the copy is committed waits, and then finds all of it.
LOCK TABLE
    forgotten, journal, checkpoints, runs, dead_letters, pages, contacts, conversations,
    contact_interaction_events, deleted_rows, dead_letter_payloads, missed_conversations, page_moves, message_backlog,
    webhook_events, deliveries, delivery_holds, source,
    unfinished_copy
IN ACCESS EXCLUSIVE MODE;

-- name: forced
-- The tables whose policies apply to their owner, too, even if the policies show all rows.
SELECT string_agg(relname, ', ' ORDER BY relname)
FROM pg_class
WHERE
    relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND row_security_active(oid)
    AND relowner = (SELECT relowner FROM pg_class WHERE oid = 'journal'::regclass);

-- name: empty_target
-- Deletes an unfinished copy of Milepost's first versions and its mark, or the source that a start recorded.
ALTER TABLE journal DISABLE TRIGGER journal_refuses_truncate;
TRUNCATE
    forgotten, journal, checkpoints, runs, dead_letters, pages, contacts, conversations,
    contact_interaction_events, deleted_rows, dead_letter_payloads, missed_conversations, page_moves, message_backlog,
    webhook_events, deliveries, delivery_holds, source,
    unfinished_copy;
ALTER TABLE journal ENABLE TRIGGER journal_refuses_truncate;

-- name: continue_numbers
-- The first change after the copy gets the number after the last one.
SELECT setval('change_seqs', %s);
