-- The statements of the SQLite store, by name. The columns are in the order of the structs in core/model.py.
-- Statements that write rows take one row at a time.

-- name: insert_entries
INSERT INTO journal (stream, version, run_id, recorded_at, type, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: upsert_page
INSERT INTO pages (platform, page_id, name, username, first_seen_at, last_seen_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (platform, page_id) DO UPDATE SET
    name = coalesce(excluded.name, pages.name),
    username = coalesce(excluded.username, pages.username),
    last_seen_at = excluded.last_seen_at;

-- name: upsert_contacts
INSERT INTO contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version, change_seq
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (platform, page_id, contact_id) DO UPDATE SET
    name = excluded.name,
    username = excluded.username,
    last_interaction_at = excluded.last_interaction_at,
    updated_at = excluded.updated_at,
    version = excluded.version,
    change_seq = excluded.change_seq;

-- name: upsert_conversations
INSERT INTO conversations (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version, change_seq
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (conversation_id) DO UPDATE SET
    contact_id = excluded.contact_id,
    link = excluded.link,
    snippet = excluded.snippet,
    message_count = excluded.message_count,
    unread_count = excluded.unread_count,
    can_reply = excluded.can_reply,
    updated_time = excluded.updated_time,
    synced_at = excluded.synced_at,
    deleted_at = excluded.deleted_at,
    messages_fingerprint = excluded.messages_fingerprint,
    version = excluded.version,
    change_seq = excluded.change_seq;

-- name: insert_interaction_events
-- A conversation may come twice in a group of commits; its events are written once.
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    content_at, history, version, change_seq
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO NOTHING;

-- name: revise_interaction_events
UPDATE contact_interaction_events
SET
    kind = :kind, text = :text, attachments = :attachments, edited_at = :edited_at, deleted_at = :deleted_at,
    reactions = :reactions, referral = :referral, content_at = :content_at, version = :version
WHERE event_id = :event_id;

-- name: due_facts
-- Facts whose messages are stored, earliest first. Each says whether a later fact of its kind is known or, for a read
-- receipt, whether there is a later message.
SELECT
    fact.event_key, fact.kind, coalesce(fact.actor, ''), fact.occurred_at, fact.detail,
    CASE fact.kind
        WHEN 'read' THEN EXISTS (
            SELECT 1 FROM contact_interaction_events AS later
            WHERE
                later.conversation_id = message.conversation_id AND later.direction = 'in'
                AND later.occurred_at > fact.occurred_at
        )
        ELSE EXISTS (
            SELECT 1 FROM webhook_events AS later
            WHERE
                later.message_id = fact.message_id AND later.kind = fact.kind AND later.actor = fact.actor
                AND (later.occurred_at, later.event_key) > (fact.occurred_at, fact.event_key)
        )
    END,
    event_id, conversation_id, platform, page_id, message.contact_id, direction, message.kind, text, attachments,
    message.occurred_at, edited_at, deleted_at, reactions, referral, content_at
FROM webhook_events AS fact
JOIN contact_interaction_events AS message ON event_id = fact.message_id
WHERE
    fact.stream = :stream AND fact.due_at IS NOT NULL AND fact.kind NOT IN ('message', 'revision')
    AND platform = :platform AND page_id = :page_id
ORDER BY fact.occurred_at, fact.event_key
LIMIT :limit;

-- name: settle_facts
UPDATE webhook_events SET due_at = NULL, detail = NULL WHERE event_key IN (SELECT value FROM json_each(?));

-- name: payloads_about
-- The payloads in a stream that name one of these messages. Only open dead letters have a payload.
SELECT dead_letter_id, payload
FROM dead_letters
JOIN dead_letter_payloads USING (dead_letter_id)
WHERE
    stream = :stream AND closed_at IS NULL
    AND EXISTS (SELECT 1 FROM json_each(:event_ids) WHERE instr(payload, value));

-- name: unsent_messages
-- Those that a webhook has reported lately.
SELECT message_id FROM webhook_events WHERE stream IN (SELECT value FROM json_each(?)) AND kind = 'unsend';

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
INSERT INTO dead_letters (
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dead_letter_id) DO UPDATE SET
    stage = excluded.stage,
    reason = excluded.reason,
    opened_at = excluded.opened_at,
    attempts = excluded.attempts,
    redrive_at = excluded.redrive_at,
    closed_at = excluded.closed_at,
    resolution = excluded.resolution,
    note = excluded.note,
    fingerprint = excluded.fingerprint;

-- name: upsert_gap
INSERT INTO message_backlog (
    gap_id, stream, conversation_id, queue, owed_since, newest_at, reached_at, stored, attempts, retry_at, state
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (gap_id) DO UPDATE SET
    queue = excluded.queue,
    owed_since = excluded.owed_since,
    newest_at = excluded.newest_at,
    reached_at = excluded.reached_at,
    stored = excluded.stored,
    attempts = excluded.attempts,
    retry_at = excluded.retry_at,
    state = excluded.state;

-- name: delete_gap
DELETE FROM message_backlog WHERE gap_id = ?;

-- name: delete_payload
DELETE FROM dead_letter_payloads WHERE dead_letter_id = ?;

-- name: drop_found_notes
DELETE FROM missed_conversations WHERE stream = ? AND conversation_id IN (SELECT value FROM json_each(?));

-- name: drop_notes_of_other_sweeps
-- A sweep may be abandoned for another one. Dropping its notes leaves only those of the sweep that ends.
DELETE FROM missed_conversations WHERE stream = ? AND sweep_started_at <> ?;

-- name: note_missed
INSERT INTO missed_conversations (stream, conversation_id, sweep_started_at)
SELECT :stream, conversation_id, :sweep_started_at
FROM conversations
WHERE
    platform = :platform AND page_id = :page_id
    AND updated_time > :newer_than AND updated_time < :older_than
    AND deleted_at IS NULL
    AND conversation_id NOT IN (SELECT value FROM json_each(:seen))
ON CONFLICT (stream, conversation_id) DO NOTHING;

-- name: mark_missed_as_deleted
-- Without conversations that have moved to another page since.
UPDATE conversations SET deleted_at = :at, version = :version
WHERE
    conversation_id IN (SELECT conversation_id FROM missed_conversations WHERE stream = :stream)
    AND platform = :platform AND page_id = :page_id
    AND deleted_at IS NULL;

-- name: drop_notes
DELETE FROM missed_conversations WHERE stream = ?;

-- name: turn_own_messages
-- Messages from an id that turned out to be our own: they become sent messages to the other person of the conversation.
UPDATE contact_interaction_events
SET
    direction = 'out',
    contact_id = coalesce(
        (
            SELECT nullif(conversations.contact_id, :own_id) FROM conversations
            WHERE conversations.conversation_id = contact_interaction_events.conversation_id
        ),
        (
            SELECT min(other.contact_id) FROM contact_interaction_events AS other
            WHERE
                other.conversation_id = contact_interaction_events.conversation_id
                AND other.contact_id <> :own_id
        )
    ),
    version = :version
WHERE platform = :platform AND page_id = :page_id AND contact_id = :own_id;

-- name: name_messages
-- Messages that were stored before the person of their conversation was known.
UPDATE contact_interaction_events
SET
    contact_id = (
        SELECT conversations.contact_id FROM conversations
        WHERE conversations.conversation_id = contact_interaction_events.conversation_id
    ),
    version = :version
WHERE conversation_id IN (SELECT value FROM json_each(:named)) AND contact_id IS NULL;

-- name: clear_own_contact
UPDATE conversations SET contact_id = NULL, version = :version
WHERE platform = :platform AND page_id = :page_id AND contact_id = :own_id;

-- name: drop_own_contact
DELETE FROM contacts WHERE platform = :platform AND page_id = :page_id AND contact_id = :own_id;

-- name: record_moves
-- Which page took over rows of which other page: the latest move for each pair.
INSERT INTO page_moves (platform, previous_page_id, page_id, moved_at)
SELECT platform, page_id, :page_id, :at FROM conversations
WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
UNION ALL
SELECT platform, page_id, :page_id, :at FROM contact_interaction_events
WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
ON CONFLICT (platform, previous_page_id, page_id) DO UPDATE SET moved_at = excluded.moved_at;

-- name: drop_reverse_moves
DELETE FROM page_moves
WHERE
    platform = :platform AND previous_page_id = :page_id
    AND page_id IN (
        SELECT page_id FROM conversations WHERE conversation_id IN (SELECT value FROM json_each(:moved))
        UNION ALL
        SELECT page_id FROM contact_interaction_events
        WHERE conversation_id IN (SELECT value FROM json_each(:moved))
    );

-- name: move_forgotten
-- People who were erased on the previous page are kept out of this one, too.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT platform, :page_id, kind, id
FROM forgotten
WHERE
    platform = :platform
    AND page_id IN (SELECT previous_page_id FROM page_moves WHERE platform = :platform AND page_id = :page_id)
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: count_links
SELECT count(*) FROM page_moves WHERE platform = :platform;

-- name: forgotten_contacts
-- The people who were erased on any of these pages.
SELECT DISTINCT id FROM forgotten
WHERE platform = :platform AND kind = 'contact' AND page_id IN (SELECT value FROM json_each(:pages));

-- name: move_contacts
INSERT INTO contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version, change_seq
)
SELECT
    platform, :page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, :version,
    rowid + (SELECT change_seq FROM last_change)
FROM contacts
WHERE
    platform = :platform
    AND (page_id, contact_id) IN (
        SELECT page_id, contact_id FROM conversations
        WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
        UNION ALL
        SELECT page_id, contact_id FROM contact_interaction_events
        WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
    )
ON CONFLICT (platform, page_id, contact_id) DO NOTHING;

-- name: drop_moved_contacts
-- Contacts whose last conversation on their page is among the moved ones.
DELETE FROM contacts
WHERE
    platform = :platform
    AND (page_id, contact_id) IN (
        SELECT page_id, contact_id FROM conversations
        WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
        UNION ALL
        SELECT page_id, contact_id FROM contact_interaction_events
        WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
    )
    AND (page_id, contact_id) NOT IN (
        SELECT page_id, contact_id
        FROM conversations
        WHERE
            platform = :platform
            AND page_id IN (
                SELECT page_id FROM conversations
                WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
                UNION ALL
                SELECT page_id FROM contact_interaction_events
                WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id
            )
            AND contact_id IS NOT NULL
            AND conversation_id NOT IN (SELECT value FROM json_each(:moved))
    );

-- name: move_interaction_events
UPDATE contact_interaction_events SET page_id = :page_id, version = :version
WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id;

-- name: move_conversations
UPDATE conversations SET page_id = :page_id, version = :version
WHERE conversation_id IN (SELECT value FROM json_each(:moved)) AND page_id <> :page_id;

-- name: drop_notes_of_moved
DELETE FROM missed_conversations
WHERE
    stream IN (
        SELECT platform || ':' || previous_page_id
        FROM page_moves
        WHERE platform = :platform AND page_id = :page_id
    )
    AND conversation_id IN (SELECT value FROM json_each(:moved));

-- name: left_behind
-- Given conversations without a row, those whose messages are stored under another page.
SELECT conversation_id, max(page_id)
FROM contact_interaction_events
WHERE conversation_id IN (SELECT value FROM json_each(:conversations)) AND platform = :platform AND page_id <> :page_id
GROUP BY conversation_id;

-- name: owed_elsewhere
-- The gaps that other pages have in these conversations.
SELECT state FROM message_backlog
WHERE
    stream IN (SELECT :platform || ':' || value FROM json_each(:pages))
    AND conversation_id IN (SELECT value FROM json_each(:conversations));

-- name: contact_pages
-- The pages of these contacts' conversations: this page, and those that its rows have moved to in any number of steps.
WITH RECURSIVE later (page_id) AS (
    SELECT :page_id
    UNION
    SELECT move.page_id
    FROM later
    JOIN page_moves AS move ON move.platform = :platform AND move.previous_page_id = later.page_id
)
SELECT contact_id, page_id
FROM conversations
WHERE
    platform = :platform AND page_id IN (SELECT page_id FROM later)
    AND contact_id IN (SELECT value FROM json_each(:contacts));

-- name: checkpoints_elsewhere
SELECT state FROM checkpoints WHERE stream IN (SELECT :platform || ':' || value FROM json_each(:pages));

-- name: moved_to
-- The pages that took over rows of this page, and when each was last known to be active.
SELECT move.page_id, max(move.moved_at, coalesce(checkpoints.last_success_at, ''))
FROM page_moves AS move
LEFT JOIN checkpoints ON checkpoints.stream = move.platform || ':' || move.page_id
WHERE move.platform = :platform AND move.previous_page_id = :page_id;

-- name: contacts_elsewhere
SELECT platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at
FROM contacts
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND contact_id IN (SELECT value FROM json_each(:contacts));

-- name: linked_pages
-- The page, and all pages that rows have moved from or to in any number of steps.
WITH RECURSIVE linked (page_id) AS (
    SELECT :page_id
    UNION
    SELECT CASE WHEN move.page_id = linked.page_id THEN move.previous_page_id ELSE move.page_id END
    FROM linked
    JOIN page_moves AS move
        ON move.platform = :platform AND linked.page_id IN (move.previous_page_id, move.page_id)
)
SELECT page_id FROM linked;

-- name: known_conversations
-- A join: of ids after IN, SQLite would first make a sorted table, which takes up to a third of the time.
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint
FROM json_each(?)
CROSS JOIN conversations ON conversation_id = value;

-- name: conversation_states
SELECT conversation_id, page_id, synced_at
FROM json_each(?)
CROSS JOIN conversations ON conversation_id = value;

-- name: known_contacts
SELECT platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at
FROM json_each(?)
CROSS JOIN contacts ON platform = ? AND page_id = ? AND contact_id = value;

-- name: known_interaction_events
SELECT event_id
FROM json_each(?)
CROSS JOIN contact_interaction_events ON event_id = value;

-- name: known_messages
-- The stored messages of some conversations, each within its own time span.
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    edited_at, deleted_at, reactions, referral, content_at
FROM json_each(?)
CROSS JOIN contact_interaction_events
WHERE
    conversation_id = json_extract(value, '$[0]')
    AND occurred_at BETWEEN json_extract(value, '$[1]') AND json_extract(value, '$[2]');

-- name: known_dead_letters
SELECT subject, opened_at, dead_letters.dead_letter_id, fingerprint, closed_at IS NULL, payload
FROM dead_letters
LEFT JOIN dead_letter_payloads AS held ON held.dead_letter_id = dead_letters.dead_letter_id AND stage = 'store'
WHERE
    stream = ? AND subject IN (SELECT value FROM json_each(?))
    AND (closed_at IS NULL OR resolution = 'discarded');

-- name: count_unseen
SELECT count(*)
FROM conversations
WHERE
    platform = :platform AND page_id = :page_id
    AND updated_time > :newer_than AND updated_time < :older_than
    AND deleted_at IS NULL
    AND conversation_id NOT IN (SELECT value FROM json_each(:seen))
    AND NOT EXISTS (
        SELECT 1 FROM missed_conversations AS note
        WHERE
            note.stream = :stream AND note.conversation_id = conversations.conversation_id
            AND note.sweep_started_at = :sweep_started_at
    );

-- name: missed_among
SELECT conversation_id
FROM missed_conversations
WHERE stream = ? AND sweep_started_at = ? AND conversation_id IN (SELECT value FROM json_each(?));

-- name: count_missed
SELECT count(*) FROM missed_conversations WHERE stream = ? AND sweep_started_at = ?;

-- name: count_stored
SELECT count(*) FROM conversations WHERE platform = :platform AND page_id = :page_id AND deleted_at IS NULL;

-- name: count_messages
SELECT count(*), count(CASE WHEN occurred_at <= :back_to THEN 1 END)
FROM contact_interaction_events
WHERE
    conversation_id = :conversation_id AND occurred_at <= :newest_at
    AND (deleted_at IS NULL OR deleted_at > :as_of);

-- name: has_forgotten
SELECT 1 FROM forgotten WHERE platform = :platform LIMIT 1;

-- name: forgotten_among
-- A conversation keeps its id on any page.
SELECT id
FROM forgotten
WHERE platform = :platform AND kind = 'conversation' AND id IN (SELECT value FROM json_each(:conversations))
UNION ALL
SELECT id
FROM forgotten
WHERE
    platform = :platform AND page_id = :page_id
    AND kind = 'contact' AND id IN (SELECT value FROM json_each(:contacts));

-- name: is_about_forgotten
-- Matches the subject, or a contact's id anywhere in the payload that is not part of a longer id.
SELECT 1
FROM forgotten
WHERE
    platform = :platform
    AND CASE kind
        WHEN 'contact' THEN
            page_id = :page_id
            AND (
                :subject = 'contact ' || id
                OR :payload GLOB
                '*[^0-9A-Za-z]' || replace(replace(replace(id, '[', '[[]'), '*', '[*]'), '?', '[?]')
                || '[^0-9A-Za-z]*'
            )
        ELSE :subject = id OR instr(:subject, id || '/') = 1
    END
LIMIT 1;

-- name: dead_letter
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE dead_letter_id = ?;

-- name: due_dead_letters
-- A dead letter that is due after :latest was postponed by a clock that was ahead, so it is due now.
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution,
    note, fingerprint, payload
FROM dead_letters
LEFT JOIN dead_letter_payloads USING (dead_letter_id)
WHERE stream = :stream AND closed_at IS NULL AND (redrive_at <= :now OR redrive_at > :latest OR payload IS NULL)
ORDER BY opened_at, dead_letter_id
LIMIT :limit;

-- name: open_gaps
-- Gaps between two sweeps precede histories; newest first. Each says whether its person was erased, and whether its
-- conversation has moved to another page.
SELECT
    state,
    EXISTS (
        SELECT 1 FROM forgotten
        WHERE platform = :platform AND page_id = :page_id AND kind = 'conversation' AND id = conversation_id
    ),
    EXISTS (
        SELECT 1 FROM conversations
        WHERE conversations.conversation_id = message_backlog.conversation_id AND page_id <> :page_id
    )
FROM message_backlog
WHERE stream = :stream AND queue < 2
ORDER BY queue, newest_at DESC, gap_id DESC
LIMIT :limit;

-- name: gaps_at_limit
-- Histories that stopped at a limit and do not reach back to an earlier limit.
SELECT state
FROM message_backlog
WHERE stream = :stream AND queue = 2 AND reached_at > :newer_than
ORDER BY reached_at DESC
LIMIT :limit;

-- name: search_until
-- The last time in a step through the conversations of a stream: all conversations of one time are in the same step.
SELECT updated_time
FROM conversations
WHERE platform = :platform AND page_id = :page_id AND updated_time > :newer_than
ORDER BY updated_time
LIMIT 1 OFFSET :offset;

-- name: search_threads
-- The conversations of a step that have stored messages but no recorded history, with the number of their messages.
-- Those after the second of `updated_time` are not in `message_count`: the store has refused the row of a later state.
SELECT
    conversation_id, first_synced_at, message_count,
    (
        SELECT count(*) FROM contact_interaction_events AS message
        WHERE
            message.conversation_id = conversations.conversation_id AND message.deleted_at IS NULL
            AND occurred_at <= substr(updated_time, 1, 19) || '.999Z'
    ),
    (
        SELECT min(occurred_at) FROM contact_interaction_events AS message
        WHERE message.conversation_id = conversations.conversation_id
    ) AS oldest_at,
    (
        SELECT max(occurred_at) FROM contact_interaction_events AS message
        WHERE
            message.conversation_id = conversations.conversation_id
            AND occurred_at <= substr(updated_time, 1, 19) || '.999Z'
    )
FROM conversations
WHERE
    platform = :platform AND page_id = :page_id AND updated_time > :newer_than AND updated_time <= :until
    AND deleted_at IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM message_backlog
        WHERE message_backlog.conversation_id = conversations.conversation_id AND stream = :stream AND queue > 0
    )
    AND oldest_at IS NOT NULL;

-- name: dead_letters_with_payloads
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution,
    note, fingerprint, payload
FROM dead_letters
LEFT JOIN dead_letter_payloads USING (dead_letter_id)
WHERE dead_letter_id IN (SELECT value FROM json_each(?));

-- name: threads
SELECT conversation_id, coalesce(name, username), link
FROM conversations
LEFT JOIN contacts USING (platform, page_id, contact_id)
WHERE conversation_id IN (SELECT value FROM json_each(?));

-- name: dead_letters_after
-- Oldest first. The position may be any dead letter; if it was removed with its stream, the list starts over.
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE
    :open AND closed_at IS NULL
    AND (opened_at, dead_letter_id)
    > (coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = :after), ''), :after)
