-- The statements of the PostgreSQL store, by name. Rows go in as one array for each column, those of projections as one
-- JSON array. They come out as SQLite has them, with instants as text. Every transaction begins with `settings`, and
-- relies on no other session state.

-- name: settings
-- Plans must suit tables that grow and were never analysed. So each execution is planned anew: the plan that PostgreSQL
-- keeps for a prepared statement suits the tables as they were at first, often empty, and scans them whole. Bitmap
-- scans are off: without statistics a stream seems to have so few rows that fetching and sorting all of them looks
-- cheaper than following an index in its order up to the limit. JIT is off: a batch of many messages looks costly
-- enough to compile, but takes a few milliseconds. `array_nulls` is on because the arrays contain JSON's null.
-- `transaction_timeout` came with PostgreSQL 17; without a time limit for its statements, a transaction has none either.
--
-- Lookups are planned once, as planning one takes as long as running it. Every key has an index, and sequential scans,
-- which the planner would choose for an empty table, are off: so the same plan suits tables of any size.
SELECT
    set_config('search_path', %(schema)s, true),
    set_config('TimeZone', 'UTC', true),
    set_config('statement_timeout', %(statement_timeout)s, true),
    CASE
        WHEN %(statement_timeout)s = '0' AND current_setting('transaction_timeout', true) <> ''
        THEN set_config('transaction_timeout', '0', true)
    END,
    set_config('lock_timeout', '15s', true),
    set_config('idle_in_transaction_session_timeout', '10s', true),
    set_config('plan_cache_mode', CASE WHEN %(is_lookup)s THEN 'force_generic_plan' ELSE 'force_custom_plan' END, true),
    set_config('enable_seqscan', CASE WHEN %(is_lookup)s THEN 'off' ELSE 'on' END, true),
    set_config('enable_bitmapscan', 'off', true),
    set_config('jit', 'off', true),
    set_config('array_nulls', 'on', true);

-- name: lock_streams
-- Serialises transactions that write to a stream or settle a commit of it.
SELECT pg_advisory_xact_lock_shared(hashtextextended(current_schema() || ' commits', 0))
UNION ALL
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' stream ' || stream, 0))
FROM unnest(%(streams)s::text[]) AS stream;

-- name: moment
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: lock_journal
-- Across all workers, one transaction at a time assigns seqs and commits, so that a reader who has seen a seq never
-- misses a smaller one.
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' journal', 0));

-- name: lock_commits
-- Waits for the commits under way, and blocks new ones.
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' commits', 0));

-- name: lock_webhook_events
-- Waits for events that are being added, and blocks new ones: an erasure must miss no event of the person or message.
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' webhook events', 0));

-- name: insert_entries
INSERT INTO journal (seq, stream, version, run_id, recorded_at, type, data, hash)
SELECT
    (SELECT coalesce(max(seq), 0) FROM journal) + row_number() OVER (ORDER BY ordinal),
    stream, version, run_id, recorded_at, type, data::json, hash
FROM unnest(
    %(stream)s::text[], %(version)s::bigint[], %(run_id)s::text[], %(recorded_at)s::timestamptz[], %(type)s::text[],
    %(data)s::text[], %(hash)s::text[]
) WITH ORDINALITY AS entry (stream, version, run_id, recorded_at, type, data, hash, ordinal)
ORDER BY ordinal
RETURNING seq;

-- name: announce
SELECT pg_notify(%(channel)s, '');

-- name: upsert_page
INSERT INTO pages (platform, page_id, name, username, first_seen_at, last_seen_at)
SELECT platform, page_id, name, username, first_seen_at, last_seen_at
FROM json_to_recordset(%(rows)s::json) AS offered (
    platform text, page_id text, name text, username text, first_seen_at timestamptz, last_seen_at timestamptz
)
ON CONFLICT (platform, page_id) DO UPDATE SET
    name = coalesce(excluded.name, pages.name),
    username = coalesce(excluded.username, pages.username),
    last_seen_at = excluded.last_seen_at;

-- name: upsert_contacts
INSERT INTO contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version
)
SELECT
    platform, page_id, contact_id, name, username, date_trunc('milliseconds', first_seen_at),
    date_trunc('milliseconds', last_interaction_at), date_trunc('milliseconds', updated_at), version
FROM unnest(
    %(platform)s::text[], %(page_id)s::text[], %(contact_id)s::text[], %(name)s::text[], %(username)s::text[],
    %(first_seen_at)s::timestamptz[], %(last_interaction_at)s::timestamptz[], %(updated_at)s::timestamptz[],
    %(versions)s::bigint[]
) AS offered (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version
)
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
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version
)
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    date_trunc('milliseconds', updated_time), date_trunc('milliseconds', first_synced_at),
    date_trunc('milliseconds', synced_at), date_trunc('milliseconds', deleted_at), messages_fingerprint,
    version
FROM unnest(
    %(conversation_id)s::text[], %(platform)s::text[], %(page_id)s::text[], %(contact_id)s::text[], %(link)s::text[],
    %(snippet)s::text[], %(message_count)s::bigint[], %(unread_count)s::bigint[], %(can_reply)s::boolean[],
    %(updated_time)s::timestamptz[], %(first_synced_at)s::timestamptz[], %(synced_at)s::timestamptz[],
    %(deleted_at)s::timestamptz[], %(messages_fingerprint)s::text[], %(versions)s::bigint[]
) AS offered (
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version
)
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
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    content_at, history, version
)
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments::json,
    date_trunc('milliseconds', occurred_at), date_trunc('milliseconds', content_at), history, version
FROM unnest(
    %(event_id)s::text[], %(conversation_id)s::text[], %(platform)s::text[], %(page_id)s::text[],
    %(contact_id)s::text[], %(direction)s::text[], %(kind)s::text[], %(text)s::text[], %(attachments)s::text[],
    %(occurred_at)s::timestamptz[], %(content_at)s::timestamptz[], %(history)s::boolean[], %(versions)s::bigint[]
) AS offered (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    content_at, history, version
)
ON CONFLICT (event_id) DO NOTHING;

