-- What it takes to follow an Instagram account that is linked to another page: its threads keep their ids, and their rows
-- go to the page that reads them.

-- Which page took rows of which, and when it last did. Erasing a person looks through all pages that are linked so.
CREATE TABLE page_moves (
    platform text COLLATE "C" NOT NULL,
    previous_page_id text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    moved_at timestamptz(3) NOT NULL,
    PRIMARY KEY (platform, previous_page_id, page_id)
);

-- For the messages of a conversation that moves, or that is looked at.
CREATE INDEX interaction_events_by_conversation ON contact_interaction_events (conversation_id, occurred_at);

-- A conversation is erased by its id, on whichever page it turns up.
CREATE INDEX forgotten_by_id ON forgotten (platform, kind, id);
