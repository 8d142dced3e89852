"""Several workers on one PostgreSQL: which of them runs which stream, and what the others have written."""