-- name: revise_interaction_events
-- No join with the stored rows: for that the planner may well read the whole table.
WITH offered AS MATERIALIZED (
    SELECT *
    FROM unnest(
        %(event_id)s::text[], %(kind)s::text[], %(text)s::text[], %(attachments)s::text[],
        %(edited_at)s::timestamptz[], %(deleted_at)s::timestamptz[], %(reactions)s::text[], %(referral)s::text[],
        %(content_at)s::timestamptz[], %(versions)s::bigint[]
    ) AS revised (
        event_id, kind, text, attachments, edited_at, deleted_at, reactions, referral, content_at, version
    )
)
UPDATE contact_interaction_events AS stored
SET
    (kind, text, attachments, edited_at, deleted_at, reactions, referral, content_at, version) = (
        SELECT
            kind, text, attachments::json, date_trunc('milliseconds', edited_at),
            date_trunc('milliseconds', deleted_at), reactions::json, referral::json,
            date_trunc('milliseconds', content_at), version
        FROM offered
        WHERE offered.event_id = stored.event_id
        LIMIT 1
    )
WHERE event_id = ANY (ARRAY(SELECT event_id FROM offered));

-- name: due_facts
-- Facts whose messages are stored, earliest first. Each says whether a later fact of its kind is known or, for a read
-- receipt, whether there is a later message.
SELECT
    fact.event_key, fact.kind, coalesce(fact.actor, ''), instant_text(fact.occurred_at), fact.detail,
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
    event_id, conversation_id, platform, page_id, message.contact_id, direction, message.kind, text, attachments::text,
    instant_text(message.occurred_at), instant_text(edited_at), instant_text(deleted_at), reactions::text,
    referral::text, instant_text(content_at)
FROM webhook_events AS fact
JOIN contact_interaction_events AS message ON event_id = fact.message_id
WHERE
    fact.stream = %(stream)s AND fact.due_at IS NOT NULL AND fact.kind NOT IN ('message', 'revision')
    AND platform = %(platform)s AND page_id = %(page_id)s
ORDER BY fact.occurred_at, fact.event_key
LIMIT %(limit)s;

-- name: settle_facts
UPDATE webhook_events SET due_at = NULL, detail = NULL WHERE event_key = ANY (%s::text[]);

-- name: payloads_about
-- The payloads in a stream that name one of these messages. Only open dead letters have a payload.
SELECT dead_letter_id, payload
FROM dead_letters
JOIN dead_letter_payloads USING (dead_letter_id)
WHERE
    stream = %(stream)s AND closed_at IS NULL
    AND EXISTS (SELECT 1 FROM unnest(%(event_ids)s::text[]) AS unsent WHERE strpos(payload, unsent) > 0);

-- name: unsent_messages
-- Those that a webhook has reported lately.
SELECT message_id FROM webhook_events WHERE stream = ANY (%s::text[]) AND kind = 'unsend';

-- name: upsert_payload
INSERT INTO dead_letter_payloads (dead_letter_id, payload)
SELECT dead_letter_id, payload
FROM json_to_recordset(%(rows)s::json) AS offered (dead_letter_id text, payload text)
ON CONFLICT (dead_letter_id) DO UPDATE SET payload = excluded.payload;

-- name: upsert_checkpoint
INSERT INTO checkpoints (
    stream, version, hash, mode, phase, cursor, watermark, last_success_at, last_full_sweep_at, open_dead_letters,
    updated_at, state
)
SELECT
    stream, version, hash, mode, phase, cursor, watermark, last_success_at, last_full_sweep_at, open_dead_letters,
    updated_at, state::json
FROM json_to_recordset(%(rows)s::json) AS offered (
    stream text, version bigint, hash text, mode text, phase text, cursor text, watermark timestamptz,
    last_success_at timestamptz, last_full_sweep_at timestamptz, open_dead_letters bigint, updated_at timestamptz,
    state text
)
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
SELECT
    run_id, stream, mode, status, reason, started_at, ended_at, batches, inserted, updated, unchanged, dead_lettered,
    contacts, interaction_events, retries, failed_batches, problem::json
FROM json_to_recordset(%(rows)s::json) AS offered (
    run_id text, stream text, mode text, status text, reason text, started_at timestamptz, ended_at timestamptz,
    batches bigint, inserted bigint, updated bigint, unchanged bigint, dead_lettered bigint, contacts bigint,
    interaction_events bigint, retries bigint, failed_batches bigint, problem text
)
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
SELECT
    dead_letter_id, stream, stage, subject, reason, opened_at, attempts, redrive_at, closed_at, resolution, note,
    fingerprint
FROM json_to_recordset(%(rows)s::json) AS offered (
    dead_letter_id text, stream text, stage text, subject text, reason text, opened_at timestamptz, attempts bigint,
    redrive_at timestamptz, closed_at timestamptz, resolution text, note text, fingerprint text
)
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
SELECT
    gap_id, stream, conversation_id, queue, owed_since, newest_at, reached_at, stored, attempts, retry_at, state::json
FROM json_to_recordset(%(rows)s::json) AS offered (
    gap_id text, stream text, conversation_id text, queue smallint, owed_since timestamptz, newest_at timestamptz,
    reached_at timestamptz, stored bigint, attempts bigint, retry_at timestamptz, state text
)
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
DELETE FROM message_backlog WHERE gap_id = ANY (%s::text[]);

-- name: delete_payload
DELETE FROM dead_letter_payloads WHERE dead_letter_id = ANY (%s::text[]);

-- name: drop_found_notes
DELETE FROM missed_conversations WHERE stream = %s AND conversation_id = ANY (%s::text[]);

-- name: drop_notes_of_other_sweeps
-- A sweep may be abandoned for another one. Dropping its notes leaves only those of the sweep that ends.
DELETE FROM missed_conversations WHERE stream = %s AND sweep_started_at <> %s;

-- name: note_missed
INSERT INTO missed_conversations (stream, conversation_id, sweep_started_at)
SELECT %(stream)s, conversation_id, %(sweep_started_at)s::timestamptz
FROM conversations
WHERE
    platform = %(platform)s AND page_id = %(page_id)s
    AND updated_time > %(newer_than)s AND updated_time < %(older_than)s
    AND deleted_at IS NULL
    AND conversation_id <> ALL (%(seen)s::text[])
ON CONFLICT (stream, conversation_id) DO NOTHING;

-- name: mark_missed_as_deleted
-- Without conversations that have moved to another page since. The stream is compared as one text, or the planner might
-- read all rows of the page.
UPDATE conversations SET deleted_at = %(at)s, version = %(version)s
WHERE
    conversation_id = ANY (ARRAY(SELECT conversation_id FROM missed_conversations WHERE stream = %(stream)s))
    AND platform || ':' || page_id = %(stream)s
    AND deleted_at IS NULL;

