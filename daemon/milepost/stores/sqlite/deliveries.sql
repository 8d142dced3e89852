-- The delivery places: see core/changes.py.

-- name: begin_delivery
INSERT INTO deliveries (destination, place, failures) VALUES (:destination, :place, 0)
ON CONFLICT (destination) DO NOTHING;

-- name: deliveries
SELECT
    destination, place, behind_since, delivered_at, paused_at, failing_since, failures, problem, retry_at, replays
FROM deliveries
ORDER BY destination;

-- name: delivery
SELECT
    destination, place, behind_since, delivered_at, paused_at, failing_since, failures, problem, retry_at, replays
FROM deliveries
WHERE destination = :destination;

-- name: record_delivery
UPDATE deliveries
SET
    place = :place, behind_since = :behind_since, delivered_at = :delivered_at, failing_since = :failing_since,
    problem = :problem,
    -- A delivery that was resumed meanwhile is due at once, however often it had failed before.
    failures = CASE WHEN failures = :failures_before THEN :failures ELSE min(:failures, 1) END,
    retry_at = CASE WHEN failures = :failures_before THEN :retry_at END
WHERE destination = :destination AND place = :before AND replays = :replays
RETURNING destination;

-- name: pause_delivery
UPDATE deliveries SET paused_at = coalesce(paused_at, :now) WHERE destination = :destination RETURNING destination;

-- name: resume_delivery
UPDATE deliveries
SET paused_at = NULL, retry_at = NULL, failures = 0
WHERE destination = :destination
RETURNING destination;

-- name: move_delivery
UPDATE deliveries
SET
    place = :place, behind_since = NULL, failing_since = NULL, failures = 0, problem = NULL, retry_at = NULL,
    replays = replays + 1
WHERE destination = :destination
RETURNING destination;
