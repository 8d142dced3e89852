-- The source of all rows: a database serves one, so that real people and invented ones never meet. It is recorded
-- before the first batch, and `milepost store adopt` changes it. It is not a projection of the journal.

CREATE TABLE source (
    place INTEGER PRIMARY KEY CHECK (place = 1), -- one only
    kind TEXT NOT NULL,
    base_url TEXT NOT NULL -- empty for the embedded simulator, whose port changes with each start
) STRICT;
