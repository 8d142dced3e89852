"""Everything in one file, for one process."""
