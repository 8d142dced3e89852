"""Checkpoints and entries as words, schemas and live state: pure, like the core."""
