"""Turns checkpoints and entries into words, schemas and the live view: pure, like the core."""