-- name: drop_notes
DELETE FROM missed_conversations WHERE stream = %s;

-- name: turn_own_messages
-- Messages from an id that turned out to be our own: they become sent messages to the other person of the conversation.
UPDATE contact_interaction_events AS said
SET
    direction = 'out',
    contact_id = coalesce(
        (
            SELECT nullif(conversations.contact_id, %(own_id)s) FROM conversations
            WHERE conversations.conversation_id = said.conversation_id
        ),
        (
            -- OFFSET 0, or the planner would look for the smallest id along an index of all contacts.
            SELECT min(contact_id)
            FROM (
                SELECT contact_id FROM contact_interaction_events AS other
                WHERE other.conversation_id = said.conversation_id AND other.contact_id <> %(own_id)s
                OFFSET 0
            ) AS others
        )
    ),
    version = %(version)s
WHERE platform = %(platform)s AND page_id = %(page_id)s AND contact_id = %(own_id)s;

-- name: name_messages
-- Messages that were stored before the person of their conversation was known.
UPDATE contact_interaction_events AS said
SET
    contact_id = (
        SELECT conversations.contact_id FROM conversations
        WHERE conversations.conversation_id = said.conversation_id
    ),
    version = %(version)s
WHERE said.conversation_id = ANY (%(named)s::text[]) AND said.contact_id IS NULL;

-- name: clear_own_contact
UPDATE conversations SET contact_id = NULL, version = %(version)s
WHERE platform = %(platform)s AND page_id = %(page_id)s AND contact_id = %(own_id)s;

-- name: drop_own_contact
DELETE FROM contacts WHERE platform = %(platform)s AND page_id = %(page_id)s AND contact_id = %(own_id)s;

-- name: record_moves
-- Which page took over rows of which other page: the latest move for each pair.
INSERT INTO page_moves (platform, previous_page_id, page_id, moved_at)
SELECT platform, page_id, %(page_id)s, %(at)s::timestamptz
FROM (
    SELECT platform, page_id FROM conversations
    WHERE conversation_id = ANY (%(moved)s::text[]) AND page_id <> %(page_id)s
    UNION
    SELECT platform, page_id
    FROM unnest(%(moved)s::text[]) AS wanted
    CROSS JOIN LATERAL (
        SELECT platform, page_id FROM contact_interaction_events
        WHERE conversation_id = wanted AND page_id <> %(page_id)s
        OFFSET 0
    ) AS said
) AS stood
ON CONFLICT (platform, previous_page_id, page_id) DO UPDATE SET moved_at = excluded.moved_at;

-- name: drop_reverse_moves
DELETE FROM page_moves
WHERE
    platform = %(platform)s AND previous_page_id = %(page_id)s
    AND page_id IN (
        SELECT page_id FROM conversations WHERE conversation_id = ANY (%(moved)s::text[])
        UNION
        SELECT said.page_id
        FROM unnest(%(moved)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT page_id FROM contact_interaction_events WHERE conversation_id = wanted OFFSET 0
        ) AS said
    );

-- name: move_forgotten
-- People who were erased on the previous page are kept out of this one, too.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT DISTINCT platform, %(page_id)s, kind, id
FROM forgotten
WHERE
    platform = %(platform)s
    AND page_id = ANY (
        ARRAY(SELECT previous_page_id FROM page_moves WHERE platform = %(platform)s AND page_id = %(page_id)s)
    )
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: count_links
SELECT count(*) FROM page_moves WHERE platform = %(platform)s;

-- name: forgotten_contacts
-- The people who were erased on any of these pages.
SELECT DISTINCT id FROM forgotten
WHERE platform = %(platform)s AND kind = 'contact' AND page_id = ANY (%(pages)s::text[]);

-- name: move_contacts
INSERT INTO contacts (
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version
)
SELECT DISTINCT ON (contact_id)
    platform, %(page_id)s, contact_id, name, username, first_seen_at, last_interaction_at, updated_at,
    %(version)s::bigint
FROM (
    SELECT page_id, contact_id
    FROM conversations
    WHERE conversation_id = ANY (%(moved)s::text[]) AND page_id <> %(page_id)s AND contact_id IS NOT NULL
    UNION
    SELECT said.page_id, said.contact_id
    FROM unnest(%(moved)s::text[]) AS wanted
    CROSS JOIN LATERAL (
        SELECT page_id, contact_id FROM contact_interaction_events
        WHERE conversation_id = wanted AND page_id <> %(page_id)s AND contact_id IS NOT NULL
        OFFSET 0
    ) AS said
) AS moving
CROSS JOIN LATERAL (
    SELECT platform, name, username, first_seen_at, last_interaction_at, updated_at
    FROM contacts
    WHERE platform = %(platform)s AND page_id = moving.page_id AND contact_id = moving.contact_id
    OFFSET 0
) AS stored
ORDER BY contact_id
ON CONFLICT (platform, page_id, contact_id) DO NOTHING;

-- name: drop_moved_contacts
-- Contacts whose last conversation on their page is among the moved ones. OFFSET 0 makes the planner look up each by
-- its key: without statistics, it might read all rows of the page instead.
DELETE FROM contacts
WHERE
    ctid = ANY (
        ARRAY(
            SELECT leaving.ctid
            FROM (
                SELECT page_id, contact_id
                FROM conversations
                WHERE conversation_id = ANY (%(moved)s::text[]) AND page_id <> %(page_id)s
                UNION
                SELECT said.page_id, said.contact_id
                FROM unnest(%(moved)s::text[]) AS wanted
                CROSS JOIN LATERAL (
                    SELECT page_id, contact_id FROM contact_interaction_events
                    WHERE conversation_id = wanted AND page_id <> %(page_id)s
                    OFFSET 0
                ) AS said
            ) AS moving
            CROSS JOIN LATERAL (
                SELECT ctid FROM contacts
                WHERE platform = %(platform)s AND page_id = moving.page_id AND contact_id = moving.contact_id
                OFFSET 0
                FOR UPDATE
            ) AS leaving
            WHERE
                NOT EXISTS (
                    SELECT 1
                    FROM (
                        SELECT platform, page_id, conversation_id FROM conversations
                        WHERE contact_id = moving.contact_id
                        OFFSET 0
                    ) AS others
                    WHERE
                        others.platform = %(platform)s
                        AND others.page_id = moving.page_id
                        AND others.conversation_id <> ALL (%(moved)s::text[])
                )
        )
    );

