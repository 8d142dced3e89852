-- The links between pages from before moves were on record: until then a conversation stayed under its page, and only new
-- messages had the page that took it over. To find these links, all messages have to be read, so it is done once, here.
INSERT INTO page_moves (platform, previous_page_id, page_id, moved_at)
SELECT said.platform, conversations.page_id, said.page_id, max(said.occurred_at)
FROM contact_interaction_events AS said
JOIN conversations USING (conversation_id)
WHERE conversations.page_id <> said.page_id AND conversations.platform = said.platform
GROUP BY said.platform, conversations.page_id, said.page_id
ON CONFLICT (platform, previous_page_id, page_id) DO NOTHING;

-- A person who is erased may have reacted to messages of others: those are found without reading all messages.
CREATE INDEX interaction_events_with_reactions ON contact_interaction_events (platform, page_id) WHERE reactions IS NOT NULL;
