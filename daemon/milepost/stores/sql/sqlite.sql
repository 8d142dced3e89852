-- Every statement of the SQLite store, by name. The columns are in the order of the structs in core/model.py.

-- name: insert_entry
INSERT INTO journal (stream, version, run_id, recorded_at, type, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: upsert_contact
INSERT INTO contacts (platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (platform, page_id, contact_id) DO UPDATE SET
    name = excluded.name,
    username = excluded.username,
    last_interaction_at = excluded.last_interaction_at,
    updated_at = excluded.updated_at;

-- name: upsert_conversation
INSERT INTO conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (conversation_id) DO UPDATE SET
    contact_id = excluded.contact_id,
    link = excluded.link,
    snippet = excluded.snippet,
    message_count = excluded.message_count,
    unread_count = excluded.unread_count,
    can_reply = excluded.can_reply,
    updated_time = excluded.updated_time,
    synced_at = excluded.synced_at,
    deleted_at = excluded.deleted_at;

-- name: insert_interaction_event
-- A conversation may be offered twice in a group of commits; its events are written once and never changed.
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO NOTHING;

-- name: upsert_payload
INSERT INTO dead_letter_payloads (dead_letter_id, payload) VALUES (?, ?)
ON CONFLICT (dead_letter_id) DO UPDATE SET payload = excluded.payload;

-- name: upsert_checkpoint
INSERT INTO checkpoints (
    stream, version, hash, mode, phase, cursor, watermark, last_success_at, last_full_sweep_at, open_dead_letters,
    updated_at, state
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (stream) DO UPDATE SET
    version = excluded.version,
    hash = excluded.hash,
    mode = excluded.mode,
    phase = excluded.phase,
    cursor = excluded.cursor,
    watermark = excluded.watermark,
    last_success_at = excluded.last_success_at,
    last_full_sweep_at = excluded.last_full_sweep_at,
    open_dead_letters = excluded.open_dead_letters,
    updated_at = excluded.updated_at,
    state = excluded.state;

-- name: upsert_run
INSERT INTO runs (
    run_id, stream, mode, status, reason, started_at, ended_at, batches, inserted, updated, unchanged, dead_lettered,
    contacts, interaction_events, retries, failed_batches, problem
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET
    mode = excluded.mode,
    status = excluded.status,
    reason = excluded.reason,
    ended_at = excluded.ended_at,
    batches = excluded.batches,
    inserted = excluded.inserted,
    updated = excluded.updated,
    unchanged = excluded.unchanged,
    dead_lettered = excluded.dead_lettered,
    contacts = excluded.contacts,
    interaction_events = excluded.interaction_events,
    retries = excluded.retries,
    failed_batches = excluded.failed_batches,
    problem = excluded.problem;

-- name: upsert_dead_letter
INSERT INTO dead_letters (dead_letter_id, stream, stage, subject, reason, opened_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (dead_letter_id) DO UPDATE SET opened_at = excluded.opened_at, reason = excluded.reason;

-- name: known_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at
FROM conversations
WHERE conversation_id IN (SELECT value FROM json_each(?));

-- name: known_contacts
SELECT platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at
FROM contacts
WHERE platform = ? AND page_id = ? AND contact_id IN (SELECT value FROM json_each(?));

-- name: known_interaction_events
SELECT event_id FROM contact_interaction_events WHERE event_id IN (SELECT value FROM json_each(?));

-- name: known_dead_letters
SELECT dead_letter_id FROM dead_letters WHERE dead_letter_id IN (SELECT value FROM json_each(?));

-- name: checkpoint
SELECT state FROM checkpoints WHERE stream = ?;

-- name: checkpoints
SELECT state FROM checkpoints ORDER BY stream;

-- name: entries_since
-- What a start folds into its snapshot: nothing, unless the snapshot is behind.
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE stream = ? AND version > ?
ORDER BY version;

-- name: entries_after
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE seq > ?
ORDER BY seq
LIMIT ?;

-- name: stream_entries_after
-- Within a stream, versions are in the order of seq: the key of (stream, version) finds the place from the newest back.
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE
    stream = :stream
    AND version > coalesce(
        (SELECT version FROM journal WHERE stream = :stream AND seq <= :after ORDER BY version DESC LIMIT 1), 0
    )
ORDER BY version
LIMIT :limit;

-- name: latest_entries
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal ORDER BY seq DESC LIMIT ?;

-- name: latest_stream_entries
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE stream = ?
ORDER BY version DESC
LIMIT ?;

-- name: journal
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal ORDER BY seq;

-- name: clear_checkpoints
DELETE FROM checkpoints;

-- name: clear_runs
DELETE FROM runs;

-- name: clear_dead_letters
DELETE FROM dead_letters;

-- name: stored_checkpoints
SELECT
    stream, version, hash, mode, phase, cursor, watermark, last_success_at, last_full_sweep_at, open_dead_letters,
    updated_at, state
FROM checkpoints
WHERE stream IN (SELECT value FROM json_each(?));

-- name: stored_runs
SELECT
    run_id, stream, mode, status, reason, started_at, ended_at, batches, inserted, updated, unchanged, dead_lettered,
    contacts, interaction_events, retries, failed_batches, problem
FROM runs
WHERE run_id IN (SELECT value FROM json_each(?));

-- name: stored_dead_letters
SELECT dead_letter_id, stream, stage, subject, reason, opened_at
FROM dead_letters
WHERE dead_letter_id IN (SELECT value FROM json_each(?));

-- name: count_checkpoints
SELECT count(*) FROM checkpoints;

-- name: count_runs
SELECT count(*) FROM runs;

-- name: count_dead_letters
SELECT count(*) FROM dead_letters;

-- name: answers
SELECT 1 FROM journal LIMIT 1;
