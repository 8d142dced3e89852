-- The delivery places: see core/changes.py.

-- name: begin_delivery
INSERT INTO deliveries (destination, place, failures) VALUES (%(destination)s, %(place)s, 0)
ON CONFLICT (destination) DO NOTHING;

-- name: deliveries
SELECT
    destination, place, instant_text(behind_since), instant_text(delivered_at), instant_text(paused_at),
    instant_text(failing_since), failures, problem, instant_text(retry_at), replays
FROM deliveries
ORDER BY destination;

-- name: hold_delivery
INSERT INTO delivery_holds (destination, worker, held_until)
SELECT destination, %(worker)s, clock_timestamp() + make_interval(secs => %(seconds)s)
FROM deliveries
WHERE destination = %(destination)s
ON CONFLICT (destination) DO UPDATE
SET worker = excluded.worker, held_until = excluded.held_until
WHERE delivery_holds.worker = excluded.worker OR delivery_holds.held_until < clock_timestamp()
RETURNING destination;

-- name: delivery
SELECT
    destination, place, instant_text(behind_since), instant_text(delivered_at), instant_text(paused_at),
    instant_text(failing_since), failures, problem, instant_text(retry_at), replays
FROM deliveries
WHERE destination = %(destination)s;

-- name: record_delivery
WITH held AS (
    UPDATE delivery_holds
    SET held_until = clock_timestamp() + make_interval(secs => %(seconds)s)
    WHERE destination = %(destination)s AND worker = %(worker)s
    RETURNING destination
)
UPDATE deliveries
SET
    place = %(place)s, behind_since = %(behind_since)s, delivered_at = %(delivered_at)s,
    failing_since = %(failing_since)s, problem = %(problem)s,
    -- A delivery that was resumed meanwhile is due at once, however often it had failed before.
    failures = CASE WHEN failures = %(failures_before)s THEN %(failures)s ELSE least(%(failures)s, 1) END,
    retry_at = CASE WHEN failures = %(failures_before)s THEN %(retry_at)s::timestamptz END
FROM held
WHERE deliveries.destination = held.destination AND place = %(before)s AND replays = %(replays)s
RETURNING deliveries.destination;

-- name: release_deliveries
DELETE FROM delivery_holds WHERE worker = %(worker)s;

-- name: pause_delivery
UPDATE deliveries
SET paused_at = coalesce(paused_at, %(now)s)
WHERE destination = %(destination)s
RETURNING destination;

-- name: resume_delivery
UPDATE deliveries
SET paused_at = NULL, retry_at = NULL, failures = 0
WHERE destination = %(destination)s
RETURNING destination;

-- name: move_delivery
UPDATE deliveries
SET
    place = %(place)s, behind_since = NULL, failing_since = NULL, failures = 0, problem = NULL, retry_at = NULL,
    replays = replays + 1
WHERE destination = %(destination)s
RETURNING destination;
