-- The journal: the append-only record of what happened, and the only truth.
-- Keys compare byte by byte, as in SQLite, whatever the collation of the database is.

CREATE TABLE journal (
    seq bigint PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    run_id text COLLATE "C",
    recorded_at timestamptz(3) NOT NULL,
    type text NOT NULL,
    -- json, not jsonb: the hash is of the text as it was written.
    data json NOT NULL,
    hash text NOT NULL,
    -- One writer for each stream: the second to append version n is refused by this key.
    UNIQUE (stream, version)
);

CREATE FUNCTION journal_refuses_gaps() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF new.version <> 1 + coalesce((SELECT max(version) FROM journal WHERE stream = new.stream), 0) THEN
        RAISE EXCEPTION 'the journal is append-only: the next version of a stream follows its latest'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'journal_stream_version_key';
    END IF;
    IF new.seq <> 1 + coalesce((SELECT max(seq) FROM journal), 0) THEN
        RAISE EXCEPTION 'the journal is append-only: the next seq follows the latest'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'journal_pkey';
    END IF;
    RETURN new;
END
$$;

CREATE TRIGGER journal_refuses_gaps BEFORE INSERT ON journal
FOR EACH ROW EXECUTE FUNCTION journal_refuses_gaps();

CREATE FUNCTION journal_refuses_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the journal is append-only: entries are never changed or deleted'
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER journal_refuses_update BEFORE UPDATE ON journal
FOR EACH ROW EXECUTE FUNCTION journal_refuses_change();

CREATE TRIGGER journal_refuses_delete BEFORE DELETE ON journal
FOR EACH ROW EXECUTE FUNCTION journal_refuses_change();

CREATE TRIGGER journal_refuses_truncate BEFORE TRUNCATE ON journal
FOR EACH STATEMENT EXECUTE FUNCTION journal_refuses_change();

-- Instants as the journal's hashes hold them: ISO 8601, UTC, milliseconds, `Z`.
CREATE FUNCTION instant_text(instant timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Its projections, there to be queried: `milepost journal rebuild` drops them and writes them again, equal.

CREATE TABLE checkpoints (
    stream text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    hash text NOT NULL,
    mode text,
    phase text,
    cursor text,
    watermark timestamptz(3),
    last_success_at timestamptz(3),
    last_full_sweep_at timestamptz(3),
    open_dead_letters bigint NOT NULL,
    updated_at timestamptz(3),
    -- The whole checkpoint as JSON, read at the start instead of folding the journal.
    state json NOT NULL
);

CREATE TABLE runs (
    run_id text COLLATE "C" PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    mode text,
    status text NOT NULL,
    reason text,
    started_at timestamptz(3) NOT NULL,
    ended_at timestamptz(3),
    batches bigint NOT NULL,
    inserted bigint NOT NULL,
    updated bigint NOT NULL,
    unchanged bigint NOT NULL,
    dead_lettered bigint NOT NULL,
    contacts bigint NOT NULL,
    interaction_events bigint NOT NULL,
    retries bigint NOT NULL,
    failed_batches bigint NOT NULL,
    problem json
);

CREATE TABLE dead_letters (
    dead_letter_id text COLLATE "C" PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    stage text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    opened_at timestamptz(3) NOT NULL
);

-- What a redrive needs and the journal must not hold, because it is personal data.
CREATE TABLE dead_letter_payloads (
    dead_letter_id text COLLATE "C" PRIMARY KEY,
    payload text NOT NULL
);
