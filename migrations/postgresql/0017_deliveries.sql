-- How far each destination of changed rows has confirmed them, and what keeps it from more. No row is kept here.
-- One worker at a time delivers to a destination: the one that holds it.

CREATE TABLE deliveries (
    destination text COLLATE "C" PRIMARY KEY,
    place bigint NOT NULL,
    behind_since timestamptz(3),
    delivered_at timestamptz(3),
    paused_at timestamptz(3), -- NULL: not paused
    failing_since timestamptz(3),
    failures bigint NOT NULL,
    problem text,
    retry_at timestamptz(3),
    replays bigint NOT NULL DEFAULT 0
);

CREATE TABLE delivery_holds (
    destination text COLLATE "C" PRIMARY KEY REFERENCES deliveries ON DELETE CASCADE,
    worker text NOT NULL,
    held_until timestamptz(3) NOT NULL -- by the clock of the server
);