-- name: move_interaction_events
UPDATE contact_interaction_events SET page_id = %(page_id)s, version = %(version)s
WHERE
    event_id = ANY (
        ARRAY(
            SELECT said.event_id
            FROM unnest(%(moved)s::text[]) AS wanted
            CROSS JOIN LATERAL (
                SELECT event_id
                FROM contact_interaction_events
                WHERE conversation_id = wanted AND page_id <> %(page_id)s
                OFFSET 0
            ) AS said
        )
    );

-- name: move_conversations
UPDATE conversations SET page_id = %(page_id)s, version = %(version)s
WHERE conversation_id = ANY (%(moved)s::text[]) AND page_id <> %(page_id)s;

-- name: drop_notes_of_moved
DELETE FROM missed_conversations
WHERE
    ctid = ANY (
        ARRAY(
            SELECT noted.place
            FROM page_moves
            CROSS JOIN unnest(%(moved)s::text[]) AS wanted
            CROSS JOIN LATERAL (
                SELECT ctid AS place
                FROM missed_conversations
                WHERE
                    stream = page_moves.platform || ':' || page_moves.previous_page_id
                    AND conversation_id = wanted
                OFFSET 0
            ) AS noted
            WHERE page_moves.platform = %(platform)s AND page_moves.page_id = %(page_id)s
        )
    );

-- name: owed_elsewhere
-- The gaps that other pages have in these conversations.
SELECT state::text FROM message_backlog
WHERE
    stream = ANY (ARRAY(SELECT %(platform)s || ':' || of_page FROM unnest(%(pages)s::text[]) AS of_page))
    AND conversation_id = ANY (%(conversations)s::text[]);

-- name: contact_pages
-- The pages of these contacts' conversations: this page, and those that its rows have moved to in any number of steps.
WITH RECURSIVE later (page_id) AS (
    SELECT %(page_id)s::text COLLATE "C"
    UNION
    SELECT move.page_id
    FROM later
    JOIN page_moves AS move ON move.platform = %(platform)s AND move.previous_page_id = later.page_id
)
SELECT contact_id, page_id
FROM unnest(%(contacts)s::text[]) AS wanted
CROSS JOIN LATERAL (
    SELECT platform, page_id, contact_id FROM conversations WHERE contact_id = wanted OFFSET 0
) AS stored
WHERE platform = %(platform)s AND page_id = ANY (ARRAY(SELECT page_id FROM later));

-- name: checkpoints_elsewhere
SELECT state::text FROM checkpoints
WHERE stream = ANY (ARRAY(SELECT %(platform)s || ':' || of_page FROM unnest(%(pages)s::text[]) AS of_page));

-- name: moved_to
-- The pages that took over rows of this page, and when each was last known to be active.
SELECT move.page_id, instant_text(greatest(move.moved_at, checkpoints.last_success_at))
FROM page_moves AS move
LEFT JOIN checkpoints ON checkpoints.stream = move.platform || ':' || move.page_id
WHERE move.platform = %(platform)s AND move.previous_page_id = %(page_id)s;

-- name: contacts_elsewhere
SELECT
    platform, page_id, contact_id, name, username, instant_text(first_seen_at), instant_text(last_interaction_at),
    instant_text(updated_at)
FROM unnest(%(pages)s::text[]) AS of_page
CROSS JOIN unnest(%(contacts)s::text[]) AS wanted
CROSS JOIN LATERAL (
    SELECT * FROM contacts WHERE platform = %(platform)s AND page_id = of_page AND contact_id = wanted OFFSET 0
) AS stored;

-- name: linked_pages
-- The page, and all pages that rows have moved from or to in any number of steps.
WITH RECURSIVE linked (page_id) AS (
    SELECT %(page_id)s::text COLLATE "C"
    UNION
    SELECT CASE WHEN move.page_id = linked.page_id THEN move.previous_page_id ELSE move.page_id END
    FROM linked
    JOIN page_moves AS move
        ON move.platform = %(platform)s AND linked.page_id IN (move.previous_page_id, move.page_id)
)
SELECT page_id FROM linked;

-- name: known
-- Everything that a batch asks for, as one value. OFFSET 0 makes the planner look up one key at a time: as long as the
-- tables were never analysed, it would join the other way round and scan all rows of a page. Dead letters and erased
-- people are looked up only if there are any; ORDER BY names the order of an index, so that the index finds the first.
WITH known_conversations AS MATERIALIZED (
    SELECT stored.*
    FROM unnest(%(conversations)s::text[]) AS wanted
    CROSS JOIN LATERAL (SELECT * FROM conversations WHERE conversation_id = wanted OFFSET 0) AS stored
),
wanted_events AS (
    SELECT unnest(%(interaction_events)s::text[]) AS event_id
    UNION ALL
    SELECT unnest(string_to_array(reading.event_ids, E'\n'))  -- those of conversations that came with others before
    FROM unnest(
        %(threads)s::text[], %(fingerprints)s::text[], %(updated_times)s::timestamptz[], %(event_ids)s::text[]
    ) AS reading (conversation_id, fingerprint, updated_time, event_ids)
    WHERE NOT EXISTS (
        SELECT 1
        FROM known_conversations AS before
        WHERE
            before.conversation_id = reading.conversation_id
            AND before.messages_fingerprint = reading.fingerprint AND before.updated_time = reading.updated_time
    )
)
SELECT json_build_object(
    'conversations', (
        SELECT coalesce(json_agg(row_to_json(known_conversations)), '[]'::json) FROM known_conversations
    ),
    'contacts', (
        SELECT coalesce(json_agg(row_to_json(stored)), '[]'::json)
        FROM unnest(%(contacts)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT *
            FROM contacts
            WHERE platform = %(platform)s AND page_id = %(page_id)s AND contact_id = wanted
            OFFSET 0
        ) AS stored
    ),
    'interaction_events', (
        SELECT coalesce(json_agg(wanted_events.event_id), '[]'::json)
        FROM wanted_events
        CROSS JOIN LATERAL (
            SELECT 1 FROM contact_interaction_events WHERE event_id = wanted_events.event_id OFFSET 0
        ) AS stored
    ),
    'left_behind', (
        SELECT coalesce(json_agg(json_build_array(wanted, stored.page_id)), '[]'::json)
        FROM unnest(%(conversations)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT page_id
            FROM contact_interaction_events
            WHERE conversation_id = wanted AND platform = %(platform)s AND page_id <> %(page_id)s
            LIMIT 1
        ) AS stored
        WHERE wanted NOT IN (SELECT conversation_id FROM known_conversations)
    ),
    'dead_letters', (
        SELECT coalesce(
            json_agg(
                json_build_array(subject, dead_letter_id, fingerprint, opened_at, closed_at IS NULL, payload)
                ORDER BY opened_at, dead_letter_id
            ), '[]'::json
        )
        FROM unnest(%(subjects)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT *, (
                SELECT payload FROM dead_letter_payloads AS held
                WHERE held.dead_letter_id = dead_letters.dead_letter_id AND stage = 'store'
            ) AS payload
            FROM dead_letters
            WHERE stream = %(stream)s AND subject = wanted AND (closed_at IS NULL OR resolution = 'discarded')
            OFFSET 0
        ) AS stored
        WHERE (
            SELECT true FROM dead_letters
            WHERE stream = %(stream)s AND (closed_at IS NULL OR resolution = 'discarded')
            ORDER BY subject
            LIMIT 1
        )
    ),
    'forgotten', (
        SELECT coalesce(json_agg(stored.id), '[]'::json)
        FROM (
            SELECT 'conversation' AS kind, unnest(%(conversations)s::text[]) AS id
            UNION ALL
            SELECT 'contact', unnest(%(contacts)s::text[])
        ) AS wanted
        CROSS JOIN LATERAL (
            SELECT id
            FROM forgotten
            WHERE
                platform = %(platform)s AND kind = wanted.kind AND id = wanted.id
                AND (kind = 'conversation' OR page_id = %(page_id)s)
            LIMIT 1
        ) AS stored
        WHERE (SELECT true FROM forgotten WHERE platform = %(platform)s ORDER BY kind, id LIMIT 1)
    )
)::text;

