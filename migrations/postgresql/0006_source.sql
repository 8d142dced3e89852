-- Where all that is in here comes from: a database serves one source, so that real people and invented ones never meet.
-- The row comes before the first batch, and `milepost store adopt` changes it. It is no projection of the journal.

CREATE TABLE source (
    place bigint PRIMARY KEY CHECK (place = 1), -- one only
    kind text NOT NULL,
    base_url text NOT NULL -- empty for the embedded simulator, whose port changes with each start
);
