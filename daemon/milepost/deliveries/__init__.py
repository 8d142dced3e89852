"""Deliveries: changed rows pushed to HTTP endpoints, in order, each at least once."""
