"""Server-sent events: the journal, sent to readers as it is written."""