UNION ALL
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE
    :closed AND closed_at IS NOT NULL
    AND (opened_at, dead_letter_id)
    > (coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = :after), ''), :after)
ORDER BY opened_at, dead_letter_id
LIMIT :limit;

-- name: stream_dead_letters_after
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE
    :open AND stream = :stream AND closed_at IS NULL
    AND (opened_at, dead_letter_id)
    > (coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = :after), ''), :after)
UNION ALL
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE
    :closed AND stream = :stream AND closed_at IS NOT NULL
    AND (opened_at, dead_letter_id)
    > (coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = :after), ''), :after)
ORDER BY opened_at, dead_letter_id
LIMIT :limit;

-- name: runs_before
-- Newest first: run ids sort by start time.
SELECT
    run_id, stream, mode, status, reason, started_at, ended_at, batches, inserted, updated, unchanged, dead_lettered,
    contacts, interaction_events, retries, failed_batches, problem
FROM runs
WHERE run_id < :before
ORDER BY run_id DESC
LIMIT :limit;

-- name: stream_runs_before
SELECT
    run_id, stream, mode, status, reason, started_at, ended_at, batches, inserted, updated, unchanged, dead_lettered,
    contacts, interaction_events, retries, failed_batches, problem
FROM runs
WHERE stream = :stream AND run_id < :before
ORDER BY run_id DESC
LIMIT :limit;

