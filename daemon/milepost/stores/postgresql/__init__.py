"""A PostgreSQL database, which many workers may share."""
