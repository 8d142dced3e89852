"""Several workers on one PostgreSQL: decides which of them runs which stream, and reads what the others commit."""