-- name: checkpoint
SELECT state FROM checkpoints WHERE stream = ?;

-- name: checkpoints
SELECT state FROM checkpoints ORDER BY stream;

-- name: page_names
-- Rows with a `name` come last and win: a page may have a name on one platform only.
SELECT page_id, coalesce(name, username)
FROM pages
WHERE coalesce(name, username) IS NOT NULL
ORDER BY name IS NOT NULL, page_id;

-- name: entry_at
SELECT seq, hash FROM journal WHERE stream = ? AND version = ?;

-- name: entries_since
-- The entries to fold into the snapshot at the start: none, unless the snapshot is behind.
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE stream = ? AND version > ?
ORDER BY version;

-- name: entries_after
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE seq > :after
ORDER BY seq
LIMIT :limit;

-- name: stream_entries_after
-- Within a stream, versions are in the order of seq, so the key (stream, version) finds the position from the newest.
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
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal ORDER BY seq DESC LIMIT :limit;

-- name: latest_stream_entries
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE stream = :stream
ORDER BY version DESC
LIMIT :limit;

-- name: entries_of_run_before
-- From the latest entry before this version at which a run starts, ends or completes a sweep.
SELECT seq, stream, version, run_id, recorded_at, type, data, hash
FROM journal
WHERE
    stream = :stream AND version < :version
    AND version >= coalesce(
        (
            SELECT version FROM journal
            WHERE
                stream = :stream AND version < :version
                AND type IN ('run_started', 'run_ended', 'sweep_completed')
            ORDER BY version DESC
            LIMIT 1
        ), 0
    )
