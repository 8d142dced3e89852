"""The daemon's outward side: HTTP, metrics, logs and notices."""
