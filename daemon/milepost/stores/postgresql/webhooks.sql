-- The webhook events that wait to be processed: see core/webhooks.py.

-- name: await_erasures
-- In a statement of its own, so that the next one sees what was committed meanwhile.
SELECT pg_advisory_xact_lock_shared(hashtextextended(current_schema() || ' webhook events', 0));

-- name: add_webhook_events
-- No text of an unsent message is kept, not even from an edit that arrives late. OFFSET 0 makes the planner look for each
-- message by its key instead of reading all events; with a stream to compare as it is, it may read all of the stream.
INSERT INTO webhook_events (
    event_key, stream, kind, message_id, contact_id, occurred_at, received_at, due_at, claims, actor, detail
)
SELECT
    event_key, platform || ':' || page_id, kind, message_id, contact_id, occurred_at, %(now)s, %(now)s, 0, actor,
    CASE
        WHEN kind = 'edit' AND EXISTS (
            SELECT 1 FROM webhook_events AS unsent
            WHERE
                unsent.message_id = row.message_id AND unsent.stream || '' = row.platform || ':' || row.page_id
                AND unsent.kind = 'unsend'
            OFFSET 0
        ) THEN NULL
        ELSE detail
    END
FROM
    json_to_recordset(%(rows)s) AS row (
        event_key text, platform text, page_id text, kind text, message_id text, contact_id text,
        occurred_at timestamptz, actor text, detail text
    )
WHERE
    NOT EXISTS (
        SELECT 1
        FROM forgotten
        WHERE
            forgotten.platform = row.platform AND forgotten.page_id = row.page_id
            AND forgotten.kind = 'contact' AND id = row.contact_id
    )
ORDER BY event_key
ON CONFLICT (event_key) DO NOTHING
RETURNING event_key;

-- name: settle_webhook_events
-- No list of messages ever shows one that was unsent before Milepost read it.
-- OFFSET 0 makes the planner look up each message by its key instead of reading all messages for a join.
UPDATE webhook_events
SET due_at = NULL
WHERE
    event_key IN (
        SELECT event_key
        FROM webhook_events
        WHERE
            due_at < %(due_before)s AND kind = 'message'
            AND (
                EXISTS (SELECT 1 FROM contact_interaction_events WHERE event_id = message_id OFFSET 0)
                OR EXISTS (
                    SELECT 1 FROM webhook_events AS unsent
                    WHERE unsent.message_id = webhook_events.message_id AND unsent.kind = 'unsend'
                    OFFSET 0
                )
            )
        ORDER BY event_key
        FOR UPDATE SKIP LOCKED
    );

-- name: claim_webhook_events
-- Skips events that another worker is claiming at this moment. An event that is due after `ahead` was received by a
-- clock that was ahead, so it is due now. To a planner without statistics, only a range with two ends seems to be small.
UPDATE webhook_events
SET
    due_at = CASE
        WHEN kind <> 'message' THEN NULL WHEN claims = 0 THEN %(soon)s WHEN claims = 1 THEN %(later)s ELSE %(never)s
    END::timestamptz,
    claims = claims + 1
WHERE
    event_key IN (
        SELECT event_key
        FROM webhook_events
        WHERE
            due_at > '-infinity' AND due_at < %(never)s AND (due_at <= %(now)s OR due_at > %(ahead)s)
            AND kind IN ('message', 'revision')
        ORDER BY event_key
        FOR UPDATE SKIP LOCKED
    )
RETURNING stream;

-- name: moved_streams
-- The streams whose pages took over rows of these streams.
SELECT platform || ':' || page_id FROM page_moves WHERE platform || ':' || previous_page_id = ANY (%s::text[]);

-- name: attach_facts
-- Facts that name no message: a referral is about the contact's next message, a read receipt about the last before it.
-- Those whose message is not stored yet are not written: they may wait for days.
UPDATE webhook_events
SET
    message_id = coalesce(
        CASE kind
            WHEN 'referral' THEN (
                SELECT event_id FROM contact_interaction_events AS message
                WHERE
                    platform = split_part(stream, ':', 1) AND page_id = substr(stream, strpos(stream, ':') + 1)
                    AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                    AND message.occurred_at >= webhook_events.occurred_at
                ORDER BY message.occurred_at, event_id
                LIMIT 1
            )
            ELSE (
                SELECT event_id FROM contact_interaction_events AS message
                WHERE
                    platform = split_part(stream, ':', 1) AND page_id = substr(stream, strpos(stream, ':') + 1)
                    AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                    AND message.occurred_at <= webhook_events.occurred_at
                ORDER BY message.occurred_at DESC, event_id DESC
                LIMIT 1
            )
        END,
        ''
    )