ORDER BY version;

-- name: last_change
-- The number of the latest change.
SELECT change_seq FROM last_change;

-- name: history
-- The entry and the deletion that a consumer's mark names, if they are there, and the latest ones.
SELECT
    (SELECT hash FROM journal WHERE seq = :seq),
    (SELECT id FROM deleted_rows WHERE change_seq = :deletion),
    (SELECT seq FROM journal ORDER BY seq DESC LIMIT 1),
    (SELECT hash FROM journal ORDER BY seq DESC LIMIT 1),
    (SELECT change_seq FROM deleted_rows ORDER BY change_seq DESC LIMIT 1),
    (SELECT id FROM deleted_rows ORDER BY change_seq DESC LIMIT 1);

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM journal;

-- name: recorded_at
SELECT recorded_at FROM journal WHERE seq = ?;

-- name: journal
SELECT seq, stream, version, run_id, recorded_at, type, data, hash FROM journal ORDER BY seq;

-- name: removals
-- A stream's latest removal: earlier runs and dead letters of the stream are void.
SELECT stream, max(version) FROM journal WHERE type = 'stream_removed' GROUP BY stream;

-- name: clear_checkpoints
DELETE FROM checkpoints;

-- name: clear_runs
DELETE FROM runs;

-- name: clear_dead_letters
DELETE FROM dead_letters;

