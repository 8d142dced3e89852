-- For the listings over HTTP: each is in the order of an index, so that a page costs the same however much is stored.

-- Run ids sort by the time of their start.
CREATE INDEX runs_by_stream ON runs (stream, run_id);

-- Open dead letters and closed ones are indexed apart: a listing of both merges the two.
DROP INDEX dead_letters_by_age;
CREATE INDEX dead_letters_open_by_age ON dead_letters (opened_at, dead_letter_id) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_closed_by_age ON dead_letters (opened_at, dead_letter_id) WHERE closed_at IS NOT NULL;
CREATE INDEX dead_letters_closed ON dead_letters (stream, opened_at, dead_letter_id) WHERE closed_at IS NOT NULL;
