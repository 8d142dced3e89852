-- The change feed: see core/changes.py. A page ends at the number at which it is full. Streams are compared as a single
-- text, or a planner might read all rows of a page instead of those in the range of numbers.

-- name: last_number
-- The last number taken, whether committed or not, and whether this is a replica. Must be read before `numbers_in_use`.
SELECT last_value, pg_is_in_recovery() FROM change_seqs;

-- name: numbers_in_use
-- The lock keys of the transactions under way: for each the last number before its own, modulo 2^31. The statements
-- after this one see everything that was committed before it.
SELECT objid::bigint
FROM pg_locks
WHERE
    locktype = 'advisory' AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = hashtext(current_schema() || ' changes')::oid;

-- name: changes_up_to
-- The last number on a page of changes, and how many changes the page has.
SELECT max(change_seq), count(*)
FROM (
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM contacts
        WHERE
            %(contacts)s AND change_seq > %(after)s AND change_seq <= %(up_to)s
            AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
        ORDER BY change_seq
        LIMIT %(limit)s
    ) AS contacts
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM conversations
        WHERE
            %(conversations)s AND change_seq > %(after)s AND change_seq <= %(up_to)s
            AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
        ORDER BY change_seq
        LIMIT %(limit)s
    ) AS conversations
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM contact_interaction_events
        WHERE
            %(messages)s AND change_seq > %(after)s AND change_seq <= %(up_to)s
            AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
        ORDER BY change_seq
        LIMIT %(limit)s
    ) AS contact_interaction_events
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM deleted_rows
        WHERE
            change_seq > %(after)s AND change_seq <= %(up_to)s
            AND CASE kind
                WHEN 'contact' THEN %(contacts)s WHEN 'conversation' THEN %(conversations)s ELSE %(messages)s
            END
            AND CASE WHEN %(stream)s::text IS NULL THEN NOT moved ELSE platform || ':' || page_id = %(stream)s END
        ORDER BY change_seq
        LIMIT %(limit)s
    ) AS gone
    ORDER BY change_seq
    LIMIT %(limit)s
) AS page;

-- name: changed_contacts
SELECT
    platform, page_id, contact_id, name, username, instant_text(first_seen_at) AS first_seen_at,
    instant_text(last_interaction_at) AS last_interaction_at, instant_text(updated_at) AS updated_at, version,
    change_seq
FROM contacts
WHERE
    change_seq > %(after)s AND change_seq <= %(up_to)s
    AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
ORDER BY change_seq
LIMIT %(limit)s;

-- name: changed_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    instant_text(updated_time) AS updated_time, instant_text(first_synced_at) AS first_synced_at,
    instant_text(synced_at) AS synced_at, instant_text(deleted_at) AS deleted_at, messages_fingerprint, version,
    change_seq
FROM conversations
WHERE
    change_seq > %(after)s AND change_seq <= %(up_to)s
    AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
ORDER BY change_seq
LIMIT %(limit)s;

-- name: changed_messages
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text,
    attachments::text AS attachments, instant_text(occurred_at) AS occurred_at, instant_text(edited_at) AS edited_at,
    instant_text(deleted_at) AS deleted_at, reactions::text AS reactions, referral::text AS referral,
    instant_text(content_at) AS content_at, version, change_seq, history
FROM contact_interaction_events
WHERE
    change_seq > %(after)s AND change_seq <= %(up_to)s
    AND (%(stream)s::text IS NULL OR platform || ':' || page_id = %(stream)s)
ORDER BY change_seq
LIMIT %(limit)s;

-- name: deleted_rows
SELECT change_seq, kind, platform, page_id, id
FROM deleted_rows
WHERE
    change_seq > %(after)s AND change_seq <= %(up_to)s
    AND CASE kind
        WHEN 'contact' THEN %(contacts)s WHEN 'conversation' THEN %(conversations)s ELSE %(messages)s
    END
    AND CASE WHEN %(stream)s::text IS NULL THEN NOT moved ELSE platform || ':' || page_id = %(stream)s END
ORDER BY change_seq
LIMIT %(limit)s;
