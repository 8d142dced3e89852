-- The change feed: see core/changes.py. A page ends at the number at which it is full. Streams are compared as a single
-- text, or a planner might read all rows of a page instead of those in the range of numbers.

-- name: changes_up_to
-- The last number on a page of changes, and how many changes the page has.
SELECT max(change_seq), count(*)
FROM (
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM contacts
        WHERE
            :contacts AND change_seq > :after AND change_seq <= :up_to
            AND (:stream IS NULL OR platform || ':' || page_id = :stream)
        ORDER BY change_seq
        LIMIT :limit
    )
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM conversations
        WHERE
            :conversations AND change_seq > :after AND change_seq <= :up_to
            AND (:stream IS NULL OR platform || ':' || page_id = :stream)
        ORDER BY change_seq
        LIMIT :limit
    )
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM contact_interaction_events
        WHERE
            :messages AND change_seq > :after AND change_seq <= :up_to
            AND (:stream IS NULL OR platform || ':' || page_id = :stream)
        ORDER BY change_seq
        LIMIT :limit
    )
    UNION ALL
    SELECT change_seq
    FROM (
        SELECT change_seq
        FROM deleted_rows
        WHERE
            change_seq > :after AND change_seq <= :up_to
            AND CASE kind
                WHEN 'contact' THEN :contacts WHEN 'conversation' THEN :conversations ELSE :messages
            END
            AND CASE WHEN :stream IS NULL THEN NOT moved ELSE platform || ':' || page_id = :stream END
        ORDER BY change_seq
        LIMIT :limit
    )
    ORDER BY change_seq
    LIMIT :limit
);

-- name: changed_contacts
SELECT
    platform, page_id, contact_id, name, username, first_seen_at, last_interaction_at, updated_at, version,
    change_seq
FROM contacts
WHERE
    change_seq > :after AND change_seq <= :up_to
    AND (:stream IS NULL OR platform || ':' || page_id = :stream)
ORDER BY change_seq
LIMIT :limit;

-- name: changed_conversations
SELECT
    conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, can_reply,
    updated_time, first_synced_at, synced_at, deleted_at, messages_fingerprint, version, change_seq
FROM conversations
WHERE
    change_seq > :after AND change_seq <= :up_to
    AND (:stream IS NULL OR platform || ':' || page_id = :stream)
ORDER BY change_seq
LIMIT :limit;

-- name: changed_messages
SELECT
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, occurred_at,
    edited_at, deleted_at, reactions, referral, content_at, version, change_seq, history
FROM contact_interaction_events
WHERE
    change_seq > :after AND change_seq <= :up_to
    AND (:stream IS NULL OR platform || ':' || page_id = :stream)
ORDER BY change_seq
LIMIT :limit;

-- name: deleted_rows
SELECT change_seq, kind, platform, page_id, id
FROM deleted_rows
WHERE
    change_seq > :after AND change_seq <= :up_to
    AND CASE kind
        WHEN 'contact' THEN :contacts WHEN 'conversation' THEN :conversations ELSE :messages
    END
    AND CASE WHEN :stream IS NULL THEN NOT moved ELSE platform || ':' || page_id = :stream END
ORDER BY change_seq
LIMIT :limit;
