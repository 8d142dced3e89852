-- Indexes that cost every first copy more than they are worth.

-- A first copy reads the newest conversation first. Into an ascending index, each goes before all others of its page:
-- SQLite splits a leaf in half each time, and half of the index stays empty. Into this one, they are appended.
DROP INDEX conversations_by_updated_time;
CREATE INDEX conversations_by_updated_time ON conversations (platform, page_id, updated_time DESC);

-- Only erasing a person and finding out an id of our own ask for a contact's conversations: once in a year, by the page.
DROP INDEX conversations_by_contact;