-- name: known_messages
-- The stored messages of some conversations, each within its own time span. One conversation at a time, as in `known`.
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments::text,
    instant_text(occurred_at), instant_text(edited_at), instant_text(deleted_at), reactions::text, referral::text,
    instant_text(content_at)
FROM
    unnest(%(conversations)s::text[], %(oldest)s::timestamptz[], %(newest)s::timestamptz[])
    AS wanted (of_conversation, oldest_at, newest_at)
CROSS JOIN LATERAL (
    SELECT *
    FROM contact_interaction_events
    WHERE conversation_id = of_conversation AND occurred_at BETWEEN oldest_at AND newest_at
    OFFSET 0
) AS stored;

-- name: known_of_sweep
-- For a full sweep: how many conversations of this stretch it misses that are not noted yet, which of the batch are
-- noted, and how many of the stream are noted.
SELECT
    CASE WHEN %(has_stretch)s THEN (
        SELECT count(*)
        FROM conversations
        WHERE
            platform = %(platform)s AND page_id = %(page_id)s
            AND updated_time > %(newer_than)s AND updated_time < %(older_than)s
            AND deleted_at IS NULL
            AND conversation_id <> ALL (%(seen)s::text[])
            AND NOT EXISTS (
                SELECT 1 FROM missed_conversations AS note
                WHERE
                    note.stream = %(stream)s AND note.conversation_id = conversations.conversation_id
                    AND note.sweep_started_at = %(sweep_started_at)s
            )
    ) ELSE 0 END,
    ARRAY(
        SELECT wanted
        FROM unnest(%(conversations)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT 1
            FROM missed_conversations
            WHERE stream = %(stream)s AND conversation_id = wanted AND sweep_started_at = %(sweep_started_at)s
            OFFSET 0
        ) AS stored
    ),
    (
        SELECT count(*) FROM missed_conversations
        WHERE stream = %(stream)s AND sweep_started_at = %(sweep_started_at)s
    );

-- name: count_stored
SELECT count(*)
FROM conversations
WHERE platform = %(platform)s AND page_id = %(page_id)s AND deleted_at IS NULL;

-- name: count_messages
SELECT count(*), count(*) FILTER (WHERE occurred_at <= %(back_to)s)
FROM contact_interaction_events
WHERE
    conversation_id = %(conversation_id)s AND occurred_at <= %(newest_at)s
    AND (deleted_at IS NULL OR deleted_at > %(as_of)s);

-- name: forgotten_among
-- A conversation keeps its id on any page.
SELECT stored.id
FROM (
    SELECT 'conversation' AS kind, unnest(%(conversations)s::text[]) AS id
    UNION ALL
    SELECT 'contact', unnest(%(contacts)s::text[])
) AS wanted
CROSS JOIN LATERAL (
    SELECT id
    FROM forgotten
    WHERE
        platform = %(platform)s AND kind = wanted.kind AND id = wanted.id
        AND (kind = 'conversation' OR page_id = %(page_id)s)
    LIMIT 1
) AS stored;

-- name: before_commit
-- Whether anybody was erased, and the states of the conversations that a group of commits writes.
SELECT
    EXISTS (SELECT 1 FROM forgotten),
    (
        SELECT coalesce(
            json_agg(json_build_array(conversation_id, page_id, instant_text(synced_at))), '[]'::json
        )
        FROM unnest(%(conversations)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT conversation_id, page_id, synced_at FROM conversations WHERE conversation_id = wanted OFFSET 0
        ) AS stored
    )::text;

-- name: is_about_forgotten
-- Matches the subject, or a contact's id anywhere in the payload that is not part of a longer id.
SELECT EXISTS (
    SELECT 1
    FROM forgotten
    WHERE
        platform = %(platform)s
        AND CASE kind
            WHEN 'contact' THEN
                page_id = %(page_id)s
                AND (
                    %(subject)s::text = 'contact ' || id
                    OR %(payload)s::text ~ (
                        '[^0-9A-Za-z]' || regexp_replace(id, '([]$()*+.?[^{|}\\-])', '\\\1', 'g') || '[^0-9A-Za-z]'
                    )
                )
            ELSE %(subject)s::text = id OR starts_with(%(subject)s::text, id || '/')
        END
);

-- name: dead_letter
SELECT
    dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
    instant_text(closed_at), resolution, note, fingerprint