-- name: clear_gaps
DELETE FROM message_backlog;

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
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM dead_letters
WHERE dead_letter_id IN (SELECT value FROM json_each(?));

-- name: stored_gaps
SELECT gap_id, stream, conversation_id, queue, owed_since, newest_at, reached_at, stored, attempts, retry_at, state
FROM message_backlog
WHERE gap_id IN (SELECT value FROM json_each(?));

-- name: count_checkpoints
SELECT count(*) FROM checkpoints;

-- name: count_runs
SELECT count(*) FROM runs;

-- name: count_dead_letters
SELECT count(*) FROM dead_letters;

-- name: count_gaps
SELECT count(*) FROM message_backlog;

-- name: answers
SELECT 1 FROM journal LIMIT 1;

-- name: size
SELECT page_count * page_size FROM pragma_page_count, pragma_page_size;

-- name: demand_writable
-- Fails at the start, not at the first commit, if the file is read-only.
UPDATE checkpoints SET version = version WHERE false;

-- name: write_nothing
-- Commits an unchanged page, to find out whether commits are possible.
PRAGMA user_version = 0;

-- name: holds_rows
SELECT
    EXISTS (SELECT 1 FROM conversations LIMIT 1)
    OR EXISTS (SELECT 1 FROM contacts LIMIT 1)
    OR EXISTS (SELECT 1 FROM contact_interaction_events LIMIT 1);

