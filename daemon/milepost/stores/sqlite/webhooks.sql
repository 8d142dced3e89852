-- The webhook events that wait to be processed: see core/webhooks.py.

-- name: add_webhook_event
-- No text of an unsent message is kept, not even from an edit that arrives late.
INSERT INTO webhook_events (
    event_key, stream, kind, message_id, contact_id, occurred_at, received_at, due_at, claims, actor, detail
)
SELECT
    :event_key, :stream, :kind, :message_id, :contact_id, :occurred_at, :now, :now, 0, :actor,
    CASE
        WHEN :kind = 'edit' AND EXISTS (
            SELECT 1 FROM webhook_events WHERE message_id = :message_id AND stream = :stream AND kind = 'unsend'
        ) THEN NULL
        ELSE :detail
    END
WHERE
    NOT EXISTS (
        SELECT 1
        FROM forgotten
        WHERE platform = :platform AND page_id = :page_id AND kind = 'contact' AND id = :contact_id
    )
ON CONFLICT (event_key) DO NOTHING;

-- name: settle_webhook_events
-- No list of messages ever shows one that was unsent before Milepost read it.
UPDATE webhook_events
SET due_at = NULL
WHERE
    due_at < :due_before AND kind = 'message'
    AND (
        EXISTS (SELECT 1 FROM contact_interaction_events WHERE event_id = message_id)
        OR EXISTS (
            SELECT 1 FROM webhook_events AS unsent
            WHERE unsent.message_id = webhook_events.message_id AND unsent.kind = 'unsend'
        )
    );

-- name: claim_webhook_events
-- An event that is due after :ahead was received by a clock that was ahead, so it is due now.
UPDATE webhook_events
SET
    due_at = CASE WHEN kind <> 'message' THEN NULL WHEN claims = 0 THEN :soon WHEN claims = 1 THEN :later ELSE :never END,
    claims = claims + 1
WHERE
    due_at < :never AND (due_at <= :now OR due_at > :ahead)
    AND kind IN ('message', 'revision')
RETURNING stream;

-- name: moved_streams
-- The streams whose pages took over rows of these streams.
SELECT platform || ':' || page_id FROM page_moves WHERE platform || ':' || previous_page_id IN (SELECT value FROM json_each(?));

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
                    platform = substr(stream, 1, instr(stream, ':') - 1)
                    AND page_id = substr(stream, instr(stream, ':') + 1)
                    AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                    AND message.occurred_at >= webhook_events.occurred_at
                ORDER BY message.occurred_at, event_id
                LIMIT 1
            )
            ELSE (
                SELECT event_id FROM contact_interaction_events AS message
                WHERE
                    platform = substr(stream, 1, instr(stream, ':') - 1)
                    AND page_id = substr(stream, instr(stream, ':') + 1)
                    AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                    AND message.occurred_at <= webhook_events.occurred_at
                ORDER BY message.occurred_at DESC, event_id DESC
                LIMIT 1
            )
        END,
        ''
    )
WHERE
    message_id = '' AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
    AND CASE kind
        WHEN 'referral' THEN EXISTS (
            SELECT 1 FROM contact_interaction_events AS message
            WHERE
                platform = substr(stream, 1, instr(stream, ':') - 1)
                AND page_id = substr(stream, instr(stream, ':') + 1)
                AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                AND message.occurred_at >= webhook_events.occurred_at
        )
        ELSE EXISTS (
            SELECT 1 FROM contact_interaction_events AS message
            WHERE
                platform = substr(stream, 1, instr(stream, ':') - 1)
                AND page_id = substr(stream, instr(stream, ':') + 1)
                AND message.contact_id = webhook_events.contact_id AND direction = 'in'
                AND message.occurred_at <= webhook_events.occurred_at
        )
    END;

-- name: follow_moves
-- A fact moves to the stream that its message is stored under, as when the account was linked to another page.
UPDATE webhook_events INDEXED BY webhook_events_of_facts
SET stream = (SELECT platform || ':' || page_id FROM contact_interaction_events WHERE event_id = message_id)
WHERE
    due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
    AND EXISTS (
        SELECT 1 FROM contact_interaction_events
        WHERE event_id = message_id AND instr(stream, platform || ':') = 1 AND platform || ':' || page_id <> stream
    );

-- name: streams_with_unsent
-- The streams with messages that `take_unsent` has not taken yet.
SELECT DISTINCT stream
FROM webhook_events INDEXED BY webhook_events_of_facts
WHERE kind = 'unsend' AND claims = 0 AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision');

-- name: take_unsent
-- Messages of a stream reported as unsent since the last run of this statement.
UPDATE webhook_events INDEXED BY webhook_events_of_facts
SET claims = 1
WHERE
    stream = ? AND kind = 'unsend' AND claims = 0
    AND due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
RETURNING message_id;

-- name: erase_edits
UPDATE webhook_events
SET detail = NULL
WHERE kind = 'edit' AND detail IS NOT NULL AND message_id IN (SELECT value FROM json_each(?));

-- name: rewrite_payload
UPDATE dead_letter_payloads SET payload = :payload WHERE dead_letter_id = :dead_letter_id;

-- name: streams_with_facts
SELECT DISTINCT stream
FROM webhook_events
WHERE
    due_at IS NOT NULL AND kind NOT IN ('message', 'revision')
    AND EXISTS (
        SELECT 1 FROM contact_interaction_events
        WHERE event_id = message_id AND platform || ':' || page_id = stream
    );

-- name: told_messages
SELECT message_id FROM webhook_events WHERE message_id IN (SELECT value FROM json_each(?)) AND kind = 'message';

-- name: instagram_streams
-- The streams under which messages or contacts are stored. Contacts are looked up page by page: their key begins with
-- the page.
SELECT platform || ':' || page_id
FROM contact_interaction_events
WHERE event_id IN (SELECT value FROM json_each(:message_ids)) AND platform = 'instagram'
UNION
SELECT contacts.platform || ':' || contacts.page_id
FROM pages
JOIN contacts ON contacts.platform = pages.platform AND contacts.page_id = pages.page_id
WHERE pages.platform = 'instagram' AND contact_id IN (SELECT value FROM json_each(:contact_ids));

-- name: delete_old_webhook_events
DELETE FROM webhook_events WHERE received_at < :received_before RETURNING kind, due_at;

-- name: delete_webhook_events_beyond
DELETE FROM webhook_events
WHERE event_key IN (SELECT event_key FROM webhook_events ORDER BY received_at DESC LIMIT -1 OFFSET :max_events)
RETURNING kind, due_at;
