"""Server-sent events: the journal, told as it is written to whoever listens."""
