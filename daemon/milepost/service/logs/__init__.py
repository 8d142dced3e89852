"""Logs: what a line is, where it goes, and what never gets into one."""