WHERE
    event_key IN (
        SELECT event_key
        FROM webhook_events
        WHERE
            message_id = '' AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
            AND CASE kind
                WHEN 'referral' THEN EXISTS (
                    SELECT 1 FROM contact_interaction_events AS message
                    WHERE
                        platform = split_part(stream, ':', 1) AND page_id = substr(stream, strpos(stream, ':') + 1)
                        AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                        AND message.occurred_at >= webhook_events.occurred_at
                    OFFSET 0
                )
                ELSE EXISTS (
                    SELECT 1 FROM contact_interaction_events AS message
                    WHERE
                        platform = split_part(stream, ':', 1) AND page_id = substr(stream, strpos(stream, ':') + 1)
                        AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                        AND message.occurred_at <= webhook_events.occurred_at
                    OFFSET 0
                )
            END
        ORDER BY event_key
        FOR UPDATE SKIP LOCKED
    );

-- name: follow_moves
-- A fact moves to the stream that its message is stored under, as when the account was linked to another page. Here and
-- below, the range of streams leaves out none, but makes a planner without statistics use the index of the facts.
UPDATE webhook_events
SET stream = (SELECT platform || ':' || page_id FROM contact_interaction_events WHERE event_id = message_id)
WHERE
    event_key IN (
        SELECT event_key
        FROM webhook_events
        WHERE
            stream > '' AND stream < '~' AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
            AND EXISTS (
                SELECT 1 FROM contact_interaction_events
                WHERE event_id = message_id AND starts_with(stream, platform || ':') AND platform || ':' || page_id <> stream
                OFFSET 0
            )
        ORDER BY event_key
        FOR UPDATE SKIP LOCKED
    );

-- name: streams_with_unsent
-- The streams with messages that `take_unsent` has not taken yet.
SELECT DISTINCT stream
FROM webhook_events
WHERE
    stream > '' AND stream < '~' AND kind = 'unsend' AND claims = 0
    AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision');

-- name: take_unsent
-- Messages of a stream reported as unsent since the last run of this statement. No commit to it may be under way: it
-- would have looked for unsent messages before.
UPDATE webhook_events
SET claims = 1
WHERE
    event_key IN (
        SELECT event_key
        FROM webhook_events
        WHERE
            stream = %s AND kind = 'unsend' AND claims = 0
            AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
        ORDER BY event_key
        FOR UPDATE SKIP LOCKED
    )
RETURNING message_id;

-- name: erase_edits
UPDATE webhook_events
SET detail = NULL
WHERE kind = 'edit' AND detail IS NOT NULL AND message_id = ANY (%s::text[]);

-- name: rewrite_payload
UPDATE dead_letter_payloads SET payload = %(payload)s WHERE dead_letter_id = %(dead_letter_id)s;

-- name: streams_with_facts
SELECT DISTINCT stream
FROM webhook_events
WHERE
    stream > '' AND stream < '~' AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
    AND EXISTS (
        SELECT 1 FROM contact_interaction_events
        WHERE event_id = message_id AND platform || ':' || page_id = stream
        OFFSET 0
    );

-- name: told_messages
SELECT message_id FROM webhook_events WHERE message_id = ANY (%s::text[]) AND kind = 'message';

-- name: instagram_streams
-- The streams under which messages or contacts are stored. Contacts are looked up page by page: their key begins with
-- the page.
SELECT platform || ':' || page_id
FROM contact_interaction_events
WHERE event_id = ANY (%(message_ids)s::text[]) AND platform = 'instagram'
UNION
SELECT contacts.platform || ':' || contacts.page_id
FROM pages
JOIN contacts ON contacts.platform = pages.platform AND contacts.page_id = pages.page_id
WHERE pages.platform = 'instagram' AND contact_id = ANY (%(contact_ids)s::text[]);

-- name: delete_old_webhook_events
DELETE FROM webhook_events
WHERE received_at > '-infinity' AND received_at < %(received_before)s
RETURNING kind, due_at;

-- name: delete_webhook_events_beyond
DELETE FROM webhook_events
WHERE event_key IN (SELECT event_key FROM webhook_events ORDER BY received_at DESC OFFSET %(max_events)s)
RETURNING kind, due_at;