-- name: source
SELECT kind, base_url FROM source WHERE place = 1;

-- name: record_source
INSERT INTO source (place, kind, base_url) VALUES (1, ?, ?) ON CONFLICT (place) DO NOTHING;

-- name: replace_source
INSERT INTO source (place, kind, base_url) VALUES (1, ?, ?)
ON CONFLICT (place) DO UPDATE SET kind = excluded.kind, base_url = excluded.base_url;

-- name: conversations_after
SELECT conversation_id, platform, page_id FROM conversations WHERE conversation_id > ? ORDER BY conversation_id LIMIT ?;

-- name: forget_contacts
-- On each of the linked pages: people keep their ids when the account moves.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT :platform, page.value, 'contact', contact.value
FROM json_each(:pages) AS page
CROSS JOIN json_each(:contacts) AS contact
WHERE true
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: forget_conversations
-- A conversation without a known contact counts as that of anyone who wrote in it: its snippet says what they wrote.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT platform, json_each.value, 'conversation', conversation_id
FROM conversations
CROSS JOIN json_each(:pages)
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND (
        contact_id IN (SELECT value FROM json_each(:contacts))
        OR contact_id IS NULL AND conversation_id IN (
            SELECT conversation_id FROM contact_interaction_events
            WHERE platform = :platform AND contact_id IN (SELECT value FROM json_each(:contacts))
        )
    )
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: erase_contacts
DELETE FROM contacts
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND contact_id IN (SELECT value FROM json_each(:contacts));

