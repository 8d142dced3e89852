-- Milepost's own queries on Procrastinate's tables.

-- name: lock_queue_schema
SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' migrations', 0));

-- name: has_queue_schema
SELECT to_regclass('procrastinate_jobs') IS NOT NULL;

-- name: try_lock_recovery
SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || ' recovery', 0));

-- name: is_worker
SELECT 1 FROM procrastinate_workers WHERE id = %s;

-- name: first_worker
SELECT min(id) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s);

-- name: workers_at_work
SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s);
