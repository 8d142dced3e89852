"""Logs: how lines are made, where they go, and what is kept out of them."""