-- name: erase_conversations
DELETE FROM conversations
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND conversation_id IN (SELECT id FROM forgotten WHERE platform = :platform AND kind = 'conversation');

-- name: erase_interaction_events
DELETE FROM contact_interaction_events
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND event_id IN (
        SELECT event_id FROM contact_interaction_events WHERE contact_id IN (SELECT value FROM json_each(:contacts))
        UNION ALL
        SELECT event_id
        FROM contact_interaction_events
        WHERE conversation_id IN (SELECT id FROM forgotten WHERE platform = :platform AND kind = 'conversation')
    );

-- name: erase_reactions
-- Reactions to messages of others, as in a group. An erasure has no journal entry, so these rows get the version of
-- their stream's latest entry.
UPDATE contact_interaction_events
SET
    reactions = (
        SELECT nullif(json_group_array(json(value)), '[]')
        FROM json_each(reactions)
        WHERE json_extract(value, '$.from') NOT IN (SELECT gone.value FROM json_each(:contacts) AS gone)
    ),
    version = coalesce(
        (SELECT checkpoints.version FROM checkpoints WHERE stream = platform || ':' || page_id),
        contact_interaction_events.version
    )
WHERE
    platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
    AND reactions IS NOT NULL
    AND EXISTS (SELECT 1 FROM json_each(:contacts) WHERE instr(reactions, '"from":"' || value || '"'));

