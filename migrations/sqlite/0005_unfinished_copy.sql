-- Marks a database into which a copy is not finished: `milepost store copy` writes the row first, and removes it when
-- the copy is verified. While it is there, nothing else opens this database.

CREATE TABLE unfinished_copy (
    place INTEGER PRIMARY KEY CHECK (place = 1), -- one at a time
    source TEXT NOT NULL,
    since TEXT NOT NULL
) STRICT;