FROM dead_letters
WHERE dead_letter_id = %s;

-- name: due_dead_letters
-- A dead letter that is due after `latest` was postponed by a clock that was ahead, so it is due now.
SELECT
    dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
    instant_text(closed_at), resolution, note, fingerprint, payload
FROM dead_letters
LEFT JOIN dead_letter_payloads USING (dead_letter_id)
WHERE
    stream = %(stream)s AND closed_at IS NULL
    AND (redrive_at <= %(now)s OR redrive_at > %(latest)s OR payload IS NULL)
ORDER BY dead_letters.opened_at, dead_letter_id
LIMIT %(limit)s;

-- name: open_gaps
-- Gaps between two sweeps precede histories; newest first. Each says whether its person was erased, and whether its
-- conversation has moved to another page.
SELECT
    state::text,
    EXISTS (
        SELECT 1 FROM forgotten
        WHERE platform = %(platform)s AND page_id = %(page_id)s AND kind = 'conversation' AND id = conversation_id
    ),
    EXISTS (
        SELECT 1 FROM conversations
        WHERE conversations.conversation_id = message_backlog.conversation_id AND page_id <> %(page_id)s
    )
FROM message_backlog
WHERE stream = %(stream)s AND queue < 2
ORDER BY queue, newest_at DESC, gap_id DESC
LIMIT %(limit)s;

-- name: gaps_at_limit
-- Histories that stopped at a limit and do not reach back to an earlier limit.
SELECT state::text
FROM message_backlog
WHERE stream = %(stream)s AND queue = 2 AND reached_at > %(newer_than)s
ORDER BY reached_at DESC
LIMIT %(limit)s;

-- name: search_until
-- The last time in a step through the conversations of a stream: all conversations of one time are in the same step.
SELECT instant_text(updated_time)
FROM conversations
WHERE platform = %(platform)s AND page_id = %(page_id)s AND updated_time > %(newer_than)s
ORDER BY updated_time
LIMIT 1 OFFSET %(offset)s;

-- name: search_threads
-- The conversations of a step that have stored messages but no recorded history, with the number of their messages. One
-- conversation at a time, as in `known`. Messages after the second of `updated_time` are not in `message_count`: the
-- store has refused the row of a later state.
SELECT
    conversation_id, instant_text(first_synced_at), message_count, messages, instant_text(oldest_at),
    instant_text(newest_at)
FROM conversations
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE message.deleted_at IS NULL AND date_trunc('second', occurred_at) <= updated_time)
        AS messages,
        min(occurred_at) AS oldest_at,
        max(occurred_at) FILTER (WHERE date_trunc('second', occurred_at) <= updated_time) AS newest_at
    FROM contact_interaction_events AS message
    WHERE message.conversation_id = conversations.conversation_id
) AS stored
CROSS JOIN LATERAL (
    SELECT count(*) AS gaps FROM message_backlog
    WHERE message_backlog.conversation_id = conversations.conversation_id AND stream = %(stream)s AND queue > 0
) AS owed
WHERE
    platform = %(platform)s AND page_id = %(page_id)s AND updated_time > %(newer_than)s AND updated_time <= %(until)s
    AND deleted_at IS NULL
    AND gaps = 0
    AND oldest_at IS NOT NULL;

-- name: dead_letters_with_payloads
SELECT
    dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
    instant_text(closed_at), resolution, note, fingerprint, payload
FROM dead_letters
LEFT JOIN dead_letter_payloads USING (dead_letter_id)
WHERE dead_letter_id = ANY (%s::text[]);

-- name: threads
SELECT conversation_id, coalesce(name, username), link
FROM conversations
LEFT JOIN contacts USING (platform, page_id, contact_id)
WHERE conversation_id = ANY (%s::text[]);

-- name: dead_letters_after
-- Oldest first. The position may be any dead letter; if it was removed with its stream, the list starts over.
(
    SELECT
        dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
        instant_text(closed_at), resolution, note, fingerprint, opened_at AS age
    FROM dead_letters
    WHERE
        %(open)s AND closed_at IS NULL
        AND (opened_at, dead_letter_id) > (
            coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = %(after)s), '-infinity'), %(after)s
        )
    ORDER BY opened_at, dead_letter_id
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
        instant_text(closed_at), resolution, note, fingerprint, opened_at AS age
    FROM dead_letters
    WHERE
        %(closed)s AND closed_at IS NOT NULL
        AND (opened_at, dead_letter_id) > (
            coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = %(after)s), '-infinity'), %(after)s
        )
    ORDER BY opened_at, dead_letter_id
    LIMIT %(limit)s
)
ORDER BY age, dead_letter_id
LIMIT %(limit)s;

-- name: stream_dead_letters_after
(
    SELECT
        dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
        instant_text(closed_at), resolution, note, fingerprint, opened_at AS age
    FROM dead_letters
    WHERE
        %(open)s AND stream = %(stream)s AND closed_at IS NULL
        AND (opened_at, dead_letter_id) > (
            coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = %(after)s), '-infinity'), %(after)s
        )
    ORDER BY opened_at, dead_letter_id
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT
        dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
        instant_text(closed_at), resolution, note, fingerprint, opened_at AS age
    FROM dead_letters
    WHERE
        %(closed)s AND stream = %(stream)s AND closed_at IS NOT NULL
        AND (opened_at, dead_letter_id) > (
            coalesce((SELECT opened_at FROM dead_letters WHERE dead_letter_id = %(after)s), '-infinity'), %(after)s
        )
    ORDER BY opened_at, dead_letter_id
    LIMIT %(limit)s
)
ORDER BY age, dead_letter_id
LIMIT %(limit)s;

-- name: runs_before
-- Newest first: run ids sort by start time.
SELECT
    run_id, stream, mode, status, reason, instant_text(started_at), instant_text(ended_at), batches, inserted, updated,
    unchanged, dead_lettered, contacts, interaction_events, retries, failed_batches, problem::text
FROM runs
WHERE run_id < %(before)s
ORDER BY run_id DESC
LIMIT %(limit)s;

-- name: stream_runs_before
SELECT
    run_id, stream, mode, status, reason, instant_text(started_at), instant_text(ended_at), batches, inserted, updated,
    unchanged, dead_lettered, contacts, interaction_events, retries, failed_batches, problem::text
FROM runs
WHERE stream = %(stream)s AND run_id < %(before)s
ORDER BY run_id DESC
LIMIT %(limit)s;