-- name: erase_webhook_events
-- Runs before the messages are erased: some events name a message only, and no contact.
DELETE FROM webhook_events
WHERE
    stream IN (SELECT :platform || ':' || value FROM json_each(:pages))
    AND (
        contact_id IN (SELECT value FROM json_each(:contacts))
        OR EXISTS (
            SELECT 1
            FROM contact_interaction_events AS said
            WHERE
                said.event_id = message_id
                AND said.platform = :platform AND said.page_id IN (SELECT value FROM json_each(:pages))
                AND (
                    said.contact_id IN (SELECT value FROM json_each(:contacts))
                    OR said.conversation_id IN (
                        SELECT id FROM forgotten WHERE platform = :platform AND kind = 'conversation'
                    )
                )
        )
    );

-- name: erase_notes
DELETE FROM missed_conversations
WHERE
    stream IN (SELECT :platform || ':' || value FROM json_each(:pages))
    AND conversation_id IN (SELECT id FROM forgotten WHERE platform = :platform AND kind = 'conversation');

-- name: erase_payloads
-- Payloads about anybody who was erased on these pages, by the rule of is_about_forgotten.
DELETE FROM dead_letter_payloads
WHERE
    dead_letter_id IN (
        SELECT dead_letter_id
        FROM dead_letters
        JOIN dead_letter_payloads USING (dead_letter_id)
        JOIN forgotten ON stream = platform || ':' || page_id
        WHERE
            platform = :platform AND page_id IN (SELECT value FROM json_each(:pages))
            AND CASE kind
                WHEN 'contact' THEN
                    subject = 'contact ' || id
                    OR payload GLOB
                    '*[^0-9A-Za-z]' || replace(replace(replace(id, '[', '[[]'), '*', '[*]'), '?', '[?]')
                    || '[^0-9A-Za-z]*'
                ELSE subject = id OR instr(subject, id || '/') = 1
            END
    );

-- name: contacts_on_other_pages
-- The other pages that have contacts with these ids, who need not be the same people.
SELECT DISTINCT page_id FROM contacts
WHERE platform = :platform AND contact_id IN (SELECT value FROM json_each(:contacts)) ORDER BY page_id;

-- name: count_stream_rows
SELECT
    (SELECT count(*) FROM contacts WHERE platform = :platform AND page_id = :page_id),
    (SELECT count(*) FROM conversations WHERE platform = :platform AND page_id = :page_id),
    (SELECT count(*) FROM contact_interaction_events WHERE platform = :platform AND page_id = :page_id),
    (SELECT count(*) FROM dead_letters WHERE stream = :stream AND closed_at IS NULL);

-- name: remove_stream_payloads
DELETE FROM dead_letter_payloads
WHERE dead_letter_id IN (SELECT dead_letter_id FROM dead_letters WHERE stream = :stream);

-- name: remove_stream_dead_letters
DELETE FROM dead_letters WHERE stream = :stream;

-- name: remove_stream_runs
DELETE FROM runs WHERE stream = :stream;

-- name: remove_stream_gaps
DELETE FROM message_backlog WHERE stream = :stream;

-- name: remove_stream_notes
DELETE FROM missed_conversations WHERE stream = :stream;

-- name: remove_stream_webhook_events
DELETE FROM webhook_events WHERE stream = :stream;

-- name: remove_stream_page
DELETE FROM pages WHERE platform = :platform AND page_id = :page_id;

-- name: remove_stream_contacts
DELETE FROM contacts WHERE platform = :platform AND page_id = :page_id;

-- name: remove_stream_conversations
DELETE FROM conversations WHERE platform = :platform AND page_id = :page_id;

-- name: remove_stream_interaction_events
DELETE FROM contact_interaction_events WHERE platform = :platform AND page_id = :page_id;
