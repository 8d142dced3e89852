-- The source of all rows: a database serves one, so that real people and invented ones never meet. It is recorded
-- before the first batch, and `milepost store adopt` changes it. It is not a projection of the journal.

CREATE TABLE source (
    place bigint PRIMARY KEY CHECK (place = 1), -- one only
    kind text NOT NULL,
    base_url text NOT NULL -- empty for the embedded simulator, whose port changes with each start
);
