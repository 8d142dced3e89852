-- Marks a database into which a copy is not finished: `milepost store copy` writes the row first, and removes it when
-- the copy is verified. While it is there, nothing else opens this database.

CREATE TABLE unfinished_copy (
    place bigint PRIMARY KEY CHECK (place = 1), -- one at a time
    source text NOT NULL,
    since timestamptz(3) NOT NULL
);
