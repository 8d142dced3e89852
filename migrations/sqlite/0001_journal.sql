-- The journal: the append-only record of what happened, and the only truth.

CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    run_id TEXT,
    recorded_at TEXT NOT NULL,
    type TEXT NOT NULL,
    data TEXT NOT NULL,
    hash TEXT NOT NULL,
    -- One writer for each stream: the second to append version n is refused by this key.
    UNIQUE (stream, version)
) STRICT;

-- Not even INSERT OR REPLACE, which fires no other trigger, replaces an entry or leaves one out.
CREATE TRIGGER journal_refuses_gaps BEFORE INSERT ON journal
WHEN
    new.version <> 1 + coalesce((SELECT max(version) FROM journal WHERE stream = new.stream), 0)
    OR EXISTS (SELECT 1 FROM journal WHERE seq = new.seq)
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only: the next version of a stream follows its latest');
END;

CREATE TRIGGER journal_refuses_update BEFORE UPDATE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only: entries are never changed');
END;

CREATE TRIGGER journal_refuses_delete BEFORE DELETE ON journal
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only: entries are never deleted');
END;

-- Its projections, there to be queried: `milepost journal rebuild` drops them and writes them again, equal.

CREATE TABLE checkpoints (
    stream TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    mode TEXT,
    phase TEXT,
    cursor TEXT,
    watermark TEXT,
    last_success_at TEXT,
    last_full_sweep_at TEXT,
    open_dead_letters INTEGER NOT NULL,
    updated_at TEXT,
    -- The whole checkpoint as JSON, read at the start instead of folding the journal.
    state TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    mode TEXT,
    status TEXT NOT NULL,
    reason TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    batches INTEGER NOT NULL,
    inserted INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    unchanged INTEGER NOT NULL,
    dead_lettered INTEGER NOT NULL,
    contacts INTEGER NOT NULL,
    interaction_events INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    failed_batches INTEGER NOT NULL,
    problem TEXT
) STRICT;

CREATE TABLE dead_letters (
    dead_letter_id TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    stage TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    opened_at TEXT NOT NULL
) STRICT;

-- What a redrive needs and the journal must not hold, because it is personal data.
CREATE TABLE dead_letter_payloads (
    dead_letter_id TEXT PRIMARY KEY,
    payload TEXT NOT NULL
) STRICT;