-- name: checkpoint
SELECT state::text FROM checkpoints WHERE stream = %s;

-- name: checkpoints
SELECT state::text FROM checkpoints ORDER BY stream;

-- name: page_names
-- Rows with a `name` come last and win: a page may have a name on one platform only.
SELECT page_id, coalesce(name, username)
FROM pages
WHERE coalesce(name, username) IS NOT NULL
ORDER BY name IS NOT NULL, page_id;

-- name: entry_at
SELECT seq, hash FROM journal WHERE stream = %s AND version = %s;

-- name: entries_since
-- The entries to fold into the snapshot at the start: none, unless the snapshot is behind.
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE stream = %s AND version > %s
ORDER BY version;

-- name: entries_after
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE seq > %(after)s
ORDER BY seq
LIMIT %(limit)s;

-- name: stream_entries_after
-- Within a stream, versions are in the order of seq, so the key (stream, version) finds the position from the newest.
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE
    stream = %(stream)s
    AND version > coalesce(
        (
            SELECT version FROM journal
            WHERE stream = %(stream)s AND seq <= %(after)s
            ORDER BY version DESC
            LIMIT 1
        ), 0
    )
ORDER BY version
LIMIT %(limit)s;

-- name: latest_entries
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
ORDER BY seq DESC
LIMIT %(limit)s;

-- name: latest_stream_entries
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE stream = %(stream)s
ORDER BY version DESC
LIMIT %(limit)s;

-- name: entries_of_run_before
-- From the latest entry before this version at which a run starts, ends or completes a sweep.
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash
FROM journal
WHERE
    stream = %(stream)s AND version < %(version)s
    AND version >= coalesce(
        (
            SELECT version FROM journal
            WHERE
                stream = %(stream)s AND version < %(version)s
                AND type IN ('run_started', 'run_ended', 'sweep_completed')
            ORDER BY version DESC
            LIMIT 1
        ), 0
    )
ORDER BY version;

-- name: last_change
-- The number of the latest committed change.
SELECT greatest(
    (SELECT max(change_seq) FROM contacts),
    (SELECT max(change_seq) FROM conversations),
    (SELECT max(change_seq) FROM contact_interaction_events),
    (SELECT max(change_seq) FROM deleted_rows),
    0
);

-- name: history
-- The entry and the deletion that a consumer's mark names, if they are there, and the latest ones.
SELECT
    (SELECT hash FROM journal WHERE seq = %(seq)s),
    (SELECT id FROM deleted_rows WHERE change_seq = %(deletion)s),
    (SELECT seq FROM journal ORDER BY seq DESC LIMIT 1),
    (SELECT hash FROM journal ORDER BY seq DESC LIMIT 1),
    (SELECT change_seq FROM deleted_rows ORDER BY change_seq DESC LIMIT 1),
    (SELECT id FROM deleted_rows ORDER BY change_seq DESC LIMIT 1);

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM journal;

-- name: recorded_at
SELECT instant_text(recorded_at) FROM journal WHERE seq = %s;

-- name: journal
SELECT seq, stream, version, run_id, instant_text(recorded_at), type, data::text, hash FROM journal ORDER BY seq;

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
    stream, version, hash, mode, phase, cursor, instant_text(watermark), instant_text(last_success_at),
    instant_text(last_full_sweep_at), open_dead_letters, instant_text(updated_at), state::text
FROM checkpoints
WHERE stream = ANY (%s::text[]);

-- name: stored_runs
SELECT
    run_id, stream, mode, status, reason, instant_text(started_at), instant_text(ended_at), batches, inserted, updated,
    unchanged, dead_lettered, contacts, interaction_events, retries, failed_batches, problem::text
FROM runs
WHERE run_id = ANY (%s::text[]);

-- name: stored_dead_letters
SELECT
    dead_letter_id, stream, stage, subject, reason, instant_text(opened_at), attempts, instant_text(redrive_at),
    instant_text(closed_at), resolution, note, fingerprint
FROM dead_letters
WHERE dead_letter_id = ANY (%s::text[]);

-- name: stored_gaps
SELECT
    gap_id, stream, conversation_id, queue, instant_text(owed_since), instant_text(newest_at),
    instant_text(reached_at), stored, attempts, instant_text(retry_at), state::text
FROM message_backlog
WHERE gap_id = ANY (%s::text[]);

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

-- name: unfinished_copy
SELECT source, instant_text(since) FROM unfinished_copy;

-- name: size
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'm');

-- name: demand_writable
-- Fails at the start, not at the first commit, if this role may not write.
UPDATE checkpoints SET version = version WHERE false;

-- name: write_nothing
-- Commits a record that nobody reads, to find out whether commits are possible. It changes no row.
SELECT pg_logical_emit_message(true, 'milepost', '');

-- name: source
SELECT kind, base_url FROM source WHERE place = 1;

-- name: record_source
-- If several workers start at the same time, the first records its source; the others wait for its commit, and keep it.
INSERT INTO source (place, kind, base_url) VALUES (1, %s, %s) ON CONFLICT (place) DO NOTHING;

-- name: replace_source
INSERT INTO source (place, kind, base_url) VALUES (1, %s, %s)
ON CONFLICT (place) DO UPDATE SET kind = excluded.kind, base_url = excluded.base_url;

-- name: conversations_after
SELECT conversation_id, platform, page_id FROM conversations
WHERE conversation_id > %s ORDER BY conversation_id LIMIT %s;

-- name: forget_contacts
-- On each of the linked pages: people keep their ids when the account moves.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT %(platform)s, page_id, 'contact', contact_id
FROM unnest(%(pages)s::text[]) AS page_id
CROSS JOIN unnest(%(contacts)s::text[]) AS contact_id
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: forget_conversations
-- A conversation without a known contact counts as that of anyone who wrote in it: its snippet says what they wrote.
INSERT INTO forgotten (platform, page_id, kind, id)
SELECT platform, linked, 'conversation', conversation_id
FROM conversations
CROSS JOIN unnest(%(pages)s::text[]) AS linked
WHERE
    platform = %(platform)s AND page_id = ANY (%(pages)s::text[])
    AND (contact_id IS NULL OR contact_id = ANY (%(contacts)s::text[]))
    AND conversation_id = ANY (
        ARRAY(
            SELECT conversation_id FROM conversations WHERE contact_id = ANY (%(contacts)s::text[])
            UNION
            SELECT conversation_id FROM contact_interaction_events
            WHERE contact_id = ANY (%(contacts)s::text[]) AND platform = %(platform)s
        )
    )
