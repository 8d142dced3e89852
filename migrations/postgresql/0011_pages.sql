-- For whoever reads the tables, say a CRM: what a page is called, and a contact's messages without a scan.

-- Written with every batch that is recorded, so that each row of the other tables has its page here.
CREATE TABLE pages (
    platform text COLLATE "C" NOT NULL,
    page_id text COLLATE "C" NOT NULL,
    name text, -- as configured or discovered, otherwise as the page calls itself in its threads
    username text, -- of its Instagram account
    first_seen_at timestamptz(3) NOT NULL,
    last_seen_at timestamptz(3) NOT NULL,
    PRIMARY KEY (platform, page_id)
);

INSERT INTO pages (platform, page_id, first_seen_at, last_seen_at)
SELECT platform, page_id, min(first_synced_at), max(synced_at)
FROM conversations
GROUP BY platform, page_id;

-- By the contact alone: its id says nearly everything, and a longer key would cost more with every message.
CREATE INDEX interaction_events_by_contact ON contact_interaction_events (contact_id, occurred_at);
CREATE INDEX conversations_by_contact ON conversations (contact_id);
