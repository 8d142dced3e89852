"""Many workers on one PostgreSQL: who works which stream, and what the others have written."""