ON CONFLICT (platform, page_id, kind, id) DO NOTHING;

-- name: erase_contacts
-- Each contact is looked for by its key, as in `known`. Other commits are kept out, so that rows stay in their places.
DELETE FROM contacts
WHERE
    ctid = ANY (
        ARRAY(
            SELECT stored.place
            FROM unnest(%(pages)s::text[]) AS page
            CROSS JOIN unnest(%(contacts)s::text[]) AS contact
            CROSS JOIN LATERAL (
                SELECT ctid AS place FROM contacts
                WHERE platform = %(platform)s AND page_id = page AND contact_id = contact
                OFFSET 0
            ) AS stored
        )
    );

-- name: erase_conversations
DELETE FROM conversations
WHERE
    platform = %(platform)s AND page_id = ANY (%(pages)s::text[])
    AND conversation_id = ANY (
        ARRAY(SELECT id FROM forgotten WHERE platform = %(platform)s AND kind = 'conversation')
    );

-- name: erase_interaction_events
DELETE FROM contact_interaction_events
WHERE
    platform = %(platform)s AND page_id = ANY (%(pages)s::text[])
    AND event_id = ANY (
        ARRAY(
            SELECT event_id FROM contact_interaction_events WHERE contact_id = ANY (%(contacts)s::text[])
            UNION
            SELECT said.event_id
            FROM forgotten
            CROSS JOIN LATERAL (
                SELECT event_id FROM contact_interaction_events WHERE conversation_id = forgotten.id OFFSET 0
            ) AS said
            WHERE platform = %(platform)s AND kind = 'conversation'
        )
    );

-- name: erase_reactions
-- Reactions to messages of others, as in a group. An erasure has no journal entry, so these rows get the version of
-- their stream's latest entry.
UPDATE contact_interaction_events
SET
    reactions = (
        SELECT json_agg(each ORDER BY place)
        FROM json_array_elements(reactions) WITH ORDINALITY AS element (each, place)
        WHERE each ->> 'from' <> ALL (%(contacts)s::text[])
    ),
    version = coalesce(
        (SELECT checkpoints.version FROM checkpoints WHERE stream = platform || ':' || page_id),
        contact_interaction_events.version
    )
WHERE
    platform = %(platform)s AND page_id = ANY (%(pages)s::text[])
    AND reactions IS NOT NULL
    AND EXISTS (
        SELECT 1 FROM unnest(%(contacts)s::text[]) AS gone WHERE strpos(reactions::text, '"from":"' || gone || '"') > 0
    );

-- name: erase_webhook_events
-- Runs before the messages are erased: some events name a message only, and no contact.
DELETE FROM webhook_events
WHERE
    stream = ANY (ARRAY(SELECT %(platform)s || ':' || page_id FROM unnest(%(pages)s::text[]) AS page_id))
    AND (
        contact_id = ANY (%(contacts)s::text[])
        OR EXISTS (
            SELECT 1
            FROM contact_interaction_events AS said
            WHERE
                said.event_id = message_id AND said.platform = %(platform)s AND said.page_id = ANY (%(pages)s::text[])
                AND (
                    said.contact_id = ANY (%(contacts)s::text[])
                    OR said.conversation_id IN (
                        SELECT id FROM forgotten WHERE platform = %(platform)s AND kind = 'conversation'
                    )
                )
            OFFSET 0
        )
    );

-- name: erase_notes
DELETE FROM missed_conversations
WHERE
    stream = ANY (ARRAY(SELECT %(platform)s || ':' || page_id FROM unnest(%(pages)s::text[]) AS page_id))
    AND conversation_id IN (SELECT id FROM forgotten WHERE platform = %(platform)s AND kind = 'conversation');

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
            platform = %(platform)s AND page_id = ANY (%(pages)s::text[])
            AND CASE kind
                WHEN 'contact' THEN
                    subject = 'contact ' || id
                    OR payload ~ (
                        '[^0-9A-Za-z]' || regexp_replace(id, '([]$()*+.?[^{|}\\-])', '\\\1', 'g') || '[^0-9A-Za-z]'
                    )
                ELSE subject = id OR starts_with(subject, id || '/')
            END
    );

-- name: contacts_on_other_pages
-- The other pages that have contacts with these ids, who need not be the same people.
SELECT DISTINCT page_id FROM contacts
WHERE platform = %(platform)s AND contact_id = ANY (%(contacts)s::text[]) ORDER BY page_id;

-- name: count_stream_rows
SELECT
    (SELECT count(*) FROM contacts WHERE platform = %(platform)s AND page_id = %(page_id)s),
    (SELECT count(*) FROM conversations WHERE platform = %(platform)s AND page_id = %(page_id)s),
    (SELECT count(*) FROM contact_interaction_events WHERE platform = %(platform)s AND page_id = %(page_id)s),
    (SELECT count(*) FROM dead_letters WHERE stream = %(stream)s AND closed_at IS NULL);

-- name: remove_stream_payloads
DELETE FROM dead_letter_payloads
WHERE dead_letter_id IN (SELECT dead_letter_id FROM dead_letters WHERE stream = %(stream)s);

-- name: remove_stream_dead_letters
DELETE FROM dead_letters WHERE stream = %(stream)s;

-- name: remove_stream_runs
DELETE FROM runs WHERE stream = %(stream)s;

-- name: remove_stream_gaps
DELETE FROM message_backlog WHERE stream = %(stream)s;

-- name: remove_stream_notes
DELETE FROM missed_conversations WHERE stream = %(stream)s;

-- name: remove_stream_webhook_events
DELETE FROM webhook_events WHERE stream = %(stream)s;

-- name: remove_stream_page
DELETE FROM pages WHERE platform = %(platform)s AND page_id = %(page_id)s;

-- name: remove_stream_contacts
DELETE FROM contacts WHERE platform = %(platform)s AND page_id = %(page_id)s;

-- name: remove_stream_conversations
DELETE FROM conversations WHERE platform = %(platform)s AND page_id = %(page_id)s;

-- name: remove_stream_interaction_events
DELETE FROM contact_interaction_events WHERE platform = %(platform)s AND page_id = %(page_id)s;
