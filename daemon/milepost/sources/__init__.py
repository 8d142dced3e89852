"""Where conversations come from: the Graph API, and a simulator of it."""
