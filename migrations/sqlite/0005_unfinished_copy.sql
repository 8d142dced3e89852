-- That a copy of another database into this one is not finished: `milepost store copy` writes it first, and removes it
-- when the copy is verified. While it is here, nothing else opens this database.

CREATE TABLE unfinished_copy (
    place INTEGER PRIMARY KEY CHECK (place = 1), -- one at a time
    source TEXT NOT NULL,
    since TEXT NOT NULL
) STRICT;
