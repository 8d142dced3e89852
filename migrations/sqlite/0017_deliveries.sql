-- How far each destination of changed rows has confirmed them, and what keeps it from more. No row is kept here.

CREATE TABLE deliveries (
    destination TEXT PRIMARY KEY,
    place INTEGER NOT NULL,
    behind_since TEXT,
    delivered_at TEXT,
    paused_at TEXT, -- NULL: not paused
    failing_since TEXT,
    failures INTEGER NOT NULL,
    problem TEXT,
    retry_at TEXT,
    replays INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
